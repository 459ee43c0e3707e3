"""Metrics as sums and counts, divided once, so that a mean is over examples and never over batches or devices.

The mean of two batches' means is wrong as soon as the batches differ in size (packed rows always do). A (sum, count)
pair adds up exactly over microbatches, devices (`jax.lax.psum` of the whole dict) and steps.
"""

import dataclasses

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Metric:
    """A sum and what it is a sum over; its value is sum / count. Scalars, also inside jit (a pytree)."""

    sum: jax.Array | float
    count: jax.Array | float


def merge(*parts: dict[str, Metric]) -> dict[str, Metric]:
    """Add metrics up by name; a name that only some of the parts have is kept."""
    merged: dict[str, Metric] = {}
    for part in parts:
        for name, metric in part.items():
            merged[name] = jax.tree.map(lambda a, b: a + b, merged[name], metric) if name in merged else metric
    return merged


def divide(metrics: dict[str, Metric]) -> dict[str, float]:
    """Sum / count of each metric, as Python floats; one with a count of 0 (nothing was measured) is left out.

    Waits for the device: call it on the metrics of a step that is already done. NaN and Inf are handed on, for the
    caller to stop at.
    """
    values = {}
    for name, metric in jax.device_get(metrics).items():
        if metric.count != 0:
            values[name] = float(metric.sum) / float(metric.count)
    return values
