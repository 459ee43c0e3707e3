"""Chains of calculations that think too much, as reasoning models do: they say their answer, doubt it, and begin again.

    <<4+5=9>>  <<9*2=18>>  So 18.  Wait, check: <<4+5=9>>  <<9*2=18>>  So 18.  But check: ...

What there is to trim is known: all after the first answer that is right.
"""

import random
import re
from collections.abc import Sequence

# What begins a reflection; the first word is the cue that trimming looks for.
REFLECTIONS = ("Wait, check: ", "But check: ", "Wait, ")
# Words of such chains that no question has.
REFLECTION_WORDS = ("Wait", "But", "check", "So")
_FARTHEST_SLIP = 3
_RESULT = re.compile(r"=(\d+)>>$")


def reflecting(
    steps: Sequence[str], rng: random.Random, max_reflections: int, slip_percent: int, max_number: int
) -> list[str]:
    """The lines of a chain that says its answer, and then works it out again up to `max_reflections` times.

    Args:
        steps: of the chain, each as `<<4+5=9>>`.
        slip_percent: how often in 100 the first attempt ends on a wrong number; then there is a reflection.
        max_number: the largest number that a wrong result may be.
    """
    count = rng.randint(0, max_reflections)
    answer = int(_RESULT.search(steps[-1])[1])
    first = list(steps)
    if len(steps) > 1 and rng.random() < 0.5:
        doubted = rng.randrange(len(steps) - 1)
        first.insert(doubted + 1, rng.choice(REFLECTIONS) + steps[doubted])
    said = answer
    if rng.randrange(100) < slip_percent:
        near = range(max(1, answer - _FARTHEST_SLIP), min(max_number, answer + _FARTHEST_SLIP) + 1)
        said, count = rng.choice([number for number in near if number != answer]), max(count, 1)
        first[-1] = _RESULT.sub(f"={said}>>", first[-1])
    lines = [*first, f"So {said}."]
    for _ in range(count):
        again = [rng.choice(REFLECTIONS) + steps[0], *steps[1:]]
        lines += [*again, f"So {answer}."]
    return lines
