"""Which step tokens share a position.

At speed `c` every `c` consecutive tokens are one group, and the last group may be short. A fraction is a mean: at 1.5
the groups have 1, 2, 1, 2, ... tokens, at 2.5 they have 2, 3, 2, 3, ... Group `k` ends before token
`floor((k + 1) * c + phase)`. The phase, in [0, 1), says where in its pattern the grouping begins: from one half on, 1.5
is 2, 1, 2, 1, ... It changes nothing for a whole number.
"""

import numpy as np

from colar_jax.errors import UserError

# In tokens: a speed read from text such as "1.1" is not exact in binary; without this, floor(10 * 1.1) could be 10 or
# 11. All that is counted here follows from the ends (`_end`), so that it cannot be in two places of different size.
_EPSILON = 1e-9


def num_groups(num_tokens, speed, phase=0.0):
    """How many groups `num_tokens` tokens make at `speed`: numbers or arrays of them, elementwise."""
    num_tokens, speed, phase = np.asarray(num_tokens), np.asarray(speed), np.asarray(phase)
    groups = np.ceil((num_tokens - phase - _EPSILON) / speed)
    # Division rounds otherwise than the ends do, and these say which tokens there are.
    groups += _end(groups, speed, phase) < num_tokens
    groups -= _end(groups - 1, speed, phase) >= num_tokens
    return np.maximum(groups, num_tokens > 0).astype(np.int64)  # a phase just short of 1 has no group end before 1


def group_ends(num_tokens: int, speed: float, phase: float = 0.0) -> np.ndarray:
    """The index after the last token of each group, increasing; the last one is `num_tokens`."""
    _check(speed)
    return np.minimum(full_ends(int(num_groups(num_tokens, speed, phase)), speed, phase), num_tokens)


def full_ends(count: int, speed: float, phase: float = 0.0) -> np.ndarray:
    """The index after the last token of each of the first `count` groups of a chain that goes on and on."""
    _check(speed)
    return _end(np.arange(1, count + 1), speed, phase).astype(np.int64)


def group_of_token(num_tokens: int, speed: float, phase: float = 0.0) -> np.ndarray:
    """The group of each token, `[num_tokens]`, starting at 0 and never decreasing."""
    ends = group_ends(num_tokens, speed, phase)
    return np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))


def _end(count, speed, phase):
    """The index after the last token of so many full groups, elementwise; a float."""
    return np.floor(count * speed + phase + _EPSILON)


def _check(speed: float) -> None:
    if speed < 1:
        raise UserError(f"speed={speed}: a position holds at least one token, so a speed is at least 1")
