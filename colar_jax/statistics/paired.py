"""The difference of two measurements on the same questions: the paired bootstrap, and the sign test."""

from collections.abc import Sequence

import numpy as np
from scipy import special

from colar_jax.errors import UserError
from colar_jax.statistics.intervals import CONFIDENCE, Interval

NUM_RESAMPLES = 10_000


def paired_difference(a_N: np.ndarray, b_N: np.ndarray, *, seed: int = 0, resamples: int = NUM_RESAMPLES) -> Interval:
    """The mean of A minus B over the same N questions, and its percentile bootstrap interval over questions.

    The questions are drawn anew, with replacement, `resamples` times; each draw takes A and B of a question together,
    so that what makes a question hard for both cancels. Two Wilson intervals that overlap say less: they count that
    hardness twice. Source: Efron, "Bootstrap methods", Annals of Statistics 7 (1979).

    Where fewer than six questions differ, of however many, the interval goes on to 0: so few may all point one way by
    chance, and a bootstrap, which draws nothing that was not seen, would leave 0 out where they do.

    A mean of a resample depends only on how often each *different* value of A - B was drawn, and those numbers are
    multinomial: with S seeds there are at most 2 S + 1 values, so no resample is ever written out question by question.

    Args:
        a_N, b_N: one number for each question, such as the share of its seeds that were right.
        seed: of the resampling; the same seed gives the same interval.

    Returns:
        The difference, its ends None for a single question, of which nothing can be drawn anew.

    Raises:
        UserError: the two do not have one number for each of the same one or more questions.
    """
    return stratified_difference([(a_N, b_N)], seed=seed, resamples=resamples)


def stratified_difference(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    resamples: int = NUM_RESAMPLES,
) -> Interval:
    """As `paired_difference`, of the plain mean over several sets of questions: each set is drawn anew by itself.

    Args:
        pairs: of each set A and B, one number for each question.
        confidence: of the interval. Where A is the best of k rows, 1 - 0.05 / k makes it one that holds for all k at
            once, and so for the one that was chosen (Bonferroni).

    Returns:
        The difference, its ends None where a set has a single question.

    Raises:
        UserError: there is no set, or two of a set do not have one number for each of the same one or more questions.
    """
    if not pairs:
        raise UserError("a difference needs at least one set of questions, got none")
    rng = np.random.default_rng(seed)
    centers, drawn, num_questions, num_different = [], [], [], 0
    for a_N, b_N in pairs:
        a_N, b_N = np.asarray(a_N, np.float64), np.asarray(b_N, np.float64)
        if a_N.ndim != 1 or a_N.shape != b_N.shape or a_N.size == 0:
            raise UserError(f"a_N and b_N must hold a number for each of the same questions: {a_N.shape}, {b_N.shape}")
        differences_N = a_N - b_N
        # Rounded: 0.6 - 0.4 and 0.8 - 0.6 are one value.
        values_V, counts_V = np.unique(differences_N.round(12), return_counts=True)
        drawn_RV = rng.multinomial(differences_N.size, counts_V / differences_N.size, size=resamples)
        centers.append(float(differences_N.mean()))
        drawn.append(drawn_RV @ values_V / differences_N.size)
        num_questions.append(differences_N.size)
        num_different += counts_V[values_V != 0].sum()
    center = float(np.mean(centers))
    if min(num_questions) == 1:
        return Interval(center, None, None)
    means_R = np.mean(drawn, axis=0)
    low, high = map(float, np.quantile(means_R, [(1 - confidence) / 2, (1 + confidence) / 2]))
    # So few questions that differ all point the same way by chance alone with a probability above the level. A
    # bootstrap does not see that: of any number of questions it next to never draws none of them.
    if 2 * 0.5**num_different > 1 - confidence:
        low, high = min(low, 0.0), max(high, 0.0)
    return Interval(center, low, high)


def fall_p_value(a_N: np.ndarray, b_N: np.ndarray) -> float:
    """How probable it is by chance alone that A is below B at least as often as seen: the exact one-sided sign test.

    Among the questions on which the two differ, chance puts either above with probability 1/2 (for right and wrong this
    is McNemar's exact test). It keeps its level for any number of questions, where the ends of a bootstrap interval
    of few questions lie too near to the center.

    Args:
        a_N, b_N: one number for each of the same questions.

    Returns:
        The p-value, 1 where nothing differs.
    """
    signs_N = np.sign(np.asarray(a_N, np.float64) - np.asarray(b_N, np.float64))
    num_below, num_different = int((signs_N < 0).sum()), int((signs_N != 0).sum())
    return float(special.bdtrc(num_below - 1, num_different, 0.5)) if num_below else 1.0


def holm(p_values: Sequence[float], level: float = 1 - CONFIDENCE) -> list[bool]:
    """Which of several tests reject, so that the chance of *any* false rejection among them is at most `level`.

    The smallest p-value is compared with level / n, the next with level / (n - 1), and so on until one is too large.
    Source: Holm, "A simple sequentially rejective multiple test procedure", Scand. Journal of Statistics 6 (1979).
    """
    rejected = [False] * len(p_values)
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] > level / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected
