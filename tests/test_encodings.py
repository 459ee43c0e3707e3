"""Text files are UTF-8, whatever the locale says: every text file that the package opens says so."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "colar_jax"
TEXT = {"read_text", "write_text"}


def without_encoding(source: str) -> list[int]:
    """The lines with a call that opens a text file in the locale's encoding."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        words = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        is_binary = any(isinstance(word, str) and "b" in word and len(word) <= 3 for word in words)
        keywords = {keyword.arg for keyword in node.keywords}
        # gzip's and tarfile's open are binary; so is one without a mode there.
        of_module = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") in ("gzip", "os")
        opens = name in TEXT or (name == "open" and not is_binary and not of_module)
        true = {keyword.arg for keyword in node.keywords if getattr(keyword.value, "value", None) is True}
        asks_for_text = bool(true & {"text", "universal_newlines"})
        if (opens or asks_for_text) and "encoding" not in keywords:
            lines.append(node.lineno)
    return lines


def test_what_is_found():
    assert without_encoding("open(a)\nopen(a, 'w')\np.read_text()\nrun(a, text=True)") == [1, 2, 3, 4]
    assert without_encoding("open(a, 'rb')\nopen(a, encoding='utf-8')\ngzip.open(a)\np.open('r+b')") == []


def test_every_text_file_is_opened_as_utf8():
    found = {str(path): without_encoding(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
    assert not {path: lines for path, lines in found.items() if lines}
