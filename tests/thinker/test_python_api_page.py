"""docs/python_api.md: every output on it is what the demo model says, every name on it is there."""

import dataclasses
import doctest
import re
from pathlib import Path

import pytest
from demo_model import make_demo_run

import colar_jax

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "python_api.md"
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def session() -> str:
    """All examples of the page, one after the other."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))


def test_every_field_of_an_answer_is_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    fields = {field.name for field in dataclasses.fields(colar_jax.Answer)} - {"question", "stage", "speed"}
    assert [name for name in sorted(fields) if f"`{name}`" not in text] == []


def test_every_option_is_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    documented = colar_jax.Thinker.generate.__doc__
    options = re.findall(r"^            ([a-z_]+): ", documented, re.MULTILINE)
    assert len(options) > 8
    assert [name for name in options if name != "questions" and f"| `{name}` |" not in text] == []


@pytest.mark.slow
def test_the_session_is_as_it_says(tmp_path, monkeypatch):
    make_demo_run(tmp_path / "runs" / "arithmetic_two_speeds")
    monkeypatch.chdir(tmp_path)
    examples = doctest.DocTestParser().get_doctest(session(), {}, PAGE.name, str(PAGE), 0)
    assert len(examples.examples) > 20
    said: list[str] = []
    results = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False).run(examples, out=said.append)
    assert results.failed == 0, "".join(said)
