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
    is_on_line: bool  # not dominated, and not worse than a mix of its neighbours by more than its interval
    was_trained: bool  # at this speed


def pareto_points(rows: Sequence[Row], datasets: Sequence[str]) -> list[Point]:
    """The points of every data set's plot, in the table's order, the mean of several data sets first."""
    # A panel's points compete, so those of a run that was asked other questions compete among themselves.
    measured = [
        *((row, MEAN, row.mean_length, row.mean_accuracy.of_share) for row in complete_rows(rows, datasets)),
        *(
            (row, dataset, row.results[dataset].mean_length, row.results[dataset].accuracy_over_questions)
            for dataset in datasets
            for row in rows
            if dataset in row.results
        ),
    ]
    places: dict[tuple, list[tuple[float, float]]] = {}
    for row, dataset, length, accuracy in measured:
        places.setdefault(_contest(row, dataset), []).append((length, accuracy.center))
    # Only what is not dominated is ever worth mixing.
    fronts = {
        panel: {place for place in of_panel if not any(_dominates(other, place) for other in of_panel)}
        for panel, of_panel in places.items()
    }
    points = []
    for row, dataset, length, accuracy in measured:
        front = fronts[_contest(row, dataset)]
        is_dominated = (length, accuracy.center) not in front
        high = accuracy.center if accuracy.high is None else accuracy.high
        is_on_line = not is_dominated and high >= _of_a_mix(sorted(front), length) - 1e-12
        points.append(Point(row.way, dataset, length, accuracy, is_dominated, is_on_line, row.was_trained))
    return points


def _contest(row: Row, dataset: str) -> tuple:
    """What points are of that can be compared: one data set, its questions, one way of sampling."""
    asked = tuple(result.questions for name, result in row.results.items() if dataset in (name, MEAN))
    return dataset, row.way.sampling, asked


def _of_a_mix(places: Sequence[tuple[float, float]], length: float) -> float:
    """The best accuracy to be had at a mean length by answering some questions in one way, the others in another.

    One of the ways is to say nothing, at #L 0. So a point is not on the line if a hardly longer one is far better.
    """
    best = max((accuracy for at, accuracy in places if at <= length), default=0.0)
    for short, low in (*places, (0.0, 0.0)):
        for long, high in places:
            if short <= length < long:
                best = max(best, low + (high - low) * (length - short) / (long - short))
    return best


def _dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a != b and a[0] <= b[0] and a[1] >= b[1]
