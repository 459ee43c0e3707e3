"""A reader of the first lines (`... | head`) ends a program without a word; a broken pipe of another kind is a bug."""

import io
import os
import sys

import pytest

from colar_jax.command_line import program


def print_in_a_program(lines: int, *, flush: bool) -> None:
    with program._mistakes_in_one_line():
        for _ in range(lines):
            print("a line", flush=flush)
        sys.stdout.flush()


@pytest.mark.parametrize("lines", [1, 100_000])
@pytest.mark.parametrize("flush", [True, False])
def test_the_program_ends_quietly(monkeypatch, lines, flush):
    reader, writer = os.pipe()
    os.close(reader)  # who read has gone
    # Not in a fixture: pytest's own capture takes sys.stdout back before a test begins.
    with open(writer, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        with pytest.raises(SystemExit) as ended:
            print_in_a_program(lines, flush=flush)
        sys.stdout.flush()  # as Python does at the end
        said = sys.stderr.getvalue()
        monkeypatch.undo()
    assert ended.value.code == 141 and said == ""


def test_a_pipe_of_the_program_itself_is_a_bug():
    with pytest.raises(BrokenPipeError), program._mistakes_in_one_line():
        raise BrokenPipeError
