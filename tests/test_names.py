"""No two things of the package share a name: what a name means does not depend on where it is read."""

import ast
import collections
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "colar_jax"
# Files that run by themselves: one goes out to users of PyTorch, one is a process of its own.
BY_THEMSELVES = {PACKAGE / "exchange" / "colar_torch.py", PACKAGE / "data" / "math_worker.py"}
OF_EVERY_COMMAND = {"Flags"}


def names_of(path: Path) -> set[str]:
    """The public functions, classes and constants that a file defines."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")} - {"logger"}


def shared(named: dict[str, set[str]]) -> dict[str, set[str]]:
    return {name: places for name, places in named.items() if len(places) > 1}


def test_functions_classes_and_constants_have_names_of_their_own():
    named = collections.defaultdict(set)
    for path in set(PACKAGE.rglob("*.py")) - BY_THEMSELVES:
        for name in names_of(path) - OF_EVERY_COMMAND:
            named[name].add(str(path.relative_to(PACKAGE)))
    assert not shared(named)


def test_modules_have_names_of_their_own():
    named = collections.defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        if path.stem != "__init__":
            named[path.stem].add(str(path.relative_to(PACKAGE)))
    assert not shared(named)
