"""Embedded word problems: a chain of small calculations told as a story, to train on from nothing in minutes.

    Eva has 10 apples. Each becomes 2. She gives away 6. She buys 3 more. How many apples now?
    <<10*2=20>> <<20-6=14>> <<14+3=17>>    17

A problem is a start and 3 to 5 operations, each on the running value with a new number. Names, things and phrasings are
drawn anew each time; what a problem *is* is its chain, and the chain alone decides which split it belongs to. So no
chain of the test set was ever trained on, in any wording.
"""

import dataclasses
import hashlib
import random
from collections.abc import Sequence

from colar_jax.data.problems import Problem
from colar_jax.data.reflections import reflecting
from colar_jax.errors import UserError

# Every sentence begins with a word, not a number, so that a tokenizer without spaces can write it back exactly: in
# "He buys 3. 8 more arrive." the full stop would be a decimal point.
NAMES = {"Tom": "He", "Ann": "She", "Ben": "He", "Eva": "She", "Max": "He", "Mia": "She", "Sam": "He", "Zoe": "She"}
THINGS = ("apples", "books", "coins", "eggs", "keys", "nuts", "pens", "shells", "stamps", "toys")
START = "{name} has {n} {things}."
END = "How many {things} now?"
# Sentences of a chain that are no steps, in words of the questions.
FILLERS = ("How many {things} now?", "{name} has {things}.", "Then more {things} arrive.")
PHRASES = {
    "+": ("{He} buys {n} more.", "Then {he} finds {n}.", "Then {n} more arrive."),
    "-": ("{He} gives away {n}.", "Then {he} loses {n}.", "Then {n} of them break."),
    "*": ("Each becomes {n}.", "They grow {n} times."),
    "/": ("{He} keeps one in {n}.", "They shrink {n} times."),
}

# Multiplication and division by these two and what lies between: tables that a tiny model can learn.
SMALLEST_FACTOR, LARGEST_FACTOR = 2, 5

# What a calculation such as <<10*3=30>> has of them: brackets, three numbers, an operator and an equals sign.
CALCULATION_TOKENS = 7

# Of ten chains one is for validation and one for testing; the hash of a chain says which.
NUM_BUCKETS = 10
SPLIT_OF_BUCKET = dict.fromkeys(range(8), "train") | {8: "val", 9: "test"}

# After so many draws in a row without a new chain there is, in effect, none left.
MAX_FAILURES = 10_000

# (start, ((operator, operand), ...))
Operations = tuple[int, tuple[tuple[str, int], ...]]


@dataclasses.dataclass(frozen=True)
class ChainKind:
    """What chains of operations are drawn from.

    Attributes:
        min_steps, max_steps: a problem has a number of operations between the two, all equally likely.
        max_number: every number in a problem is between 1 and this.
        max_change: the largest number that is added or subtracted. It sets how many sums there are to learn by heart:
            about 4,000 at 20, about 10,000 at 99.
        max_repeats: how often, at most, the steps of a problem end on its last one said again; each number up to it is
            equally likely. Chains of thought that people write are redundant; here by as much as one likes.
        max_fillers: how many sentences that are no steps, at most, stand between the steps, before them or after; each
            number up to it is equally likely.
        step_tokens: if not 0, every step and filler ends with line breaks that fill it up to so many tokens, and the
            last one of a chain as well. Where speeds divide it all steps end alike, so that the size of the last group
            does not give the chain's end away: whether to go on is decided where it is asked. At least 8.
        max_reflections: if not 0, a chain says its answer ("So 12.") and then works it out again up to so many times
            ("Wait, check: ..."), each number equally likely; every second chain also doubts one of its first steps.
        slip_percent: of so many chains in 100 the first attempt has a wrong result, and a reflection the right one.
    """

    min_steps: int = 3
    max_steps: int = 5
    max_number: int = 99
    max_change: int = 20
    max_repeats: int = 0
    max_fillers: int = 0
    max_reflections: int = 0
    slip_percent: int = 0
    step_tokens: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in dataclasses.asdict(self).items())


