"""Embedded word problems: a chain of small calculations told as a story, to train on from nothing in minutes.

    Tom has 24 apples. He buys 7 more. They shrink by 31... How many apples now?
    <<24+7=31>>  <<31-5=26>>  ...

A problem is a start and 3 to 5 operations, each on the running value with a new number. Names, things and phrasings are
told anew each time; what a problem *is* is its chain, and the chain alone decides which split it belongs to. So no chain
of the test set was ever trained on, in any wording.
"""

import hashlib
import random

from colar_jax.data.problems import Problem

NAMES = {"Tom": "He", "Ann": "She", "Ben": "He", "Eva": "She", "Max": "He", "Mia": "She", "Sam": "He", "Zoe": "She"}
THINGS = ("apples", "books", "coins", "eggs", "keys", "nuts", "pens", "shells", "stamps", "toys")
START = "{name} has {n} {things}."
END = "How many {things} now?"
PHRASES = {
    "+": ("{They} buys {n} more.", "Then {they} finds {n}.", "{n} more arrive."),
    "-": ("{They} gives away {n}.", "Then {they} loses {n}.", "{n} of them break."),
    "*": ("They grow {n} times.", "Then {they} has {n} times that."),
    "/": ("They shrink {n} times.", "Then {they} keeps one part of {n}."),
}
LARGEST_FACTOR = 9

# Of ten chains one is for validation and one for testing.
_SPLIT_OF_BUCKET = {8: "val", 9: "test"}

# (start, ((operator, operand), ...))
Chain = tuple[int, tuple[tuple[str, int], ...]]


def generate_problems(
    split: str, count: int, *, seed: int = 0, min_steps: int = 3, max_steps: int = 5, max_number: int = 99
) -> list[Problem]:
    """`count` problems of a split, no chain twice; the same ones on every machine.

    Args:
        split: "train", "val" or "test".
        count: how many.
        seed: another seed gives other problems of the same split.
        min_steps, max_steps: a problem has a number of operations between the two, all equally likely.
        max_number: every number in a problem is between 1 and this.

    Raises:
        ValueError: the settings allow fewer than `count` different chains, or none at all.
    """
    if not 1 <= min_steps <= max_steps or max_number < 4:
        raise ValueError(
            f"arithmetic with min_steps={min_steps}, max_steps={max_steps}, max_number={max_number}: "
            "1 <= min_steps <= max_steps and max_number >= 4 are needed"
        )
    rng = random.Random(f"{split}/{seed}/{min_steps}/{max_steps}/{max_number}")
    seen: set[Chain] = set()
    problems = []
    failures = 0
    while len(problems) < count:
        chain = _draw_chain(rng, rng.randint(min_steps, max_steps), max_number)
        if chain in seen or split_of(chain) != split:
            failures += 1
            if failures > 1000 + 100 * count:
                raise ValueError(
                    f"arithmetic: no {count} different problems for {split!r} with min_steps={min_steps}, "
                    f"max_steps={max_steps}, max_number={max_number} (found {len(problems)}): ask for fewer, or raise "
                    "max_steps or max_number"
                )
            continue
        seen.add(chain)
        problems.append(_tell(rng, chain))
    return problems


def split_of(chain: Chain) -> str:
    """The split that a chain belongs to, by a hash that is the same everywhere."""
    start, operations = chain
    text = str(start) + "".join(f"{operator}{operand}" for operator, operand in operations)
    bucket = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") % 10
    return _SPLIT_OF_BUCKET.get(bucket, "train")


def apply(value: int, operator: str, operand: int) -> int:
    """One calculation; division is exact."""
    return {"+": value + operand, "-": value - operand, "*": value * operand, "/": value // operand}[operator]


def vocabulary() -> tuple[str, ...]:
    """Every word that a question may contain, numbers and punctuation aside, in a fixed order."""
    pronouns = {they for pronoun in NAMES.values() for they in (pronoun, pronoun.lower())}
    templates = (START, END, *(phrase for phrases in PHRASES.values() for phrase in phrases))
    words = {word.strip(".?") for template in templates for word in template.split() if "{" not in word}
    return tuple(sorted({*words, *NAMES, *THINGS, *pronouns}))


def _draw_chain(rng: random.Random, num_steps: int, max_number: int) -> Chain:
    start = value = rng.randint(2, max_number)
    operations = []
    for _ in range(num_steps):
        operator, operand = _draw_operation(rng, value, max_number)
        operations.append((operator, operand))
        value = apply(value, operator, operand)
    return start, tuple(operations)


def _draw_operation(rng: random.Random, value: int, max_number: int) -> tuple[str, int]:
    """An operator that has an operand here, each equally likely, and one of its operands."""
    factors = [n for n in range(2, LARGEST_FACTOR + 1) if value % n == 0 and value > n]
    largest_factor = min(LARGEST_FACTOR, max_number // value)
    choices = {
        "+": (1, max_number - value),
        "-": (1, value - 1),
        "*": (2, largest_factor),
    }
    possible = [operator for operator, (low, high) in choices.items() if low <= high] + ["/"] * bool(factors)
    operator = rng.choice(possible)
    return operator, rng.choice(factors) if operator == "/" else rng.randint(*choices[operator])


def _tell(rng: random.Random, chain: Chain) -> Problem:
    name, things = rng.choice(tuple(NAMES)), rng.choice(THINGS)
    start, operations = chain
    words = {"name": name, "things": things, "They": NAMES[name], "they": NAMES[name].lower()}
    sentences, steps, value = [START.format(n=start, **words)], [], start
    for operator, operand in operations:
        sentences.append(rng.choice(PHRASES[operator]).format(n=operand, **words))
        result = apply(value, operator, operand)
        steps.append(f"<<{value}{operator}{operand}={result}>>")
        value = result
    return Problem(" ".join([*sentences, END.format(**words)]), tuple(steps), str(value))
