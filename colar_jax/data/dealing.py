"""Dealing examples to the rows of an epoch's steps, so that rows are equally full.

Within a window of shuffled examples, sorted by length, each step takes one from every stretch: steps are equally long.
Within a step the longest go first, each to the row that has least: rows are, too.
"""

import numpy as np

# Examples dealt together: more of them make steps more equal.
DEALING_WINDOW = 1024


def deal_epoch(lengths_N: np.ndarray, examples_per_step: int, num_rows: int, seed: tuple[int, ...]) -> np.ndarray:
    """An epoch's deal, int `[steps, rows, E]`: places in `lengths_N`, -1 where there is none.

    Every example is dealt once, but for the last ones that fill no whole step; where there are not enough for one, all
    of them are one. `E` is one more than the examples of an average row.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(lengths_N))
    count = min(examples_per_step, len(order))
    window_size = max(1, DEALING_WINDOW // count) * count
    steps = []
    for start in range(0, len(order) - count + 1, window_size):
        window = order[start : start + window_size]
        window = window[: len(window) // count * count]
        stretches = window[np.argsort(-lengths_N[window], kind="stable")].reshape(count, -1)
        steps.append(rng.permuted(stretches, axis=1).T)
    steps_SN = np.concatenate(steps)
    return _to_rows(steps_SN, lengths_N[steps_SN], num_rows, -(-count // num_rows) + 1)


def most_examples(lengths_N: np.ndarray, num_rows: int, row_positions: int, seed: tuple[int, ...]) -> int:
    """As many examples a step as always fit into its rows, in the epoch with this seed."""
    mean = lengths_N.mean()
    for count in range(min(int(num_rows * row_positions // mean), len(lengths_N)), num_rows, -1):
        dealt = deal_epoch(lengths_N, count, num_rows, seed)
        if np.where(dealt >= 0, lengths_N[dealt], 0).sum(axis=2).max() <= row_positions:
            return count
    return min(num_rows, len(lengths_N))


def _to_rows(steps_SN: np.ndarray, lengths_SN: np.ndarray, num_rows: int, slots: int) -> np.ndarray:
    """Each step's examples, the longest first, to the row that has least and is not full: `[steps, rows, slots]`."""
    num_steps = len(steps_SN)
    dealt = np.full((num_steps, num_rows, slots), -1)
    load_SR, taken_SR = np.zeros((num_steps, num_rows)), np.zeros((num_steps, num_rows), int)
    step_S = np.arange(num_steps)
    order_SN = np.argsort(-lengths_SN, axis=1, kind="stable")
    for place_S in order_SN.T:
        row_S = np.where(taken_SR < slots, load_SR, np.inf).argmin(axis=1)
        dealt[step_S, row_S, taken_SR[step_S, row_S]] = steps_SN[step_S, place_S]
        load_SR[step_S, row_S] += lengths_SN[step_S, place_S]
        taken_SR[step_S, row_S] += 1
    return dealt
