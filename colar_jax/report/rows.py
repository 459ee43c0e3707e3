"""Results as the rows of a table, in the table's order."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from colar_jax.data.prompts import AUTO_SPEED
from colar_jax.errors import UserError
from colar_jax.report.results import AS_CONFIGURED, NO_SPEED, SAMPLINGS, Result, Way
from colar_jax.statistics.intervals import Interval, mean_over_seeds


@dataclasses.dataclass(frozen=True)
class Row:
    """One table row: one way of decoding, on some of the report's data sets."""

    way: Way
    results: dict[str, Result]  # by data set

    @property
    def was_trained(self) -> bool:
        """Whether the stage's training had this speed."""
        return all(result.was_trained for result in self.results.values())

    @property
    def mean_accuracy(self) -> Interval:
        """Plain mean over data sets, each weighing the same as in the paper, and its t-interval over seeds.

        The ends are None for one seed, and where data sets differ in their number of seeds.
        """
        if len({result.num_seeds for result in self.results.values()}) > 1:
            return Interval(_mean([result.accuracy_S.mean() for result in self.results.values()]), None, None)
        return mean_over_seeds(np.mean([result.accuracy_S for result in self.results.values()], axis=0))

    @property
    def mean_length(self) -> float:
        """Plain mean of #L over data sets."""
        return _mean([result.mean_length for result in self.results.values()])


def table_rows(results: Sequence[Result]) -> list[Row]:
    """Results as table rows in the table's order, whatever the order within `results`.

    Runs, stages and data sets come in the order in which they first appear; within a stage speeds rise (none first,
    "auto" last), then limits, temperatures and agreements do (the config's own first), and greedy comes before sampled.

    Raises:
        UserError: there are no results, or two are for the same cell.
    """
    if not results:
        raise UserError("a report needs at least one result, got none")
    runs = list(dict.fromkeys(result.run for result in results))
    stages = list(dict.fromkeys(result.stage for result in results))
    datasets = datasets_of(results)

    def place(result: Result):
        return (
            runs.index(result.run),
            stages.index(result.stage),
            _speed_order(result.speed),
            *(_number_order(text) for text in (result.latent_limit, result.temperature, result.trim)),
            SAMPLINGS.index(result.sampling),
            datasets.index(result.dataset),
        )

    by_way: dict[Way, dict[str, Result]] = {}
    for result in sorted(results, key=place):
        of_way = by_way.setdefault(result.way, {})
        if result.dataset in of_way:
            raise UserError(f"two results for the same cell: {result.way.name}, data set {result.dataset}")
        of_way[result.dataset] = result
    return [Row(way, of_way) for way, of_way in by_way.items()]


def datasets_of(results: Sequence[Result]) -> list[str]:
    """The data sets in the order in which they first appear."""
    return list(dict.fromkeys(result.dataset for result in results))


def complete_rows(rows: Sequence[Row], datasets: Sequence[str]) -> list[Row]:
    """The rows that a mean over data sets is worth taking of: there are several sets, and a row has them all."""
    return [row for row in rows if len(datasets) > 1 and len(row.results) == len(datasets)]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _speed_order(speed: str) -> tuple[int, float]:
    if speed == NO_SPEED:
        return (0, 0.0)
    return (2, 0.0) if speed == AUTO_SPEED else (1, float(speed))


def _number_order(text: str) -> float:
    return -1.0 if text == AS_CONFIGURED else float(text)
