"""The report for programs: every number behind the tables (`report.json`), and one line a result (`results.csv`)."""

import dataclasses
from collections.abc import Sequence

from colar_jax.report.columns import csv_record, json_record
from colar_jax.report.differences import Difference
from colar_jax.report.pareto import pareto_points
from colar_jax.report.results import Result, Way
from colar_jax.report.rows import complete_rows, datasets_of, table_rows
from colar_jax.report.table_text import csv_text


def report_numbers(results: Sequence[Result], found: Sequence[Difference]) -> dict:
    """What `report.json` says of the results, in the table's order.

    Accuracies and shares run from 0 to 1 (the table's are in %). An interval is {"center", "low", "high"}, its ends
    None where the data give none. "means" has the rows that cover all of two or more data sets; "pareto" has the points
    of the plot, in which "dominated" are those that another one beats in length or accuracy and loses in neither, and
    "on_line" those that the line joins (`pareto.Point`).

    Raises:
        UserError: there are no results, or two are for the same cell.
    """
    rows, datasets = table_rows(results), datasets_of(results)
    return {
        "datasets": datasets,
        "results": [way_numbers(result.way) | json_record(result) for row in rows for result in row.results.values()],
        "means": [
            way_numbers(row.way)
            | {
                "accuracy_over_seeds": dataclasses.asdict(row.mean_accuracy),
                "mean_length": row.mean_length,
            }
            for row in complete_rows(rows, datasets)
        ],
        "differences": [
            way_numbers(difference.way)
            | {
                "dataset": difference.dataset,
                "reference": difference.reference.name,
                "accuracy": dataclasses.asdict(difference.accuracy),
            }
            for difference in found
        ],
        "pareto": [
            way_numbers(point.way)
            | {
                "dataset": point.dataset,
                "length": point.length,
                "accuracy": dataclasses.asdict(point.accuracy),
                "dominated": point.is_dominated,
                "on_line": point.is_on_line,
                "was_trained": point.was_trained,
            }
            for point in pareto_points(rows, datasets)
        ],
    }


def way_numbers(way: Way) -> dict:
    """A way as the first entries of a record, its name included."""
    return {"name": way.name} | dataclasses.asdict(way)


def result_lines(results: Sequence[Result]) -> str:
    """`results.csv`: a line for each result, with a header."""
    rows = table_rows(results)
    return csv_text([way_numbers(result.way) | csv_record(result) for row in rows for result in row.results.values()])
