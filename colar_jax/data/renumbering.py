"""Known problems with new numbers: more data of the same kind, without a teacher.

    Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. ...
    <<48/2=24>> <<48+24=72>>  ->  <<62/2=31>> <<62+31=93>>

A problem can be renumbered if every number of its equations is known to come from somewhere: from the question, from an
earlier step, or from a word that stands for it ("half", "week"). All numbers of one value change together, so that no
role has to be guessed. What is larger stays larger, whole numbers stay whole, nothing falls to zero or below it.
"""

import collections
import dataclasses
import logging
import random
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from colar_jax.data.equations import Equation, parse_step, worked_out
from colar_jax.data.implied_numbers import implied_numbers
from colar_jax.data.number_mentions import Mention, decimal_text, mentions_of, with_numbers
from colar_jax.data.problems import Problem
from colar_jax.errors import UserError

logger = logging.getLogger(__name__)

# Draws of new numbers, with fewer and fewer of them new, until all results are as they must be.
_TRIES = 400
_MOST_DECIMALS = 2
_IN_DIGITS = re.compile(r"[+-]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})", re.ASCII)
NEW_NUMBERS = " (new numbers)"  # ends the place of a problem that has them


@dataclasses.dataclass(frozen=True)
class Number:
    """Where a number of an equation comes from: a value of the question, a step before, or (neither) a fixed one."""

    literal: str
    of_question: Fraction | None = None
    is_hundredth: bool = False  # of the question's
    of_step: int | None = None


@dataclasses.dataclass(frozen=True)
class Template:
    """A problem of which every number is known to come from somewhere.

    Attributes:
        free: the values of the question that may be others, rising, each with the largest that it may be.
        numbers: of each equation. The answer is the last one's result.
    """

    problem: Problem
    mentions: list[Mention]
    free: dict[Fraction, int | None]
    equations: list[Equation]
    numbers: list[list[Number]]


def template_of(problem: Problem) -> Template | None:
    """What can be changed in a problem; None if a number of its equations may come from two places, or from none."""
    equations = [parse_step(step) for step in problem.steps]
    if not equations or None in equations:
        return None
    mentions = mentions_of(problem.question)
    fixed = {mention.value for mention in mentions if mention.is_fixed} | implied_numbers(problem.question)
    said = {mention.value for mention in mentions} - fixed
    results = [Fraction(equation.result) for equation in equations]
    hundredths = {mention.value for mention in mentions if mention.hundredths} & said
    places = [
        [_places(literal, results[:index], said, hundredths, fixed) for literal in equation.literals]
        for index, equation in enumerate(equations)
    ]
    numbers = _chosen(places)
    if numbers is None or results[-1] != _number(problem.answer):
        return None
    free = {number.of_question for of_equation in numbers for number in of_equation} - {None}
    if not free:
        return None
    caps = {value: [m.largest for m in mentions if m.value == value and m.largest is not None] for value in free}
    return Template(
        problem, mentions, {value: min(caps[value], default=None) for value in sorted(free)}, equations, numbers
    )


