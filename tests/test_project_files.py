"""The files for people: links lead somewhere, and the citation is what its format asks for and of this version."""

import configparser
import importlib
import re
from pathlib import Path

import pytest
import yaml

import colar_jax

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "tests" / "golden").glob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"")


def anchors_of(page: Path) -> set[str]:
    """The anchors that a forge gives the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for found in LINK.findall(page.read_text(encoding="utf-8")):
        target, _, anchor = "".join(found).partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors_of(path), f"{page.name} links to {target}#{anchor}"


def test_every_page_of_the_docs_is_in_the_map_of_the_readme():
    linked = set(re.findall(r"\((docs/\w+\.md)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= linked


def test_every_file_of_the_package_is_in_the_map_of_the_architecture():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = (path for path in (ROOT / "colar_jax").rglob("*.py") if not path.stem.startswith("__"))
    assert [str(path) for path in files if not re.search(rf"\b{path.stem}\b", text)] == []


def test_the_citation_is_complete_and_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys(), "what version 1.2.0 asks for"
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "Apache-2.0"
    assert str(citation["version"]) == colar_jax.__version__
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= paper.keys() and "2505.16552" in paper["url"]


def test_the_changelog_has_this_version_and_a_place_for_the_next():
    headings = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert headings[0] == "Unreleased" and colar_jax.__version__ in headings
    assert len(headings) == len(set(headings))


def test_extras_are_installed_in_one_way():
    """As the README does it, from the checkout: no index has the package."""
    folders = ("colar_jax", "configs", "benchmarks", "notebooks")
    sources = [path for name in folders for path in (ROOT / name).rglob("*") if path.suffix in (".py", ".ipynb")]
    texts = {str(path): path.read_text(encoding="utf-8") for path in [*PAGES, *sources]}
    assert [path for path, text in texts.items() if re.search(r"colar[_-]jax\[|extra \W?\[", text)] == []
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    named = {found for text in texts.values() for found in re.findall(r"pip install -e '\.\[([^\]]*)\]'", text)}
    assert {"serve", "wandb", "gguf"} <= named <= set(setup["options.extras_require"])


PATH = re.compile(r"`((?:\w+/)+\w+\.(?:py|sh|ipynb|npz|json|md))(?::\w+)?`")
# Written by a run, or made by a reader.
NOT_IN_THE_PROJECT = re.compile(r"runs/|exported/|methods/mine")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_are_there(page):
    """From the root of the project, from the package, or from beside the page."""
    for name in PATH.findall(page.read_text(encoding="utf-8")):
        places = (ROOT, ROOT / "colar_jax", page.parent)
        if not NOT_IN_THE_PROJECT.match(name):
            assert any((place / name).is_file() for place in places), f"{page.name} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_imports_in_examples_work(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        for module, names in re.findall(r"^from (colar_jax[\w.]*) import ([\w, ]+)$", block, flags=re.MULTILINE):
            for name in names.split(","):
                assert hasattr(importlib.import_module(module), name.strip()), f"{page.name}: {module} has no {name}"


MODULES = {path.stem: path for path in (ROOT / "colar_jax").rglob("*.py")}
OF_OTHERS = {"model.resize_token_embeddings"}  # of transformers
FUNCTION = re.compile(r"`(?:\w+\.)*(\w+)\.([a-z]\w*_\w+)(?:\([^`]*)?`")


def test_functions_that_are_named_with_their_module_are_there():
    """In docs and docstrings: `module.function_name`, of a module of the package."""
    texts = {path: path.read_text(encoding="utf-8") for path in [*PAGES, *(ROOT / "colar_jax").rglob("*.py")]}
    named = {(path.name, *found) for path, text in texts.items() for found in FUNCTION.findall(text)}
    # A module with its package, `package.module_name`, is written in this form, too.
    known = [(page, module, name) for page, module, name in named if module in MODULES and name not in MODULES]
    assert len(known) > 20
    settings = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    missing = [
        (page, f"{module}.{name}")
        for page, module, name in known
        if not re.search(rf"\b{name}\b", texts[MODULES[module]]) and f"`{name}`" not in settings
    ]
    assert [found for found in missing if found[1] not in OF_OTHERS] == []
