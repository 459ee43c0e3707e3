"""The tables of a report as cells of text, whatever they are then written as: Markdown, LaTeX, CSV or the page.

A cell of accuracies reads `92.1 ± 0.4 [90.3, 93.6] / 14.3`: accuracy in %, the half width of its t-interval over seeds
(left out for one seed), its Wilson interval over questions, mean #L.
"""

import dataclasses
from collections.abc import Sequence

from colar_jax.report import columns
from colar_jax.report.differences import Difference
from colar_jax.report.number_text import difference_text, length_text, percent, plus_minus
from colar_jax.report.results import AS_CONFIGURED, NO_SPEED, SAMPLINGS, Result, Way
from colar_jax.report.rows import Row, complete_rows, datasets_of, table_rows

ABSENT = "-"
_USED = {True: "yes", False: "no", None: "too few"}  # of a causal test


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; a row has as many cells as the header."""

    name: str  # "accuracy", "differences", "causal", "costs"
    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]  # paragraphs below it
    groups: list[str]  # what each row is of; a line is drawn where it changes


def accuracy_table(results: Sequence[Result], remarks: Sequence[str] = ()) -> Table:
    """Every row on every data set, and the mean of several.

    A row that lacks a data set has no mean, for it could not be compared with the others. Runs, limits and temperatures
    have a column where they differ. Below it: what its intervals are, how many questions and seeds, where reasoning or
    answers were cut, and `remarks`.

    Raises:
        UserError: there are no results, or two are for the same cell.
    """
    rows, datasets = table_rows(results), datasets_of(results)
    complete = complete_rows(rows, datasets)
    cells = []
    for row in rows:
        of_row = [_result_cell(row.results[dataset]) if dataset in row.results else ABSENT for dataset in datasets]
        if len(datasets) > 1:
            of_row.append(_mean_cell(row) if row in complete else ABSENT)
        cells.append(of_row)
    header = [*datasets, *(["mean"] if len(datasets) > 1 else [])]
    notes = [_legend(results), *_floors(rows), *_remarks(rows), *remarks]
    return _table("accuracy", "Accuracy", rows, header, cells, notes)


def cost_table(results: Sequence[Result]) -> Table | None:
    """What an answer of each row costs, and what several samples of it are worth; None where no cost was measured."""
    if all(result.cost is None for result in results):
        return None
    shown = [column for column in columns.COLUMNS if column.heading]
    shown = [column for column in shown if column.is_shown or any(column.value(one) is not None for one in results)]
    pairs = [(row, result) for row in table_rows(results) for result in row.results.values() if result.cost is not None]
    cells = [[_cell_of(column, result) for column in shown] for _, result in pairs]
    note = (
        "Means over examples. Forward passes follow one another: the prompt's, one a thought, one an answer token. "
        "FLOPs of the matrix products and bytes of keys and values are counted from the model's shapes; the time is "
        "measured, a batch's over its questions. pass@k: one of k samples is right; majority@k: the most frequent "
        "answer of k is; k is the number of seeds."
    )
    notes = [note]
    if any(columns.lacks_times(result) for _, result in pairs):
        notes.append(
            f"ms a question is {ABSENT} for answers that were decoded before, and timed on other devices or in other "
            "batches than those of this evaluation."
        )
    header = [column.heading for column in shown]
    return _table("costs", "What an answer costs", [row for row, _ in pairs], header, cells, notes)


def differences_table(found: Sequence[Difference], skipped: Sequence[str] = ()) -> Table | None:
    """Accuracy minus that of a reference row, on the same questions; None where there is nothing to compare.

    With one reference for all, it is named in the header; with several, in a column of its own.
    """
    if not found and not skipped:
        return None
    datasets = list(dict.fromkeys(difference.dataset for difference in found))
    of_pair: dict[tuple[Way, Way], dict[str, Difference]] = {}
    for difference in found:
        of_pair.setdefault((difference.way, difference.reference), {})[difference.dataset] = difference
    references = list(dict.fromkeys(reference.name for _, reference in of_pair))
    has_column = len(references) > 2  # greedy and sampled have one each
    first = ["row", "minus"] if has_column else [f"minus {' / '.join(references)}"]
    rows = [
        [
            *([way.name, reference.name] if has_column else [way.name]),
            *(difference_text(of_set[name].accuracy) if name in of_set else ABSENT for name in datasets),
        ]
        for (way, reference), of_set in of_pair.items()
    ]
    note = (
        "Percentage points [95 % paired bootstrap interval over questions], seeds averaged. An interval without "
        "0 in it is a difference that other questions of the kind would show as well."
    )
    notes = [*([note] if rows else []), *skipped]
    groups = [_group(way) for way, _ in of_pair]
    return Table("differences", "Differences on the same questions", [*first, *datasets], rows, notes, groups)


def causal_table(causal: Sequence[dict]) -> Table | None:
    """Whether the latents are used: accuracy when something is done to them; None without such a test."""
    if not causal:
        return None
    names = {"run": "run", "dataset": "data set", "stage": "stage", "speed": "speed", "intervention": "intervention"}
    shown = [name for name in names if any(test.get(name) for test in causal)]
    rows = []
    for test in causal:
        low, high = test["interval"]
        difference = f"{100 * test['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        used = ABSENT if test["intervention"] == "none" else _USED[test["used"]]
        rows.append([*(test.get(name, "") for name in shown), percent(test["accuracy"]), difference, used])
    note = (
        "Accuracy in %, and percentage points lost or won [95 % interval], when every latent is zeroed, "
        "exchanged with another question's, swapped with another of its chain, or when the second half is cut off "
        "(truncate) or zeroed (zero_half: where the number of latents is fixed, and an answer after fewer was never "
        "trained). "
        "Used: accuracy falls, by an exact sign test with Holm's correction over the four (5 % for all together), "
        "so an interval just below 0 may not be enough. no: a fall is not shown on these questions. too few: so few "
        "answers were right, or had a chain that was changed, that no fall could have been shown."
    )
    header = [*(names[name] for name in shown), "accuracy", "difference", "used"]
    groups = [" ".join(test.get(name, "") for name in ("run", "dataset", "stage", "speed")) for test in causal]
    return Table("causal", "Are the latents used?", header, rows, [note], groups)


def _table(name: str, title: str, rows: Sequence[Row], header, cells: list[list[str]], notes: list[str]) -> Table:
    """Lines of cells, each after what makes its row; columns in which no row says anything are left out."""
    ways = [row.way for row in rows]
    names = {"run": "run", "stage": "stage", "speed": "speed", "latent_limit": "limit", "temperature": "temperature"}
    names |= {"trim": "agreements"}
    shown = [
        name
        for name in names
        if name in ("stage", "speed") or any(getattr(way, name) not in ("", AS_CONFIGURED) for way in ways)
    ]
    lines = [
        [*(getattr(row.way, name) + _asterisk(row, name) for name in shown), row.way.sampling, *of_row]
        for row, of_row in zip(rows, cells, strict=True)
    ]
    whole_header = [*(names[name] for name in shown), "sampling", *header]
    return Table(name, title, whole_header, lines, notes, [_group(way) for way in ways])


def _asterisk(row: Row, name: str) -> str:
    return " *" if name == "speed" and not row.was_trained else ""


def _group(way: Way) -> str:
    return f"{way.run}: {way.stage}" if way.run else way.stage


def _result_cell(result: Result) -> str:
    over_questions = result.accuracy_over_questions
    return (
        f"{percent(over_questions.center)}{plus_minus(result.accuracy_over_seeds)} "
        f"[{percent(over_questions.low)}, {percent(over_questions.high)}] / {length_text(result.mean_length)}"
    )


def _mean_cell(row: Row) -> str:
    accuracy = row.mean_accuracy
    return f"{percent(accuracy.center)}{plus_minus(accuracy)} / {length_text(row.mean_length)}"


def _cell_of(column: columns.Column, result: Result) -> str:
    value = column.value(result)
    return ABSENT if value is None else column.text(value)


def _counts_text(counts: dict[str, set[int]]) -> str:
    """As in "gsm8k 1,319, svamp 300 or 1,000"."""
    return ", ".join(f"{name} {' or '.join(f'{n:,}' for n in sorted(ns))}" for name, ns in counts.items())


def _legend(results: Sequence[Result]) -> str:
    questions = {name: {r.num_questions for r in results if r.dataset == name} for name in datasets_of(results)}
    seeds = {name: {r.num_seeds for r in results if r.sampling == name} for name in SAMPLINGS}
    sentences = [
        "Accuracy in % / #L (positions of reasoning, mean over examples).",
        "[low, high]: 95 % Wilson interval over questions.",
    ]
    if any(result.num_seeds > 1 for result in results):
        sentences.append("±: half width of the 95 % t-interval over seeds.")
    if len(questions) > 1:
        sentences.append("mean: every data set weighs the same.")
    sentences.append(f"Questions: {_counts_text(questions)}.")
    sentences.append(f"Seeds: {_counts_text({name: numbers for name, numbers in seeds.items() if numbers})}.")
    return " ".join(sentences)


def _floors(rows: Sequence[Row]) -> list[str]:
    """What #L there would be without redundancy, and how much of each row's could still be cut."""
    told = [
        f"{row.way.name}, on {dataset} {length_text(floor)} of {_to_cut(floor, result)}"
        for row in rows
        for dataset, result in row.results.items()
        if (floor := result.needed_length) is not None
    ]
    return [f"#L of chains without what carries nothing, of the #L measured: {'; '.join(told)}."] if told else []


def _to_cut(floor: float, result: Result) -> str:
    length = result.mean_length
    if length > floor:
        return f"{length_text(length)} ({percent(1 - floor / length)} % can go)"
    return length_text(length) + (" (too short for it)" if length < floor else "")


def _remarks(rows: Sequence[Row]) -> list[str]:
    """What is to be known of some rows: what was cut, speeds that were never trained."""
    remarks = []
    for column in columns.COLUMNS:
        if not column.remark:
            continue
        found = [
            f"{row.way.name}, on {dataset} {percent(share)} %"
            for row in rows
            for dataset, result in row.results.items()
            if (share := column.value(result) or 0) > 0
        ]
        if found:
            remarks.append(f"{column.remark}: {'; '.join(found)}.")
    untrained: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.way.speed != NO_SPEED and not row.was_trained:
            untrained.setdefault(_group(row.way), {})[row.way.speed] = None
    if untrained:
        speeds = "; ".join(f"{stage} at {', '.join(of_stage)}" for stage, of_stage in untrained.items())
        remarks.append(f"Speeds never trained (*): {speeds}.")
    return remarks
