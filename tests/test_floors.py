"""The contract of imports has at most ten floors, and docs/architecture.md has a line for each, in its order."""

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def floors() -> list[set[str]]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    layers = parser["importlinter:contract:floors"]["layers"].split("\n")
    return [set(re.findall(r"\w+", layer)) for layer in layers if layer.strip()]


def test_the_docs_have_every_floor_in_its_order():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.*?) \| (.+?) \| (.+?) \|$", page, re.MULTILINE)
    assert [int(number) for number, *_ in rows] == list(range(1, len(floors()) + 1)) and len(rows) <= 10
    for floor, (number, names, lives, does_not) in zip(floors(), rows, strict=True):
        named = set(re.findall(r"`(\w+)`", names))
        assert named <= floor, number
        # The last one ends in "and other single files".
        assert named == floor or (int(number) == len(rows) and "other single files" in names), number
        assert lives and does_not


def test_every_module_has_a_floor():
    modules = {path.stem for path in (ROOT / "colar_jax").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert modules - {"__init__", "__pycache__"} == set.union(*floors())