def generate_problems(split: str, count: int, *, seed: int = 0, **kind: int) -> list[Problem]:
    """The first `count` problems of a split, no chain twice; the same ones on every machine.

    A longer list begins with the shorter one.

    Args:
        split: "train", "val" or "test". No chain is in two of them, whatever the other arguments are.
        count: how many.
        seed: another seed gives another list from the same split: train's lists may share chains with each other.
        kind: fields of `ChainKind`.

    Raises:
        UserError: an argument is out of range, or the split has fewer than `count` different chains.
    """
    settings = ChainKind(**kind)
    if split not in SPLIT_OF_BUCKET.values():
        raise UserError(f"arithmetic has no split {split!r}: name 'train', 'val' or 'test'")
    if count < 1:
        raise UserError(f"arithmetic cannot make count={count} problems: ask for at least 1")
    steps = settings.min_steps, settings.max_steps
    is_possible = 1 <= steps[0] <= steps[1] and settings.max_number >= 2 and settings.max_change >= 1
    if not is_possible or settings.max_repeats < 0 or settings.max_fillers < 0:
        raise UserError(
            f"arithmetic with {settings}: 1 <= min_steps <= max_steps, max_number >= 2, max_change >= 1, max_repeats "
            ">= 0 and max_fillers >= 0 are needed"
        )
    if settings.step_tokens and settings.step_tokens < CALCULATION_TOKENS + 1:
        raise UserError(
            f"arithmetic with {settings}: a step has {CALCULATION_TOKENS} tokens and a line break, so step_tokens is 0 "
            f"or at least {CALCULATION_TOKENS + 1}"
        )
    if settings.step_tokens and settings.max_number > 99:
        raise UserError(
            f"arithmetic with {settings}: numbers from 100 on are several tokens, so steps cannot be made of as many; "
            "take max_number=99 or less with step_tokens"
        )
    _check_reflections(settings)
    order = f"{split}/{seed}/{steps[0]}/{steps[1]}/{settings.max_number}/{settings.max_change}"
    # Repeats and fillers have draws of their own: the problems are the same ones with and without.
    rng, repeats, fillers, doubts = (random.Random(f"{order}{of}") for of in ("", "/repeats", "/fillers", "/doubts"))
    seen: set[Operations] = set()
    problems: list[Problem] = []
    failures = 0
    while len(problems) < count:
        chain = _draw_chain(rng, rng.randint(*steps), settings.max_number, settings.max_change)
        if chain in seen or split_of(chain) != split:
            failures += 1
            if failures == MAX_FAILURES:
                raise UserError(
                    f"arithmetic with {settings} has no count={count} different problems for {split!r}, only about "
                    f"{len(problems)}: lower count, or raise max_steps or max_number"
                )
            continue
        failures = 0
        seen.add(chain)
        told = _tell(rng, chain)
        lines = [*told.steps, *told.steps[-1:] * repeats.randint(0, settings.max_repeats)]
        if settings.max_fillers:
            _put_fillers_between(lines, fillers, settings.max_fillers)
        if settings.max_reflections:
            lines = reflecting(lines, doubts, settings.max_reflections, settings.slip_percent, settings.max_number)
        needed = _filled_up(told.steps, settings.step_tokens)
        problems.append(dataclasses.replace(told, steps=_filled_up(lines, settings.step_tokens), needed_steps=needed))
    return problems


def _check_reflections(settings: ChainKind) -> None:
    if not 0 <= settings.slip_percent <= 100 or settings.max_reflections < 0:
        raise UserError(f"arithmetic with {settings}: max_reflections >= 0 and 0 <= slip_percent <= 100 are needed")
    if settings.slip_percent and not settings.max_reflections:
        raise UserError(f"arithmetic with {settings}: a slip is put right in a reflection: set max_reflections")
    if settings.max_reflections and (settings.step_tokens or settings.max_fillers):
        raise UserError(f"arithmetic with {settings}: step_tokens and max_fillers are for chains without reflections")


