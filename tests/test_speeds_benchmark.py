"""What `benchmarks/speeds.py` is told, and what it says of cells."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_a_mean_of_some_cells_says_of_how_many(monkeypatch):
    """A model that says one speed to every question has no rank correlation."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    of_some = importlib.import_module("speeds_tables").of_some
    assert of_some([], [{}, {}]) == "-"
    assert of_some([-0.5], [{}, {}]).endswith("(of 1)")
    assert "of" not in of_some([-0.5, -0.7], [{}, {}])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--tables=sures", "--tables: there is none called sures"),
        ("--tables=main,main", "--tables: main,main: one is named twice"),
        ("--arms=txt", "--arms: there is none called txt"),
        ("--seeds=0,0", "--seeds: 0,0: a seed is named twice"),
        ("--seeds=0;1", "--seeds: '0;1' are no seeds"),
    ],
)
def test_what_there_is_not_is_said(option, message, tmp_path):
    command = [sys.executable, BENCHMARKS / "speeds.py", f"--out={tmp_path}", "--only_table", option]
    ran = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert ran.returncode == 2 and message in ran.stderr


def test_a_cell_with_two_lines_counts_once(monkeypatch, tmp_path, capsys):
    """As they were written where a seed was named twice: the latest."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    write_cells(tmp_path, (0, 10.0), (0, 30.0))
    monkeypatch.setattr(sys, "argv", ["speeds.py", f"--out={tmp_path}", "--tables=weights", "--only_table"])
    importlib.import_module("speeds").main()
    printed = capsys.readouterr().out
    assert "seeds: example 1" in printed and "| 30.0 |" in printed


def test_the_table_is_of_the_seeds_and_arms_that_are_asked_for(monkeypatch, tmp_path, capsys):
    """Also of cells that were trained with other --steps: printing trains nothing."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    write_cells(tmp_path, (0, 10.0), (1, 20.0), (2, 90.0), changes={"stages.colar.steps": 9})
    command = ["speeds.py", f"--out={tmp_path}", "--tables=weights", "--only_table"]
    for option, said in (("--seeds=0,1", "example 2"), ("--seeds=2", "| 90.0 |"), ("--arms=position", "")):
        monkeypatch.setattr(sys, "argv", [*command, option])
        importlib.import_module("speeds").main()
        assert said in capsys.readouterr().out if said else capsys.readouterr().out == ""


def write_cells(folder: Path, *of_seeds: tuple[int, float], **more) -> None:
    """A file of cells, a line for each seed and its accuracy."""
    cells = [
        {"experiment": "weights", "arm": "example", "seed": seed, "speeds": {"2": {
            "accuracy": accuracy, "length": 2.0, "gold": 2.0, "was_trained": True}}} | more
        for seed, accuracy in of_seeds
    ]  # fmt: skip
    (folder / "cells.jsonl").write_text("".join(json.dumps(cell) + "\n" for cell in cells))
