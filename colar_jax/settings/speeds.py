"""Thinking speeds to train at: a list of numbers, or ranges of them."""

import dataclasses
import math

from colar_jax.errors import UserError
from colar_jax.settings.checks import parse_speeds, require, split_names

# A speed that is drawn from a range has so many decimals: few enough for a prompt to say it.
DECIMALS = 2
# The speed as the number that a model is told: at least 1, or one of these.
AUTO_NUMBER, NO_NUMBER, OWN_NUMBER = 0.0, -1.0, -2.0  # "auto"; nothing; what the model itself chooses
# The phase of the grouping (`data.grouping`) that a model is told when it is asked. At whole and at half speeds no
# group of this phase is near to holding a token more or fewer: at phase 0 the first group of 2.99 has two tokens, and
# that of 3 has three.
ASKED_PHASE = 0.25
# What rotary positions of latents count (`model.timeline`).
TIMELINES = ("latents", "tokens")


@dataclasses.dataclass(frozen=True)
class SpeedRange:
    """All speeds from `low` to `high`, both included."""

    low: float
    high: float

    def __contains__(self, speed: float) -> bool:
        return self.low <= speed <= self.high

    @property
    def size(self) -> float:
        """How much of the logarithm's axis it takes: a speed is drawn from it that often."""
        return math.log(self.high / self.low)


def parse_trained_speeds(setting: str, text: str) -> tuple[tuple[float, ...], tuple[SpeedRange, ...]]:
    """The numbers that `1,2,5` lists, or the ranges that `1..2.3,2.7..6` lists; the other of the two is empty.

    Args:
        setting: where the text stands, such as `latent.speeds`.

    Raises:
        UserError: the text lists nothing, both kinds, or what is no speed.
    """
    parts, shown = split_names(text), f"{setting}={text!r}"
    ranges = tuple(_range(part, shown) for part in parts if ".." in part)
    if ranges and len(ranges) < len(parts):
        raise UserError(f"{shown} has numbers beside ranges: list numbers, or list ranges")
    if not ranges:
        speeds = parse_speeds(text, shown)
        require(
            bool(speeds) and "auto" not in speeds,
            f"{shown}: list the numbers to train, as in 1,2,3, or ranges, as in 1..6 (auto has "
            f"{setting.rpartition('.')[0]}.auto_probability)",
        )
        return tuple(map(float, speeds)), ()
    return (), ranges


def require_decimals(setting: str, text: str, timeline: str) -> None:
    """UserError where a list has speeds of more decimals than places on the chain's own timeline are computed with."""
    for speed in parse_speeds(text, f"{setting}={text!r}") if timeline == "tokens" and ".." not in text else ():
        require(
            speed == "auto" or round(speed, DECIMALS) == speed,
            f"{setting}={text!r} has {speed!r}: where latents stand on the chain's timeline (timeline='tokens'), "
            f"speeds have at most {DECIMALS} decimals",
        )


def _range(text: str, shown: str) -> SpeedRange:
    ends = text.split("..")
    speeds = [parse_speeds(end, shown) for end in ends]
    if len(ends) != 2 or any(len(speed) != 1 or speed[0] == "auto" for speed in speeds):
        raise UserError(f"{text!r} of {shown} is no range of speeds: write two numbers of at least 1, as in 1..6")
    (low,), (high,) = speeds
    require(low < high, f"{text!r} of {shown} is an empty range of speeds: the first number has to be below the second")
    return SpeedRange(round(low, DECIMALS), round(high, DECIMALS))
