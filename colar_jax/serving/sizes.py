"""How much the slots hold, and the few shapes that programs are compiled for."""

import dataclasses
import itertools

from colar_jax.settings.checks import require

_STEP = 16  # positions are multiples of it


@dataclasses.dataclass(frozen=True)
class SlotSizes:
    """Limits of a server; what a request asks is at most this."""

    slots: int = 32  # of each device
    max_prompt: int = 256  # tokens of a question with the words around it
    max_thoughts: int = 64
    max_tokens: int = 16  # of an answer
    steps: int = 8  # of a dispatch at most

    def __post_init__(self):
        for field in ("slots", "max_prompt", "max_tokens", "steps"):
            require(getattr(self, field) > 0, f"--{field}={getattr(self, field)} must be positive")
        require(self.max_thoughts >= 0, f"--max_latents={self.max_thoughts} is negative")

    @property
    def longest(self) -> int:
        """Positions of the longest request: its question, its thoughts, `###`, and all of the answer but its end."""
        return self.max_prompt + self.max_thoughts + self.max_tokens

    @property
    def prompts(self) -> tuple[int, ...]:
        """Lengths of a question that programs are for."""
        return ladder(2 * _STEP, self.max_prompt)

    @property
    def rooms(self) -> tuple[int, ...]:
        """Positions of a slot that programs are for: a step's cost goes with the longest that is in a slot."""
        return ladder(4 * _STEP, self.longest)

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers of slots of a device that programs are for: few requests need not pay for many slots."""
        widths = [self.slots]
        while widths[0] > 4:
            widths.insert(0, widths[0] // 4)
        return tuple(widths)


def ladder(start: int, top: int) -> tuple[int, ...]:
    """Sizes that grow by a half and by a third in turn, multiples of 16, up to one that holds `top`."""
    rungs = (start << octave for octave in itertools.count())
    halves = itertools.chain.from_iterable((rung, rung + rung // 2) for rung in rungs)
    below = itertools.takewhile(lambda rung: rung < top, halves)
    return (*below, -(-top // _STEP) * _STEP)
