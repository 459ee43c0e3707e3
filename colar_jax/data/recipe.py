"""How a method turns a problem into an example: at which speed, what the prompt says of it, and what is learned."""

import dataclasses
import math

import numpy as np

from colar_jax.data.prompts import AUTO_SPEED, SILENT, Speed, speed_text
from colar_jax.errors import UserError
from colar_jax.settings.speeds import ASKED_PHASE, AUTO_NUMBER, DECIMALS, NO_NUMBER, OWN_NUMBER, SpeedRange


@dataclasses.dataclass(frozen=True)
class SpeedChange:
    """A change of speed in mid-chain."""

    after: int  # so many latents, at least 1
    speed: float  # of those that follow


@dataclasses.dataclass(frozen=True)
class Told:
    """What a model is told of the speed."""

    said: Speed  # by the prompt
    number: float  # beside it, at the opening `###`; `AUTO_NUMBER`, or `NO_NUMBER` where nothing is added
    later: SpeedChange | None = None  # None: that speed is for the whole chain


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a method turns a problem into an example."""

    speeds: tuple[float, ...]  # one is drawn for each example and epoch; one listed twice, twice as often
    auto_probability: float = 0.0  # how often the prompt says "auto" and not the drawn speed
    keeps_steps: bool = True  # False: the answer follows the question at once
    supervise_latents: bool = False  # whether the latent head learns
    supervise_steps: bool = True  # whether the language head learns the tokens of the steps
    pooling: str = "sqrt"
    prompt_speed: Speed | None = None  # what every prompt says, where it is not the drawn speed
    # Instead of `speeds`: drawn from these, uniformly in the logarithm; where two overlap, twice as often.
    ranges: tuple[SpeedRange, ...] = ()
    random_phase: bool = False  # whether groups of a fraction begin anywhere in their pattern (`phases`)
    conditioning: str = "text"  # how the speed is told: text, number or both; own: a number, for "auto" the model's own
    counts_tokens: bool = False  # whether latents stand on the chain's own timeline (`model.timeline`)

    @property
    def says_speed(self) -> bool:
        """Whether the prompt has the speed in words; else it is told as a number alone."""
        return self.conditioning in ("text", "both")

    @property
    def prompt_speeds(self) -> tuple[Speed, ...]:
        """Every speed that a prompt may say."""
        if self.prompt_speed is not None:
            return (self.prompt_speed,)
        if not self.says_speed:
            return (SILENT,)
        return self._with_auto(tuple(dict.fromkeys(self.speeds)) or self._said_of_ranges)

    @property
    def trained_speeds(self) -> tuple[Speed, ...]:
        """The speeds that are trained; of ranges their ends and the whole numbers inside."""
        if self.prompt_speed is not None:
            return (self.prompt_speed,)
        if self.conditioning == "own":
            return (AUTO_SPEED,)
        ends = {end for part in self.ranges for end in (part.low, part.high)}
        whole = {float(n) for part in self.ranges for n in range(math.ceil(part.low), math.floor(part.high) + 1)}
        return self._with_auto(tuple(dict.fromkeys(self.speeds)) or tuple(sorted(ends | whole)))

    @property
    def slowest(self) -> tuple[float, ...]:
        """Speeds of which one gives each example its most positions: all of a list, the lowest of ranges."""
        return (min(part.low for part in self.ranges),) if self.ranges else tuple(dict.fromkeys(self.speeds))

    def was_trained(self, speed: Speed) -> bool:
        """Whether training told this speed: it is in the list, or inside one of the ranges (and can be said)."""
        if isinstance(speed, str) or not self.ranges:
            return speed in self.trained_speeds
        can_be_told = self.auto_probability < 1 and (not self.says_speed or round(speed, DECIMALS) == speed)
        return can_be_told and any(speed in part for part in self.ranges)

    def draw(self, rng: np.random.Generator, size) -> tuple[np.ndarray, np.ndarray]:
        """So many speeds, and whether the prompt hides each behind "auto"."""
        if self.ranges:
            speeds = _log_uniform(self.ranges, rng.random(size))
        else:
            speeds = np.array(self.speeds)[rng.integers(len(self.speeds), size=size)]
        return speeds, rng.random(size) < self.auto_probability

    def phases(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Where in its pattern the grouping of each example begins (`data.grouping`)."""
        is_fixed = self.asked_phase == 0 or not self.random_phase
        return np.full(size, self.asked_phase) if is_fixed else rng.random(size)

    @property
    def asked_phase(self) -> float:
        """The phase of the groups that a model makes of a chain when it is asked for a speed.

        Of lists that are said in text alone the pattern's start, as every run of before had it.
        """
        return ASKED_PHASE if self.ranges or self.conditioning != "text" else 0.0

    def told_phase(self, phase: float) -> float:
        """What a model that is told numbers is told of a drawn phase."""
        return phase if self.random_phase and self.conditioning != "text" else ASKED_PHASE

    def said(self, speed: float, is_auto: bool) -> Speed:
        """What the prompt says of a drawn speed."""
        if self.prompt_speed is not None:
            return self.prompt_speed
        return self.told(AUTO_SPEED if is_auto else speed).said

    def told(self, speed: Speed) -> Told:
        """What the model is told where it is asked for a speed, in training and in decoding.

        Raises:
            UserError: places on the chain's timeline are not computed with so many decimals.
        """
        if self.conditioning == "text":
            return Told(speed, NO_NUMBER)
        of_auto = OWN_NUMBER if self.conditioning == "own" else AUTO_NUMBER
        number = of_auto if speed == AUTO_SPEED else float(speed)
        if self.counts_tokens and round(number, DECIMALS) != number:
            raise UserError(
                f"speed={speed_text(speed)}: where latents stand on the chain's timeline (timeline='tokens'), speeds "
                f"have at most {DECIMALS} decimals"
            )
        return Told(speed if self.says_speed else SILENT, number)

    def told_of_drawn(self, speed: float, is_auto: bool) -> Told:
        """As `told`, of one of `draw`."""
        return Told(self.said(speed, is_auto), self.told(AUTO_SPEED if is_auto else speed).number)

    def _with_auto(self, speeds: tuple[Speed, ...]) -> tuple[Speed, ...]:
        if not self.auto_probability:
            return speeds
        return (*speeds, AUTO_SPEED) if self.auto_probability < 1 else (AUTO_SPEED,)

    @property
    def _said_of_ranges(self) -> tuple[float, ...]:
        scale = 10**DECIMALS
        steps = (range(round(part.low * scale), round(part.high * scale) + 1) for part in self.ranges)
        return tuple(step / scale for step in dict.fromkeys(step for of_range in steps for step in of_range))


def _log_uniform(ranges: tuple[SpeedRange, ...], uniform: np.ndarray) -> np.ndarray:
    """Speeds from numbers uniform in [0, 1): every equal stretch of the logarithm is as likely."""
    sizes = np.array([part.size for part in ranges])
    starts = np.cumsum(sizes) - sizes
    at = uniform * sizes.sum()
    index = np.searchsorted(starts, at, side="right") - 1
    lows, highs = (np.array([getattr(part, end) for part in ranges])[index] for end in ("low", "high"))
    return np.clip(np.round(lows * np.exp(at - starts[index]), DECIMALS), lows, highs)
