"""95 % confidence intervals of a measured number, over seeds and over questions.

Two different questions, two different intervals. Over *seeds* (the same questions, sampled again): how far does the
number move when the run is repeated? Over *questions* (each data set is itself a sample): how far would it move on
other questions of the same kind? Neither contains the other, so a report gives both.
"""

import dataclasses
import math

import numpy as np
from scipy import special

from colar_jax.errors import UserError

CONFIDENCE = 0.95
_UPPER_QUANTILE = (1 + CONFIDENCE) / 2


@dataclasses.dataclass(frozen=True)
class Interval:
    """A measured value, and the ends of its 95 % interval: None where the data cannot give one."""

    center: float
    low: float | None
    high: float | None

    @property
    def half_width(self) -> float | None:
        """Half of high - low, or None. The `±` of a t-interval; a Wilson interval is not symmetric about its center."""
        if self.low is None or self.high is None:
            return None
        return (self.high - self.low) / 2

    @property
    def of_share(self) -> "Interval":
        """The same with its ends in 0 to 1, where a t-interval of a few seeds goes beyond: to be drawn or said."""
        if self.low is None or self.high is None:
            return self
        return Interval(self.center, max(self.low, 0.0), min(self.high, 1.0))


def mean_over_seeds(values_S: np.ndarray) -> Interval:
    """The mean over seeds and its Student t-interval.

        mean ± t(0.975, S - 1) * s / sqrt(S),        s^2 = sum((x - mean)^2) / (S - 1)

    With few seeds the normal quantile 1.96 and the population deviation (divided by S) give an interval that is much
    too narrow: at S = 5 it covers the truth 85 times in 100, not 95. Source: Student, "The probable error of a
    mean", Biometrika 6 (1908).

    Args:
        values_S: one number for each seed, in any unit.

    Returns:
        The interval in that unit, not cut to any range; its ends are None for one seed, which shows no spread.

    Raises:
        UserError: values_S is not one-dimensional, or is empty.
    """
    values_S = np.asarray(values_S, dtype=np.float64)
    if values_S.ndim != 1 or values_S.size == 0:
        raise UserError(f"values_S must hold one number for each of one or more seeds, got shape {values_S.shape}")
    mean = float(values_S.mean())
    num_seeds = values_S.size
    if num_seeds == 1:
        return Interval(mean, None, None)
    standard_error = float(values_S.std(ddof=1)) / math.sqrt(num_seeds)
    half_width = float(special.stdtrit(num_seeds - 1, _UPPER_QUANTILE)) * standard_error
    return Interval(mean, mean - half_width, mean + half_width)


def wilson(num_right: float, num_questions: int) -> Interval:
    """The share of right answers and its Wilson score interval over questions.

        (p + z^2 / 2n ± z * sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n),        p = num_right / n, z = 1.96

    It stays inside [0, 1] and is sound at 0 % and 100 %, where p ± z * sqrt(p (1 - p) / n) has no width. Source:
    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).

    With several seeds, pass the number of right answers *averaged over the seeds* (so it may be a fraction) and the
    number of *different* questions: n = questions, never questions x seeds, because asking the same question again adds
    no question. The averaging removes some of the noise that p (1 - p) / n counts, so the interval is then
    conservative: a little too wide, never too narrow.

    Args:
        num_right: right answers, 0 to num_questions.
        num_questions: different questions, at least 1.

    Returns:
        The interval, as shares; its center is the observed share p (not the middle of the interval).

    Raises:
        UserError: there are no questions, or num_right is not between 0 and num_questions.
    """
    if num_questions < 1:
        raise UserError(f"num_questions must be at least 1, got {num_questions}")
    if not 0 <= num_right <= num_questions:
        raise UserError(f"num_right must be between 0 and num_questions = {num_questions}, got {num_right}")
    z = float(special.ndtri(_UPPER_QUANTILE))
    share = num_right / num_questions
    shrink = 1 + z**2 / num_questions
    middle = (share + z**2 / (2 * num_questions)) / shrink
    half_width = z * math.sqrt(share * (1 - share) / num_questions + z**2 / (4 * num_questions**2)) / shrink
    # Rounding may put an end 1e-17 beyond the observed share at 0 % and 100 %.
    return Interval(share, max(0.0, min(middle - half_width, share)), min(1.0, max(middle + half_width, share)))
