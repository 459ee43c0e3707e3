"""A list of questions, one a line: `generate` reads it from standard input as `export` does from a file."""

import io
import sys

import pytest

from colar_jax import export, generate
from colar_jax.errors import UserError

MARK = b"\xef\xbb\xbf"


def of_standard_input(data: bytes, monkeypatch) -> list[str]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="surrogateescape"))
    return [question for _, question in generate._questions()]


def of_a_file(data: bytes, folder) -> list[str]:
    (folder / "questions.txt").write_bytes(data)
    return export._questions(str(folder / "questions.txt"))


@pytest.mark.parametrize(
    ("data", "questions"),
    [
        (b"Tom?\nEva?\n", ["Tom?", "Eva?"]),
        (MARK + b"Tom?\r\n\r\n Eva? ", ["Tom?", "", "Eva?"]),
        (MARK + b"\nTom?", ["", "Tom?"]),
        (MARK + b" Tom?", ["Tom?"]),
        (b" " + MARK + b"Tom?", ["Tom?"]),
        (b"Tom?\n" + MARK + b"Eva?", ["Tom?", "Eva?"]),  # two such files, one after the other
        ("Tom\ufeff?".encode(), ["Tom\ufeff?"]),
        ("Tom,\u2028Eva\u2029?\nAnn\x85 or\x0b Max\x0c or\x1c Ben?".encode(), None),
    ],
)
def test_both_commands_read_the_same_lines(data, questions, tmp_path, monkeypatch):
    questions = data.decode().split("\n") if questions is None else questions
    assert of_standard_input(data, monkeypatch) == questions
    assert of_a_file(data, tmp_path) == list(filter(None, questions))


def test_what_is_not_utf8_is_named(tmp_path, monkeypatch):
    data = b"Tom?\n\xffEva?"
    with pytest.raises(UserError, match="^line 2 of standard input is not UTF-8"):
        of_standard_input(data, monkeypatch)
    with pytest.raises(UserError, match="questions.txt:2 is not UTF-8"):
        of_a_file(data, tmp_path)


def test_a_mark_alone_is_no_question(tmp_path):
    with pytest.raises(UserError, match="has no question in it"):
        of_a_file(MARK + b"\n", tmp_path)
