"""The report of an evaluation: one set of results, written for people, for programs and for a browser."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

from colar_jax.json_object import read_json_object
from colar_jax.report.differences import Difference, differences
from colar_jax.report.markdown import causal_table, cost_table, differences_table, markdown_table
from colar_jax.report.numbers import csv_text, report_numbers
from colar_jax.report.page import page
from colar_jax.report.pareto import pareto_points
from colar_jax.report.pareto_plot import pareto_figure, picture
from colar_jax.report.results import Result
from colar_jax.report.rows import datasets_of, table_rows

MARKDOWN_FILE = "report.md"
JSON_FILE = "report.json"
CSV_FILE = "results.csv"
PLOT_FILES = {"png": "pareto.png", "svg": "pareto.svg"}
PAGE_FILE = "report.html"


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """What there is to report."""

    title: str
    notes: str
    results: Sequence[Result]
    reference: str = ""  # what the others are compared with, as `differences` takes it
    causal: Sequence[dict] = ()  # tests of whether the latents are used (`markdown.causal_table`)
    timing: dict | None = None  # what the evaluation took
    samples: Sequence[dict] = ()  # for the page: what became of some questions

    def differences(self) -> list[Difference]:
        """Every row minus the reference."""
        return differences(table_rows(self.results), self.reference)


def numbers_of(report: Report) -> dict:
    """Everything that `report.json` holds: `numbers.report_numbers`, and what was measured besides."""
    return {
        "title": report.title,
        "notes": report.notes,
        **report_numbers(report.results, report.differences()),
        **({"causal": list(report.causal)} if report.causal else {}),
        **({"timing": report.timing} if report.timing else {}),
    }


def markdown_of(report: Report) -> str:
    """The text of `report.md`; a section that has nothing to say is left out."""
    sections = [
        f"# {report.title}\n",
        f"{report.notes.strip()}\n" if report.notes.strip() else "",
        markdown_table(report.results),
        differences_table(report.differences()),
        causal_table(report.causal),
        cost_table(report.results),
    ]
    return "\n".join(filter(None, sections))


def write_report(folder: str | os.PathLike, report: Report) -> None:
    """Write the report's files into the folder, made if missing.

    `report.md`, `report.json`, `results.csv`, the plot as `pareto.png` and `pareto.svg`, and `report.html`, which needs
    none of the others. Each file is replaced as a whole: a kill at any moment leaves either the old one or the new one.

    Raises:
        UserError: there are no results, two are for the same cell, or no row is the reference. Nothing is written
            then.
    """
    numbers = numbers_of(report)
    figure = pareto_figure(pareto_points(table_rows(report.results), datasets_of(report.results)))
    files = {
        CSV_FILE: csv_text(report.results).encode(),
        **{name: picture(figure, kind) for kind, name in PLOT_FILES.items()},
        PAGE_FILE: page(numbers, report.samples).encode(),
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
