"""Accuracy from several samples of each question: pass@k and majority@k."""

import itertools
import math

import numpy as np

from colar_jax.errors import UserError

# If there are more different sets of k samples than this, so many random ones are looked at.
MAX_SUBSETS = 1000


def pass_at_k(right_SN: np.ndarray, k: int) -> float:
    """The chance that at least one of k samples of a question is right, mean over questions; unbiased.

        1 - C(S - c, k) / C(S, k),        c of S samples right

    the share of all sets of k of the S samples that have a right one. (1 - (1 - c/S)^k, the obvious estimate, is too
    low.) Source: Chen et al., "Evaluating large language models trained on code", arXiv 2107.03374, eq. 1.

    Args:
        right_SN: bool, S samples of N questions.
        k: how many samples are taken, 1 to S.

    Raises:
        UserError: there are fewer than k samples.
    """
    num_samples = _checked(right_SN, k)
    of_count = np.array([1 - math.comb(num_samples - c, k) / math.comb(num_samples, k) for c in range(num_samples + 1)])
    return float(of_count[right_SN.sum(axis=0)].mean())


def majority_at_k(right_SN: np.ndarray, votes_SN: np.ndarray, k: int, *, seed: int = 0) -> float:
    """The chance that the most frequent of k sampled answers is right, mean over questions; ties are drawn by lot.

    The mean over all sets of k of the S samples, which is unbiased; over `MAX_SUBSETS` of them, drawn with `seed`,
    where there are more. Source: Wang et al., "Self-consistency improves chain of thought reasoning", arXiv 2203.11171.

    Args:
        right_SN: bool, S samples of N questions.
        votes_SN: integers, the same for two samples of a question that give the same answer (`votes_of`).
        k: how many samples vote, 1 to S.

    Raises:
        UserError: there are fewer than k samples, or not a vote for each.
    """
    num_samples = _checked(right_SN, k)
    if votes_SN.shape != right_SN.shape:
        raise UserError(f"a vote for each sample: votes_SN is {votes_SN.shape}, right_SN {right_SN.shape}")
    if math.comb(num_samples, k) <= MAX_SUBSETS:
        subsets = list(itertools.combinations(range(num_samples), k))
    else:
        rng = np.random.default_rng(seed)
        subsets = [rng.permutation(num_samples)[:k] for _ in range(MAX_SUBSETS)]
    return float(np.mean([_share_elected(right_SN[list(chosen)], votes_SN[list(chosen)]) for chosen in subsets]))


def votes_of(predictions_SN: list[list[str]], is_same) -> np.ndarray:
    """Integers `[S, N]` that are equal where two samples of a question gave the same answer, as `is_same` compares.

    An answer that is not even the same as itself (a number that is none, for `is_same`) gets a vote of its own text.
    """
    num_samples, num_questions = len(predictions_SN), len(predictions_SN[0])
    votes_SN = np.zeros((num_samples, num_questions), np.int32)
    for question in range(num_questions):
        different: list[str] = []
        vote_of_text: dict[str, int] = {}
        for sample in range(num_samples):
            text = predictions_SN[sample][question]
            if text not in vote_of_text:
                known = (vote for vote, other in enumerate(different) if is_same(text, other))
                vote_of_text[text] = next(known, len(different))
                if vote_of_text[text] == len(different):
                    different.append(text)
            votes_SN[sample, question] = vote_of_text[text]
    return votes_SN


def _share_elected(right_kN: np.ndarray, votes_kN: np.ndarray) -> float:
    """Of the answers with the most votes, the share that is right; mean over questions.

    Each of the tied answers has the same number of samples, so the share can be counted in samples.
    """
    supporters_kN = (votes_kN[:, None] == votes_kN[None]).sum(axis=1)
    elected_kN = supporters_kN == supporters_kN.max(axis=0)
    return float(((elected_kN & right_kN).sum(axis=0) / elected_kN.sum(axis=0)).mean())


def _checked(right_SN: np.ndarray, k: int) -> int:
    num_samples = right_SN.shape[0]
    if not 1 <= k <= num_samples:
        raise UserError(f"k={k} samples of {num_samples} that there are: take 1 to {num_samples}")
    return num_samples
