"""The report of an evaluation: one set of results, written for people, for programs and for a browser."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

from colar_jax.json_object import read_json_object
from colar_jax.report.differences import Difference, differences, not_compared
from colar_jax.report.numbers import report_numbers, result_lines
from colar_jax.report.page import page
from colar_jax.report.pareto import pareto_points
from colar_jax.report.pareto_plot import pareto_figure, picture
from colar_jax.report.results import THOUGHTS, Result
from colar_jax.report.rows import datasets_of, table_rows
from colar_jax.report.summary import summary
from colar_jax.report.table_text import latex_text, markdown_text
from colar_jax.report.tables import Table, accuracy_table, causal_table, cost_table, differences_table
from colar_jax.report.unlike_runs import unlike_sentence, unlike_settings

MARKDOWN_FILE = "report.md"
JSON_FILE = "report.json"
CSV_FILE = "results.csv"
LATEX_FILE = "results.tex"
PLOT_FILES = {"png": "pareto.png", "svg": "pareto.svg", "pdf": "pareto.pdf"}
PAGE_FILE = "report.html"


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """What there is to report."""

    title: str
    notes: str
    results: Sequence[Result]
    reference: str = ""  # what the others are compared with, as `differences` takes it
    causal: Sequence[dict] = ()  # tests of whether the latents are used (`tables.causal_table`)
    timing: dict | None = None  # what the evaluation took
    samples: Sequence[dict] = ()  # for the page: what became of some questions
    remarks: Sequence[str] = ()  # sentences on what its accuracies are worth, below them
    made: dict | None = None  # where it comes from (`provenance.provenance`)

    def differences(self) -> list[Difference]:
        """Every row minus the reference."""
        return differences(table_rows(self.results), self.reference)

    @property
    def unlike(self) -> dict[str, dict]:
        """The settings in which its runs were not decoded alike (`unlike_runs.unlike_settings`)."""
        return unlike_settings((self.made or {}).get("settings", {}))

    @property
    def whole_notes(self) -> str:
        """The notes, and in what its runs were not decoded alike."""
        return " ".join(filter(None, [self.notes.strip(), unlike_sentence(self.unlike)]))


def numbers_of(report: Report) -> dict:
    """Everything that `report.json` holds: `numbers.report_numbers`, and what was measured besides."""
    return {
        "title": report.title,
        "notes": report.whole_notes,
        "summary": summary(report.results),
        **({"made": report.made} if report.made else {}),
        **({"unlike_settings": report.unlike} if report.unlike else {}),
        **({"remarks": list(report.remarks)} if report.remarks else {}),
        **report_numbers(report.results, report.differences()),
        **({"causal": list(report.causal)} if report.causal else {}),
        **({"timing": report.timing} if report.timing else {}),
    }


def tables_of(report: Report, *, latents_first: bool = False) -> list[Table]:
    """The tables that have something to say; `latents_first`: rows that think in latents before those in words."""
    results = report.results
    if latents_first:
        runs = [result.run for result in results]
        results = sorted(results, key=lambda result: (runs.index(result.run), THOUGHTS.index(result.thinks_in)))
    ways = [row.way for row in table_rows(results)]
    found = sorted(report.differences(), key=lambda difference: ways.index(difference.way))
    skipped = not_compared(table_rows(report.results), report.reference)
    unlike = unlike_sentence(report.unlike)
    tables = (
        accuracy_table(results, report.remarks),
        differences_table(found, [*skipped, *([unlike] if unlike else [])]),
        causal_table(report.causal),
        cost_table(results),
    )
    return [table for table in tables if table is not None]


def markdown_of(report: Report) -> str:
    """The text of `report.md`; a section that has nothing to say is left out."""
    first, *others = tables_of(report)
    sections = [
        f"# {report.title}\n",
        f"{report.whole_notes}\n" if report.whole_notes else "",
        markdown_text(first),
        *(markdown_text(table, table.title) for table in others),
    ]
    return "\n".join(filter(None, sections))


def latex_of(report: Report) -> str:
    """The text of `results.tex`, to be read by `\\input` after `\\usepackage{booktabs}`."""
    return "\n".join(["% needs \\usepackage{booktabs}", *(latex_text(table) for table in tables_of(report))])


def write_report(folder: str | os.PathLike, report: Report) -> None:
    """Write the report's files into the folder, made if missing.

    `report.md`, `report.json`, `results.csv`, `results.tex`, the plot as `pareto.png`, `.svg` and `.pdf`, and
    `report.html`, which needs none of the others. Each file is replaced as a whole: a kill at any moment leaves either
    the old one or the new one.

    Raises:
        UserError: there are no results, two are for the same cell, or no row is the reference. Nothing is written
            then.
    """
    numbers = numbers_of(report)
    figure = pareto_figure(pareto_points(table_rows(report.results), datasets_of(report.results)))
    files = {
        CSV_FILE: result_lines(report.results).encode(),
        LATEX_FILE: latex_of(report).encode(),
        **{name: picture(figure, kind) for kind, name in PLOT_FILES.items()},
        PAGE_FILE: page(numbers, tables_of(report, latents_first=True), report.samples).encode(),
        JSON_FILE: (json.dumps(numbers, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode(),
        MARKDOWN_FILE: markdown_of(report).encode(),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        _replace(folder / name, data)


def read_report(folder: str | os.PathLike) -> dict:
    """The numbers of a written report, as `numbers_of` gave them.

    Raises:
        FileNotFoundError: the folder has no report.
        UserError: its `report.json` is not JSON; the message names the file and the place.
    """
    path = Path(folder) / JSON_FILE
    if not path.exists():
        raise FileNotFoundError(path)
    return read_json_object(path)


def _replace(path: Path, data: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(data)
    os.replace(unfinished, path)
