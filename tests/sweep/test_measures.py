"""A measure, computed question by question, is in every file, outlives a kill, and may be younger than a sweep."""

import csv
import json

import numpy as np
import pytest
from sweep.tiny_runs import make_run

from colar_jax.evaluation.measures import MEASURES, Measure
from colar_jax.report import columns
from colar_jax.report.files import read_report
from colar_jax.runs.sweep.sweep import sweep

CHARACTERS = Measure("characters", int, lambda answers: np.array([len(text) for text in answers.texts]))
COLUMN = columns.Column("mean_characters", lambda result: result.mean_of("characters"), "characters", "{:.3f}".format)


@pytest.fixture
def with_measure(monkeypatch):
    """The two entries that a column needs."""
    monkeypatch.setitem(MEASURES, CHARACTERS.name, CHARACTERS)
    monkeypatch.setattr(columns, "COLUMNS", (*columns.COLUMNS, COLUMN))


def means_of(folder) -> list[float | None]:
    return [result["mean_characters"] for result in read_report(folder)["results"]]


@pytest.mark.slow
def test_a_column_of_one_measure_is_in_every_file_and_goes_on(tmp_path, with_measure):
    config, folder = make_run(tmp_path / "run", run="colar", **{"eval.speeds": "2"}), tmp_path / "out"
    sweep([config], folder)
    means = means_of(folder)
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [sample["characters"] for sample in samples] == [len(sample["text"]) for sample in samples]
    assert means[0] == np.mean([sample["characters"] for sample in samples]) > 0
    with (folder / "results.csv").open() as file:
        assert [float(line["mean_characters"]) for line in csv.DictReader(file)] == means
    for name in ("report.md", "results.tex", "report.html"):
        text = (folder / name).read_text(encoding="utf-8")
        assert "characters" in text and f"{means[0]:.3f}" in text, name

    cells = folder / "cells.jsonl"
    lines = cells.read_bytes().splitlines(keepends=True)
    cells.write_bytes(lines[0])  # killed after the first cell
    sweep([config], folder)
    assert means_of(folder) == means

    older = [json.loads(line) for line in lines]
    for record in older:
        del record["outcome"]["characters_N"]
    cells.write_text("".join(json.dumps(record) + "\n" for record in older))
    sweep([config], folder)
    assert means_of(folder) == [None] * len(means), "a sweep of before the measure does not know it, and still counts"
    assert len(cells.read_text().splitlines()) == len(lines)
