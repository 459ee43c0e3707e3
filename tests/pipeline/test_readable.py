"""A run reads its problems back before it trains or decodes anything."""

import json
import logging

import pytest
from pipeline.tiny import tiny_config

from colar_jax.errors import UserError
from colar_jax.runs.run import prepare


def row(number, steps=("<<1+1=2>>",), answer="2"):
    return {"question": f"Tom has {number} pens. How many pens now?", "steps": list(steps), "answer": answer}


def opened(tmp_path, rows, **settings):
    """The tiny run on a file of these rows."""
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"train": str(path), "train_limit": 0, "num_test": 0, "test": "", **settings}
    return prepare(tiny_config(tmp_path / "work", **{f"data.{name}": value for name, value in data.items()}))


@pytest.mark.parametrize(("line", "name"), [(1, "train"), (9, "val"), (10, "test")])
def test_an_unreadable_problem_of_any_set_is_named_with_its_line(tmp_path, line, name):
    rows = [row(n) for n in range(10)]
    rows[line - 1] = row(line - 1, ["### 1"])
    with pytest.raises(UserError, match=rf"^{name}: 1 of \d problems would be judged wrong .*own.jsonl:{line}: '###'"):
        len(opened(tmp_path, rows).train)


def test_lengths_are_logged(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        opened(tmp_path, [row(n, ["<<1+1=2>>"] * 60, "2" * 30) for n in range(10)])
    assert "val: 1 of 1 answers are longer than decode.max_answer_tokens=3 (the longest: 17)" in caplog.text
    assert "test: 1 of 1 chains of thought are longer than decode.max_step_tokens=5 (the" in caplog.text
    assert "test: 1 of 1 chains at speed 2 are longer than decode.max_latents=4 (the" in caplog.text
