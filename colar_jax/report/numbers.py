"""The report for programs: every number behind the tables (`report.json`), and one line a result (`results.csv`)."""

import csv
import dataclasses
import io
from collections.abc import Sequence

from colar_jax.report.differences import Difference
from colar_jax.report.pareto import pareto_points
from colar_jax.report.results import Result, Way
from colar_jax.report.rows import complete_rows, datasets_of, table_rows
from colar_jax.statistics.intervals import Interval


def report_numbers(results: Sequence[Result], found: Sequence[Difference]) -> dict:
    """What `report.json` says of the results, in the table's order.

    Accuracies and shares run from 0 to 1 (the table's are in %). An interval is {"center", "low", "high"}, its ends
    None where the data give none. "means" has the rows that cover all of two or more data sets; "pareto" has the points
    of the plot, in which "dominated" are those that another one beats in length or accuracy and loses in neither.

    Raises:
        UserError: there are no results, or two are for the same cell.
    """
    rows, datasets = table_rows(results), datasets_of(results)
    return {
        "datasets": datasets,
        "results": [_result_numbers(result) for row in rows for result in row.results.values()],
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
            }
            for point in pareto_points(rows, datasets)
        ],
    }


def way_numbers(way: Way) -> dict:
    """A way as the first entries of a record, its name included."""
    return {"name": way.name} | dataclasses.asdict(way)


def csv_text(results: Sequence[Result]) -> str:
    """A line for each result, with a header; intervals as two columns, cells empty where there is none."""
    lines = [_csv_record(result) for row in table_rows(results) for result in row.results.values()]
    text = io.StringIO()
    writer = csv.DictWriter(text, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _result_numbers(result: Result) -> dict:
    return way_numbers(result.way) | {
        "method": result.method,
        "dataset": result.dataset,
        "questions": result.questions,
        "was_trained": result.was_trained,
        "num_seeds": result.num_seeds,
        "num_questions": result.num_questions,
        "accuracy": result.accuracy_over_questions.center,
        "accuracy_per_seed": result.accuracy_S.tolist(),
        "accuracy_over_seeds": dataclasses.asdict(result.accuracy_over_seeds),
        "accuracy_over_questions": dataclasses.asdict(result.accuracy_over_questions),
        "mean_length": result.mean_length,
        "length_over_seeds": dataclasses.asdict(result.length_over_seeds),
        "forced_stop_share": result.forced_stop_share,
        "pass_at": {str(k): value for k, value in result.pass_at.items()},
        "majority_at": {str(k): value for k, value in result.majority_at.items()},
        "cost": None if result.cost is None else dataclasses.asdict(result.cost),
    }


def _csv_record(result: Result) -> dict:
    numbers = _result_numbers(result)
    flat = {
        name: value
        for name, value in numbers.items()
        if not isinstance(value, dict | list) and name not in ("questions", "cost")
    }
    for name in ("accuracy_over_seeds", "accuracy_over_questions", "length_over_seeds"):
        flat |= _ends(name, getattr(result, name))
    of_all = str(result.num_seeds)
    flat |= {name: numbers[name].get(of_all, "") for name in ("pass_at", "majority_at")}
    cost_fields = ("forward_passes", "flops", "kv_bytes", "seconds_per_question")
    return flat | {name: (numbers["cost"] or {}).get(name, "") for name in cost_fields}


def _ends(name: str, interval: Interval) -> dict:
    return {f"{name}_low": interval.low, f"{name}_high": interval.high}
