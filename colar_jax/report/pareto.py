"""Accuracy against #L: which ways of decoding are worth their length."""

import dataclasses
from collections.abc import Sequence

from colar_jax.report.results import Way
from colar_jax.report.rows import Row, complete_rows
from colar_jax.statistics.intervals import Interval

MEAN = "mean"  # of all data sets


@dataclasses.dataclass(frozen=True)
class Point:
    """A way of decoding on one data set, or on the mean of all."""

    way: Way
    dataset: str
    length: float  # #L
    accuracy: Interval  # over questions; of the mean of data sets over seeds
    is_dominated: bool  # another of the same data set and sampling is no longer and no worse, and one of the two better


def pareto_points(rows: Sequence[Row], datasets: Sequence[str]) -> list[Point]:
    """The points of every data set's plot, in the table's order, the mean of several data sets first."""
    measured = [
        *((row.way, MEAN, row.mean_length, row.mean_accuracy) for row in complete_rows(rows, datasets)),
        *(
            (row.way, dataset, row.results[dataset].mean_length, row.results[dataset].accuracy_over_questions)
            for dataset in datasets
            for row in rows
            if dataset in row.results
        ),
    ]
    return [
        Point(
            way,
            dataset,
            length,
            accuracy,
            is_dominated=any(
                _dominates((other_length, other.center), (length, accuracy.center))
                for other_way, other_dataset, other_length, other in measured
                if (other_dataset, other_way.sampling) == (dataset, way.sampling)
            ),
        )
        for way, dataset, length, accuracy in measured
    ]


def _dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a != b and a[0] <= b[0] and a[1] >= b[1]