def renumber(template: Template, rng: random.Random) -> Problem | None:
    """The problem with other numbers; None where no draw gave results like the old ones."""
    values = list(template.free)
    for attempt in range(_TRIES):
        num_new = max(1, len(values) - attempt * len(values) // _TRIES)
        chosen = set(rng.sample(values, num_new))
        new = {value: _draw(value, template, rng) if value in chosen else value for value in values}
        if list(new.values()) != sorted(set(new.values())) or new == dict(zip(values, values, strict=True)):
            continue
        steps = _calculate(template, new)
        if steps is not None:
            question = with_numbers(template.problem.question, template.mentions, new)
            answer = steps[-1].partition("=")[2].removesuffix(">>")
            return Problem(question, tuple(steps), answer, place=template.problem.place + NEW_NUMBERS)
    return None


def renumbered(problems: Sequence[Problem], count: int, seed: int = 0) -> list[Problem]:
    """`count` problems: the given ones, then all of them again with new numbers, and so on; the same on every machine.

    A problem that cannot be renumbered comes again as it is.

    Raises:
        UserError: none of them can be.
    """
    if count <= len(problems):
        logger.warning(
            "data.train_limit=%d is not above the %d problems of the source: none is given new numbers",
            count, len(problems),
        )  # fmt: skip
        return list(problems[:count])
    templates = [template_of(problem) for problem in problems]
    num_known = sum(template is not None for template in templates)
    if num_known == 0:
        raise UserError(
            f"none of {len(problems)} problems can be given new numbers: their steps are no equations <<a*b=c>> of the "
            "question's numbers. Where words stand around the marks, write renumbered:equations:<source>; "
            "else leave renumbered: away"
        )
    logger.info(
        "making %d problems of %d, of which %d may be given new numbers; the others come again as they are",
        count, len(problems), num_known,
    )  # fmt: skip
    return list(_again_and_again(problems, templates, count, seed))


def _again_and_again(problems, templates, count: int, seed: int) -> Iterator[Problem]:
    for number in range(count):
        time, index = divmod(number, len(problems))
        template, problem = templates[index], None
        if time > 0 and template is not None:
            problem = renumber(template, random.Random(f"{seed}/{time}/{index}"))
        yield problem or problems[index]


def _number(text: str) -> Fraction | None:
    """The value of a number in digits; no other number is a step's result, and 1e999999999 would take all memory."""
    text = text.strip().replace(",", "")
    return Fraction(text) if _IN_DIGITS.fullmatch(text) else None


def _places(literal: str, results: Sequence[Fraction], said, hundredths, fixed) -> list[Number]:
    """Where a number of an equation may come from, given the results before it."""
    value = Fraction(literal)
    return [
        *([Number(literal, of_question=value)] if value in said else []),
        *([Number(literal, of_question=100 * value, is_hundredth=True)] if 100 * value in hundredths else []),
        *(Number(literal, of_step=step) for step, result in enumerate(results) if result == value),
        *([Number(literal)] if value in fixed else []),
    ]


def _chosen(places: list[list[list[Number]]]) -> list[list[Number]] | None:
    """The one place of each number; None where one has none, or several that nothing decides between.

    Steps are there to be used. So of two places a number comes from the step that nothing else can have used; and not
    from a step that is used elsewhere, if the other place is a number of the question that is not.
    """
    everywhere = [of_number for of_equation in places for of_number in of_equation]
    used = {(n.of_question, n.of_step) for of_number in everywhere if len(of_number) == 1 for n in of_number}
    times = collections.Counter(n.of_step for of_number in everywhere for n in of_number if n.of_step is not None)

    def choose(of_number: list[Number]) -> Number | None:
        if len(of_number) == 1:
            return of_number[0]
        steps = [number for number in of_number if number.of_step is not None]
        if len(of_number) != 2 or len(steps) != 1:
            return None
        (step,), (other,) = steps, [number for number in of_number if number.of_step is None]
        if times[step.of_step] == 1:
            return step if (other.of_question, None) in used or other.of_question is None else None
        is_step_used = (None, step.of_step) in used
        return other if is_step_used and other.of_question and (other.of_question, None) not in used else None

    chosen = [[choose(of_number) for of_number in of_equation] for of_equation in places]
    return None if any(number is None for of_equation in chosen for number in of_equation) else chosen


def _draw(value: Fraction, template: Template, rng: random.Random) -> Fraction:
    """A number of the same size and kind: half to twice as much, as round, with as many decimals."""
    unit = Fraction(1)
    while value.denominator != 1 and (value / unit).denominator != 1:
        unit /= 10
    if value.denominator == 1:
        while value % (10 * unit) == 0 and value > 10 * unit:
            unit *= 10
        if any(m.value == value and m.hundredths for m in template.mentions) and value % 5 == 0:
            unit = Fraction(5)
    lowest, highest = max(unit, -(-value // (2 * unit)) * unit), 2 * value
    if value.denominator == 1:
        lowest = max(lowest, Fraction(2))
    cap = template.free[value]
    if cap is not None:
        highest = min(highest, Fraction(cap))
    if any(m.value == value and m.hundredths for m in template.mentions):
        highest = min(highest, Fraction(95))
    first, last = int(-(-lowest // unit)), int(highest // unit)
    return unit * rng.randint(first, last) if first <= last else value


def _calculate(template: Template, new: dict[Fraction, Fraction]) -> list[str] | None:
    """The steps with new numbers; None where a result is not of the kind that it was."""
    steps, results = [], []
    for equation, numbers in zip(template.equations, template.numbers, strict=True):
        literals = []
        for number in numbers:
            decimals = len(number.literal.partition(".")[2])
            if number.of_step is not None:
                value = results[number.of_step]
            elif number.of_question is not None:
                value = new[number.of_question] / (100 if number.is_hundredth else 1)
            else:
                literals.append(number.literal)
                continue
            is_same = value == Fraction(number.literal)
            literals.append(number.literal if is_same else decimal_text(value, decimals))
        left = equation.with_literals(literals)
        result = worked_out(left)
        if result is None or not _is_like(result, Fraction(equation.result)):
            return None
        results.append(result)
        decimals = len(equation.result.partition(".")[2]) if result.denominator != 1 else 0
        steps.append(f"<<{left}={decimal_text(result, decimals)}>>")
    return steps


def _is_like(result: Fraction, old: Fraction) -> bool:
    """Whether it is positive, and whole or with few decimals as the old one was."""
    if result <= 0 or (old.denominator == 1 and result.denominator != 1):
        return False
    return (result * 10**_MOST_DECIMALS).denominator == 1
