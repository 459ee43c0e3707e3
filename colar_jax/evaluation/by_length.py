"""Where the errors are: accuracy by the length of a problem."""

from collections.abc import Sequence

import numpy as np

from colar_jax.data.problems import Problem
from colar_jax.statistics.intervals import Interval, wilson


def accuracy_by_steps(problems: Sequence[Problem], right_N: Sequence[bool]) -> dict[int, tuple[int, Interval]]:
    """By the number of reasoning steps, rising: how many problems have it, and their accuracy with its interval."""
    num_steps_N, right_N = np.array([len(problem.steps) for problem in problems]), np.asarray(right_N)
    found = {}
    for count in np.unique(num_steps_N):
        chosen = right_N[num_steps_N == count]
        found[int(count)] = len(chosen), wilson(int(chosen.sum()), len(chosen))
    return found
