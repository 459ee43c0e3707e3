"""The report as one page that needs nothing else: no server, no network, no other file."""

import dataclasses
import html
import json
from collections.abc import Iterable, Sequence
from importlib import resources

from colar_jax.report.results import THOUGHTS
from colar_jax.report.table_text import csv_text, latex_text
from colar_jax.report.tables import Table

# Of each row and data set; `samples.jsonl` has all of them.
MAX_SAMPLES = 200

_ASSETS = resources.files("colar_jax.report") / "page_assets"
_SCRIPTS = ("plot.js", "tables.js", "samples.js", "page.js")


def page(numbers: dict, tables: Sequence[Table], samples: Sequence[dict]) -> str:
    """The page's HTML: the numbers of `report.json`, tables and some samples, drawn by its own script.

    Samples of stages that think in latents come before those of chains of thought.

    Everything that was written by others (questions, answers, names) is in one block of JSON in which no `<` stands, so
    that no text can end it, and the script makes text nodes of it, never markup.
    """
    thinks_in = {(result["run"], result["stage"]): result["thinks_in"] for result in numbers["results"]}

    def kind(sample: dict) -> int:
        return THOUGHTS.index(thinks_in.get((sample.get("run", ""), sample["stage"]), ""))

    shown, num_left_out = _some(sorted(samples, key=kind))
    data = {
        "report": numbers,
        "tables": [_table_data(table) for table in tables],
        "samples": shown,
        "samplesLeftOut": num_left_out,
    }
    parts = {
        "TITLE": html.escape(numbers["title"]),
        "STYLE": (_ASSETS / "page.css").read_text(encoding="utf-8"),
        "DATA": _inert_json(data),
        "SCRIPT": "\n".join((_ASSETS / name).read_text(encoding="utf-8") for name in _SCRIPTS),
    }
    # Split at the places first: what is put in one of them may well say the name of another.
    pieces = (_ASSETS / "page.html").read_text(encoding="utf-8").split("@@")
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _table_data(table: Table) -> dict:
    """A table for the script, with the texts that its buttons copy."""
    return dataclasses.asdict(table) | {"latex": latex_text(table), "csv": csv_text([table.header, *table.rows])}


def _inert_json(data: dict) -> str:
    """JSON that is the same to a JSON reader and says nothing to one of HTML."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _some(samples: Iterable[dict]) -> tuple[list[dict], int]:
    """The first samples of each row and data set, and how many there are besides."""
    counts: dict[tuple, int] = {}
    shown, num_left_out = [], 0
    for sample in samples:
        names = ("run", "stage", "dataset", "speed", "latent_limit", "temperature", "trim")
        group = tuple(sample.get(name) for name in names)
        counts[group] = counts.get(group, 0) + 1
        if counts[group] <= MAX_SAMPLES:
            shown.append(sample)
        else:
            num_left_out += 1
    return shown, num_left_out
