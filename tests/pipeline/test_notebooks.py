"""The notebooks run from top to bottom on tiny runs. One is kept with its outputs, to be read; the other without."""

import os
import re
from pathlib import Path

import pytest
from pipeline.tiny import ROOT

nbformat = pytest.importorskip("nbformat", reason="needs the extra `notebook`")
nbclient = pytest.importorskip("nbclient", reason="needs the extra `notebook`")

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def run_notebook(path: Path, monkeypatch, environment: dict) -> str:
    """Everything that an executed notebook shows as text; pictures as `<picture>`."""
    paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    for name, value in (environment | {"PYTHONPATH": os.pathsep.join(paths)}).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    # A kernel may flush between two words of a print: coalesced, a line is a line.
    nbclient.NotebookClient(
        notebook, timeout=300, coalesce_streams=True, resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    shown = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            shown.append(output.get("text", ""))
            shown.append("<picture>" if "image/png" in data else data.get("text/markdown", ""))
    return "\n".join(shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_quickstart_is_kept_with_outputs_and_the_other_without(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if path.stem != "quickstart":
        assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
        return
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run once, from top to bottom"
    outputs = [output for cell in code for output in cell.outputs]
    assert all(output.get("name") != "stderr" and output.output_type != "error" for output in outputs)
    text = "\n".join(output.get("text", "") + output.get("data", {}).get("text/markdown", "") for output in outputs)
    assert "| colar | 2 | greedy |" in text and "P(stop)" in text and ": right" in text
    assert not re.search(r"(?<![\w.])/\w+/", text), "no path of the machine that it ran on"
    assert path.stat().st_size < 20_000


def test_there_are_two_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["evaluation", "quickstart"]


@pytest.mark.slow
def test_evaluation(finished, monkeypatch):
    environment = {"COLAR_WORKDIR": str(finished), "COLAR_NUM_QUESTIONS": "4"}
    shown = run_notebook(ROOT / "notebooks" / "evaluation.ipynb", monkeypatch, environment)
    assert shown.count("<picture>") == 3, "accuracy against length, latents, errors"
    assert "| colar | 2 | greedy |" in shown and "tokens of the gold groups among the nearest words: {'at 1'" in shown
    assert all(name in shown for name in ("none", "zero", "shuffle", "swap", "truncate"))
    assert "nothing shows that the latents are used" in shown, "a model that has learned nothing yet"


@pytest.mark.slow
def test_quickstart(tmp_path, monkeypatch):
    environment = {"COLAR_WORKDIR": str(tmp_path / "run"), "COLAR_CONFIG_ARGUMENT": "smoke"}
    shown = run_notebook(ROOT / "notebooks" / "quickstart.ipynb", monkeypatch, environment)
    assert "| colar | 2 | greedy |" in shown and "P(stop)" in shown and "right is " in shown
    assert shown.count(" latents): ") == 8
