"""What a latent of a whole step should say, by rule: shares of the step's numbers and signs (RuPLaR, arXiv 2605.09346).

mix     0.2 uniform over all of them + 0.8 uniform over the tokens of the step's result
temp    a softmax at temperature 0.5 of scores: 2.8 for tokens of the result, 2.0 for the others
"""

import itertools
import re

import numpy as np

from colar_jax.data.encoding import EncodedProblems

STEP_RULES = ("mix", "temp", "gumbel", "uniform")
KEY_SHARE, TEMPERATURE, RESULT_SCORE, KEY_SCORE = 0.2, 0.5, 2.8, 2.0
_KEY = re.compile(r"[\d+\-*/=]|\.(?=\d)")  # a point is of a number; a full stop says nothing
_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")


def step_shares(encoded: EncodedProblems, example: int, rule: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each step of a problem the tokens of its latent, each once, and their shares, which sum to 1.

    A step without a number or sign is all its tokens, alike. `gumbel` is `temp` without its noise.
    """
    found = []
    for step, (start, stop) in enumerate(zip(encoded.step_starts[example], encoded.step_ends[example], strict=True)):
        ids = encoded.steps[example][start:stop]
        is_key, is_result = _kinds(encoded, example, step, int(start), int(stop))
        if not is_key.any():
            is_key = np.ones(len(ids), bool)
        kept = np.unique(ids[is_key])
        in_result = np.isin(kept, ids[is_result])
        found.append((kept.astype(np.int32), _shares(in_result, rule).astype(np.float32)))
    return [(ids, shares) for ids, shares in found if len(ids)]


def _shares(in_result_K: np.ndarray, rule: str) -> np.ndarray:
    uniform_K = np.full(len(in_result_K), 1 / max(len(in_result_K), 1))
    if rule == "uniform" or not in_result_K.any():
        return uniform_K
    if rule == "mix":
        return KEY_SHARE * uniform_K + (1 - KEY_SHARE) * in_result_K / in_result_K.sum()
    weights_K = np.exp(np.where(in_result_K, RESULT_SCORE, KEY_SCORE) / TEMPERATURE)
    return weights_K / weights_K.sum()


def _kinds(encoded: EncodedProblems, example: int, step: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Of a step's tokens, which have a digit or a sign in them, and which are part of the number after its last `=`."""
    if not encoded.step_token_starts:  # texts are not known
        return np.ones(stop - start, bool), np.zeros(stop - start, bool)
    steps = encoded.problems[example].steps
    before, text = sum(len(other) + 1 for other in steps[:step]), steps[step]
    bounds = np.append(encoded.step_token_starts[example], before + len(text))[start : stop + 1] - before
    bounds = np.minimum(bounds, len(text))
    result = _NUMBER.search(text, text.rindex("=")) if "=" in text else None
    first, last = result.span() if result else (0, 0)
    keys = np.array([match.start() for match in _KEY.finditer(text)])
    is_key = np.array([np.any((keys >= a) & (keys < b)) for a, b in itertools.pairwise(bounds)], bool)
    is_result = (bounds[:-1] < last) & (bounds[1:] > first)
    return is_key, is_key & is_result