def split_of(chain: Operations) -> str:
    """The split that a chain belongs to, by a hash that is the same on every machine and Python version."""
    start, operations = chain
    text = str(start) + "".join(f"{operator}{operand}" for operator, operand in operations)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return SPLIT_OF_BUCKET[int.from_bytes(digest, "big") % NUM_BUCKETS]


def calculate(value: int, operator: str, operand: int) -> int:
    """One calculation; a division is exact because only exact ones are drawn."""
    match operator:
        case "+":
            return value + operand
        case "-":
            return value - operand
        case "*":
            return value * operand
        case "/":
            return value // operand
    raise UserError(f"operator {operator!r} is not one of + - * /")


def vocabulary() -> tuple[str, ...]:
    """Every word that a question may contain, numbers and punctuation (full stop, question mark) aside, sorted."""
    pronouns = {form for pronoun in NAMES.values() for form in (pronoun, pronoun.lower())}
    templates = (START, END, *(phrase for phrases in PHRASES.values() for phrase in phrases))
    words = {word.strip(".?") for template in templates for word in template.split() if "{" not in word}
    return tuple(sorted({*words, *NAMES, *THINGS, *pronouns}))


def _draw_chain(rng: random.Random, num_steps: int, max_number: int, max_change: int) -> Operations:
    start = value = rng.randint(1, max_number)
    operations = []
    for _ in range(num_steps):
        operator, operand = _draw_operation(rng, value, max_number, max_change)
        operations.append((operator, operand))
        value = calculate(value, operator, operand)
    return start, tuple(operations)


def _draw_operation(rng: random.Random, value: int, max_number: int, max_change: int) -> tuple[str, int]:
    """An operator that keeps the value in 1..max_number, each such one equally likely, and one of its operands."""
    divisors = [n for n in range(SMALLEST_FACTOR, LARGEST_FACTOR + 1) if value % n == 0 and value > n]
    largest_factor = min(LARGEST_FACTOR, max_number // value)
    possible = []
    if value < max_number:
        possible.append("+")
    if value > 1:
        possible.append("-")
    if largest_factor >= SMALLEST_FACTOR:
        possible.append("*")
    if divisors:
        possible.append("/")
    operator = rng.choice(possible)
    match operator:
        case "+":
            return operator, rng.randint(1, min(max_change, max_number - value))
        case "-":
            return operator, rng.randint(1, min(max_change, value - 1))
        case "*":
            return operator, rng.randint(SMALLEST_FACTOR, largest_factor)
    return operator, rng.choice(divisors)


def _filled_up(lines: Sequence[str], step_tokens: int) -> tuple[str, ...]:
    """Steps and fillers with line breaks that make each `step_tokens` long, the one before the next with it."""
    if not step_tokens:
        return tuple(lines)
    filled = [line + "\n" * (step_tokens - 1 - _num_tokens(line)) for line in lines]
    return (*filled[:-1], filled[-1] + "\n")  # nothing joins the last one to a next


def _num_tokens(line: str) -> int:
    return CALCULATION_TOKENS if line.startswith("<<") else len(line.split()) + 1  # the sign at a sentence's end


def _put_fillers_between(lines: list[str], rng: random.Random, at_most: int) -> None:
    for _ in range(rng.randint(0, at_most)):
        words = {"name": rng.choice(tuple(NAMES)), "things": rng.choice(THINGS)}
        lines.insert(rng.randint(0, len(lines)), rng.choice(FILLERS).format(**words))


def _tell(rng: random.Random, chain: Operations) -> Problem:
    name, things = rng.choice(tuple(NAMES)), rng.choice(THINGS)
    start, operations = chain
    words = {"name": name, "things": things, "He": NAMES[name], "he": NAMES[name].lower()}
    sentences, steps, value = [START.format(n=start, **words)], [], start
    for operator, operand in operations:
        sentences.append(rng.choice(PHRASES[operator]).format(n=operand, **words))
        result = calculate(value, operator, operand)
        steps.append(f"<<{value}{operator}{operand}={result}>>")
        value = result
    sentences.append(END.format(**words))
    return Problem(" ".join(sentences), tuple(steps), str(value))
