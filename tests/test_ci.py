"""What `.ci/run` names is there to be run: a path of its lists that selects no test fails nothing by itself."""

import fnmatch
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMAND = re.compile(r"^\.venv/bin/python -m pytest (.*)$", flags=re.MULTILINE)


def lists_of_ci() -> list[tuple[str, list[str]]]:
    """The marker and the paths of each call of pytest that names its own, as bash reads them; wildcards are left."""
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8").replace("\\\n", " ")
    lists = []
    for arguments in COMMAND.findall(text):
        script = f"set -f; printf '%s\\n' {arguments}"
        read = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        option, marker, *paths = read.stdout.splitlines()
        assert option == "-m"
        lists.append((marker, paths))
    return lists


def without_a_test(marker: str, paths: list[str]) -> list[str]:
    """Those of the paths that select nothing under the marker."""
    found = [sorted(map(str, ROOT.glob(path))) if "*" in path else [path] for path in paths]
    named = [path for of_path in found for path in of_path]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n0", "-p", "no:cacheprovider", "-m", marker]
    collected = subprocess.run([*command, *named], cwd=ROOT, capture_output=True, text=True, check=False)
    assert collected.returncode == 0, f"{shlex.join(named)}\n{collected.stdout[-3000:]}{collected.stderr[-3000:]}"
    tests = [line for line in collected.stdout.splitlines() if "::" in line]
    return [path for path in paths if not any(is_of(test, path) for test in tests)]


def is_of(test: str, path: str) -> bool:
    """Whether a test is what a path names: a case or all of a function, a file, or a folder."""
    if "*" in path:
        return fnmatch.fnmatchcase(test.partition("::")[0], path)
    return test == path or any(test.startswith(f"{path}{after}") for after in ("[", "::", "/"))


def test_lists_are_read_as_bash_reads_them():
    ((marker, paths),) = lists_of_ci()
    assert marker == "slow and not variant" and len(paths) > 50
    assert {"tests/test_*.py", "tests/exchange", "tests/rl/test_annealing.py", "tests/rl/test_words.py"} <= set(paths)
    assert not any(set(path) & set("{}\"'$\\ ") for path in paths)


@pytest.mark.slow
def test_every_path_that_ci_names_selects_a_test():
    """One that does not is added to those of each list: it is found."""
    fast = f"tests/{Path(__file__).name}::{test_lists_are_read_as_bash_reads_them.__name__}"
    for marker, paths in lists_of_ci():
        assert without_a_test(marker, [*paths, fast]) == [fast]
