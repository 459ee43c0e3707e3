"""Results as the paper's Table 1 (METHOD.md section 2): accuracy % / #L, a row for each way of decoding a stage.

`report.md` is for people, `report.json` holds every number behind it, for comparing runs.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from colar_jax.data.prompts import AUTO_SPEED
from colar_jax.evaluation.results import NO_SPEED, SAMPLINGS, Result
from colar_jax.evaluation.statistics import Interval, mean_over_seeds

MARKDOWN_FILE = "report.md"
JSON_FILE = "report.json"


@dataclasses.dataclass(frozen=True)
class Row:
    """One table row: one stage at one speed, decoded in one way, on some of the report's data sets."""

    stage: str
    speed: str
    sampling: str
    results: dict[str, Result]  # by data set

    @property
    def name(self) -> str:
        """The row in words, as in "colar, speed 2, sampled"."""
        speed = "" if self.speed == NO_SPEED else f", speed {self.speed}"
        return f"{self.stage}{speed}, {self.sampling}"

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

    Stages and data sets come in the order in which they first appear; within a stage speeds rise (none first, "auto"
    last), and greedy comes before sampled.

    Raises:
        ValueError: there are no results, or two are for the same cell.
    """
    if not results:
        raise ValueError("a report needs at least one result, got none")
    stages = list(dict.fromkeys(result.stage for result in results))
    datasets = _datasets(results)

    def place(result: Result):
        return (
            stages.index(result.stage),
            _speed_order(result.speed),
            SAMPLINGS.index(result.sampling),
            datasets.index(result.dataset),
        )

    by_row: dict[tuple[str, str, str], dict[str, Result]] = {}
    for result in sorted(results, key=place):
        of_row = by_row.setdefault((result.stage, result.speed, result.sampling), {})
        if result.dataset in of_row:
            where = f"stage {result.stage}, speed {result.speed}, {result.sampling}, data set {result.dataset}"
            raise ValueError(f"two results for the same cell: {where}")
        of_row[result.dataset] = result
    return [Row(*row_key, of_row) for row_key, of_row in by_row.items()]


def markdown_table(results: Sequence[Result]) -> str:
    """The table, and below it what its intervals are, how many questions and seeds, and where reasoning was cut.

    A cell reads `92.1 ± 0.4 [90.3, 93.6] / 14.3`: accuracy in %, the half width of its t-interval over seeds (left out
    for one seed), its Wilson interval over questions, mean #L. A last column holds the mean over data sets when there
    is more than one; a row that lacks a data set has no mean, for it could not be compared with the others.

    Raises:
        ValueError: there are no results, or two are for the same cell.
    """
    rows, datasets = table_rows(results), _datasets(results)
    header = ["stage", "speed", "sampling", *datasets, *(["mean"] if len(datasets) > 1 else [])]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        cells = [_result_cell(row.results[dataset]) if dataset in row.results else "-" for dataset in datasets]
        if len(datasets) > 1:
            cells.append(_mean_cell(row) if len(row.results) == len(datasets) else "-")
        lines.append([row.stage, row.speed, row.sampling, *cells])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{_legend(results)}{_forced_stops(rows)}\n"


def report_numbers(results: Sequence[Result], title: str, notes: str) -> dict:
    """Everything that `report.json` holds, in the table's order.

    Accuracies and shares run from 0 to 1 (the table's are in %). An interval is {"center", "low", "high"}, its ends
    None where one seed gives none. "means" has the rows that cover all of two or more data sets.

    Raises:
        ValueError: there are no results, or two are for the same cell.
    """
    rows, datasets = table_rows(results), _datasets(results)
    return {
        "title": title,
        "notes": notes,
        "results": [_result_numbers(result) for row in rows for result in row.results.values()],
        "means": [
            {
                "stage": row.stage,
                "speed": row.speed,
                "sampling": row.sampling,
                "accuracy_over_seeds": dataclasses.asdict(row.mean_accuracy),
                "mean_length": row.mean_length,
            }
            for row in rows
            if len(datasets) > 1 and len(row.results) == len(datasets)
        ],
    }


def write_report(
    folder: str | os.PathLike, results: Sequence[Result], title: str, notes: str, causal: Sequence[dict] = ()
) -> None:
    """Write `report.md` (title, notes, table) and `report.json` (`report_numbers`) into the folder, made if missing.

    `causal` are the rows of `causal.causal_tests`, `causal` in `report.json`.

    Each file is replaced as a whole: a kill at any moment leaves either the old one or the new one.

    Raises:
        ValueError: there are no results, or two are for the same cell. Nothing is written then.
    """
    paragraphs = [f"# {title}", *([notes.strip()] if notes.strip() else []), markdown_table(results)]
    numbers = report_numbers(results, title, notes) | ({"causal": list(causal)} if causal else {})
    numbers = json.dumps(numbers, indent=2, allow_nan=False)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / JSON_FILE, numbers + "\n")
    _replace(folder / MARKDOWN_FILE, "\n\n".join(paragraphs))


def read_report(folder: str | os.PathLike) -> dict:
    """The numbers of a written report, as `report_numbers` gave them.

    Raises:
        FileNotFoundError: the folder has no report.
        ValueError: its `report.json` is not JSON; the message names the file and the place.
    """
    path = Path(folder) / JSON_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): write the report again") from error


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _datasets(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(result.dataset for result in results))


def _speed_order(speed: str) -> tuple[int, float]:
    if speed == NO_SPEED:
        return (0, 0.0)
    return (2, 0.0) if speed == AUTO_SPEED else (1, float(speed))


def _result_numbers(result: Result) -> dict:
    return {
        "stage": result.stage,
        "dataset": result.dataset,
        "speed": result.speed,
        "sampling": result.sampling,
        "num_seeds": result.num_seeds,
        "num_questions": result.num_questions,
        "accuracy": result.accuracy_over_questions.center,
        "accuracy_per_seed": result.accuracy_S.tolist(),
        "accuracy_over_seeds": dataclasses.asdict(result.accuracy_over_seeds),
        "accuracy_over_questions": dataclasses.asdict(result.accuracy_over_questions),
        "mean_length": result.mean_length,
        "length_over_seeds": dataclasses.asdict(result.length_over_seeds),
        "forced_stop_share": result.forced_stop_share,
    }


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _plus_minus(over_seeds: Interval) -> str:
    return "" if over_seeds.half_width is None else f" ± {_percent(over_seeds.half_width)}"


def _length_text(length: float) -> str:
    """Three digits as in the paper (5.57, 25.6, 209), and a plain 0 for a method that does not reason."""
    if length == 0:
        return "0"
    if length < 9.995:
        return f"{length:.2f}"
    return f"{length:.1f}" if length < 99.95 else f"{length:.0f}"


def _result_cell(result: Result) -> str:
    over_questions = result.accuracy_over_questions
    return (
        f"{_percent(over_questions.center)}{_plus_minus(result.accuracy_over_seeds)} "
        f"[{_percent(over_questions.low)}, {_percent(over_questions.high)}] / {_length_text(result.mean_length)}"
    )


def _mean_cell(row: Row) -> str:
    accuracy = row.mean_accuracy
    return f"{_percent(accuracy.center)}{_plus_minus(accuracy)} / {_length_text(row.mean_length)}"


def _counts_text(counts: dict[str, set[int]]) -> str:
    """As in "gsm8k 1,319, svamp 300 or 1,000"."""
    return ", ".join(f"{name} {' or '.join(f'{n:,}' for n in sorted(ns))}" for name, ns in counts.items())


def _legend(results: Sequence[Result]) -> str:
    questions = {name: {r.num_questions for r in results if r.dataset == name} for name in _datasets(results)}
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


def _forced_stops(rows: Sequence[Row]) -> str:
    cut = [
        f"{row.name}, on {dataset} {_percent(result.forced_stop_share)} %"
        for row in rows
        for dataset, result in row.results.items()
        if result.forced_stop_share > 0
    ]
    return f"\n\nReasoning cut at its limit: {'; '.join(cut)}." if cut else ""


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
