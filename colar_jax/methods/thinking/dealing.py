"""Dealing examples to the rows of an epoch's steps, so that rows are equally full of each kind of positions.

Every row is allocated the largest need of any row, per kind; spare room of one kind cannot serve another.
Within a window of shuffled examples, sorted by length, each step takes one from every stretch, and within a step the
longest go first, each to the emptiest row. Then examples are exchanged, between steps and between rows.
"""

import numpy as np

# Examples dealt together: more of them make steps more equal.
DEALING_WINDOW = 1024

# Attempts to exchange a pair, each between two groups for every window or step at once; more change little.
ROUNDS = 60


def deal_epoch(sizes_NK: np.ndarray, examples_per_step: int, num_rows: int, seed: tuple[int, ...]) -> np.ndarray:
    """An epoch's deal, int `[steps, rows, E]`: places in `sizes_NK`, -1 where there is none.

    `sizes_NK` has the positions that an example takes, of `K` kinds. Every example is dealt once, but for the last
    ones that fill no whole step; where there are not enough for one, all of them are one. A step has more places than
    examples, so that the row of the longest can have fewer.
    """
    lengths_N = sizes_NK.sum(axis=1)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(lengths_N))
    count = min(examples_per_step, len(order))
    window_size = max(1, DEALING_WINDOW // count) * count
    steps = []
    for start in range(0, len(order) - count + 1, window_size):
        window = order[start : start + window_size]
        window = window[: len(window) // count * count]
        stretches = window[np.argsort(-lengths_N[window], kind="stable")].reshape(count, -1)
        dealt = rng.permuted(stretches, axis=1).T
        steps.append(_equalised(dealt[None], sizes_NK)[0])
    steps_SN = np.concatenate(steps)
    return _equalised(_to_rows(steps_SN, lengths_N[steps_SN], num_rows, count // num_rows + 1), sizes_NK)


def most_examples(sizes_NK: np.ndarray, num_rows: int, row_positions: int, seed: tuple[int, ...]) -> int:
    """As many examples a step as always fit into its rows, in the epoch with this seed."""
    lengths_N = sizes_NK.sum(axis=1)
    for count in range(min(int(num_rows * row_positions // lengths_N.mean()), len(lengths_N)), num_rows, -1):
        dealt = deal_epoch(sizes_NK, count, num_rows, seed)
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


def _equalised(dealt_WGE: np.ndarray, sizes_NK: np.ndarray) -> np.ndarray:
    """The same places in other groups of the same `W`, whose loads of every kind are more equal.

    Each round takes, for one kind, the group that has most and one of those that have least (or the other way round),
    and exchanges the two places, empty ones too, after which their loads have the smallest sum of squares.
    """
    num_groups, slots = dealt_WGE.shape[1:]
    if num_groups == 1:
        return dealt_WGE
    dealt_WGE, each_W = dealt_WGE.copy(), np.arange(len(dealt_WGE))
    sizes_NK = np.concatenate([sizes_NK, np.zeros_like(sizes_NK[:1])])  # the last is that of an empty place, -1
    load_WGK = sizes_NK[dealt_WGE].sum(axis=2)
    for attempt in range(ROUNDS):
        turn, kind = divmod(attempt, sizes_NK.shape[1])
        order_WG = load_WGK[:, :, kind].argsort(axis=1, kind="stable")
        rank = (0, 1, 2, 0, 1, 3)[turn % 6] % (num_groups - 1)
        most, least = (-1, rank) if turn % 2 == 0 else (num_groups - 1 - rank, 0)
        full_W, free_W = order_WG[:, most], order_WG[:, least]
        of_full, of_free = (sizes_NK[dealt_WGE[each_W, group_W]] for group_W in (full_W, free_W))
        gain_WEEK = of_free[:, None] - of_full[:, :, None]  # what the full group would have more
        surplus_WK = load_WGK[each_W, full_W] - load_WGK[each_W, free_W]
        change_WP = (gain_WEEK * (surplus_WK[:, None, None] + gain_WEEK)).sum(axis=3).reshape(len(each_W), -1)
        pair_W = change_WP.argmin(axis=1)
        better = np.flatnonzero(change_WP[each_W, pair_W] < 0)
        i, j = np.divmod(pair_W[better], slots)
        full, free, gain = full_W[better], free_W[better], gain_WEEK[better, i, j]
        load_WGK[better, full] += gain
        load_WGK[better, free] -= gain
        one, other = dealt_WGE[better, full, i], dealt_WGE[better, free, j]
        dealt_WGE[better, full, i], dealt_WGE[better, free, j] = other, one
    return dealt_WGE
