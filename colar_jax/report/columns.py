"""What a report says of each result: one list, which JSON, CSV, Markdown, LaTeX and the page all read.

A new column is one entry of `COLUMNS`; one that is computed question by question is first a measure
(`evaluation/measures.py`), which a column reads by `result.mean_of(name)` or from `result.measured_SN`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from colar_jax.report.number_text import length_text, percent, quantity
from colar_jax.report.results import Result
from colar_jax.statistics.intervals import Interval


@dataclasses.dataclass(frozen=True)
class Column:
    """One thing that is said of each result."""

    name: str  # in JSON; "cost.flops" is the entry "flops" of "cost"
    value: Callable[[Result], Any]  # a number, a text, a list, an Interval, numbers by k, or None: not known
    heading: str = ""  # in the table of costs; "": not there
    text: Callable[[Any], str] = str  # a value that is not None, as tables show it
    remark: str = ""  # for a share: the line under the accuracies that names the rows where it is above 0
    in_csv: bool = True
    is_shown: bool = True  # in the table of costs also where it is known of no row


def of_all_samples(by_k: dict[int, float]) -> tuple[int, float] | None:
    """The entry of the most samples; None where there is none."""
    return max(by_k.items()) if by_k else None


def _share_at_k(by_k: dict[int, float]) -> str:
    found = of_all_samples(by_k)
    return f"{percent(found[1])} (k = {found[0]})" if found else "-"


def lacks_times(result: Result) -> bool:
    """Whether its costs are known, and not how long an answer took: that was measured elsewhere."""
    return result.cost is not None and result.cost.seconds_per_question is None


def _of_cost(name: str) -> Callable[[Result], Any]:
    return lambda result: None if result.cost is None else getattr(result.cost, name)


def _of_verifier(name: str, heading: str) -> Column:
    """A mean of what trimming costs."""
    return Column(name, lambda result: result.mean_of(name), heading, length_text, is_shown=False)


COLUMNS = (
    Column("method", lambda result: result.method),
    Column("dataset", lambda result: result.dataset, "data set"),
    Column("questions", lambda result: result.questions, in_csv=False),
    Column("was_trained", lambda result: result.was_trained),
    Column("num_seeds", lambda result: result.num_seeds),
    Column("num_questions", lambda result: result.num_questions),
    Column("accuracy", lambda result: result.accuracy_over_questions.center),
    Column("accuracy_per_seed", lambda result: result.accuracy_S.tolist(), in_csv=False),
    Column("accuracy_over_seeds", lambda result: result.accuracy_over_seeds),
    Column("accuracy_over_questions", lambda result: result.accuracy_over_questions),
    Column("mean_length", lambda result: result.mean_length, "#L", length_text),
    Column("length_over_seeds", lambda result: result.length_over_seeds),
    Column("needed_length", lambda result: result.needed_length),
    Column("chosen_speed", lambda result: result.mean_of("chosen_speed"), "chosen speed", length_text, is_shown=False),
    Column("forced_stop_share", lambda result: result.forced_stop_share, remark="Reasoning cut at its limit"),
    Column(
        "cut_answer_share",
        lambda result: result.mean_of("cut_answer"),
        remark="Answers cut at decode.max_answer_tokens",
    ),
    Column("agreed_share", lambda result: result.mean_of("agreed"), remark="Thinking ended where answers agreed"),
    Column(
        "cut_without_agreement_share",
        lambda result: result.mean_of("cut_without_agreement"),
        remark="Thinking ended by a limit of eval.trim",
    ),
    Column("cost.forward_passes", _of_cost("forward_passes"), "forward passes", length_text),
    Column("cost.flops", _of_cost("flops"), "FLOPs", quantity),
    Column("cost.kv_bytes", _of_cost("kv_bytes"), "KV cache", lambda value: quantity(value, "B")),
    Column(
        "cost.seconds_per_question",
        _of_cost("seconds_per_question"),
        "ms a question",
        lambda value: length_text(1000 * value),
    ),
    _of_verifier("discarded_thoughts", "discarded"),
    _of_verifier("verifier_passes", "verifier's passes"),
    _of_verifier("verifier_tokens", "verifier's tokens"),
    Column("pass_at", lambda result: result.pass_at, "pass@k", _share_at_k),
    Column("majority_at", lambda result: result.majority_at, "majority@k", _share_at_k),
    Column("thinks_in", lambda result: result.thinks_in),
)


def json_record(result: Result) -> dict:
    """All columns of a result for JSON; a group of columns of which nothing is known is None."""
    record: dict[str, Any] = {}
    for column in COLUMNS:
        group, _, name = column.name.rpartition(".")
        value = _json_value(column.value(result))
        if not group:
            record[name] = value
        elif value is None and not record.get(group):
            record[group] = None
        else:
            record[group] = (record.get(group) or {}) | {name: value}
    return record


def csv_record(result: Result) -> dict:
    """All columns of a result as plain cells: an interval's two ends, numbers by k at the largest k, None as empty."""
    record: dict[str, Any] = {}
    for column in COLUMNS:
        if not column.in_csv:
            continue
        name, value = column.name.rpartition(".")[2], column.value(result)
        if isinstance(value, Interval):
            record |= {f"{name}_low": value.low, f"{name}_high": value.high}
        elif isinstance(value, dict):
            found = of_all_samples(value)
            record[name] = "" if found is None else found[1]
        else:
            record[name] = "" if value is None else value
    return record


def _json_value(value: Any) -> Any:
    if isinstance(value, Interval):
        return dataclasses.asdict(value)
    return {str(k): of_k for k, of_k in value.items()} if isinstance(value, dict) else value
