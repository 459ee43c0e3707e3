"""What `benchmarks/speeds.py` is told, and what it says of cells."""

import importlib
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
    [("--tables=sures", "--tables: there is none called sures"), ("--arms=txt", "--arms: there is none called txt")],
)
def test_what_there_is_not_is_said(option, message, tmp_path):
    command = [sys.executable, BENCHMARKS / "speeds.py", f"--out={tmp_path}", "--only_table", option]
    ran = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert ran.returncode == 2 and message in ran.stderr
