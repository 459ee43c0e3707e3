"""What a disk refuses is one line and exit status 2."""

import os
from pathlib import Path

import pytest
from cases import fast
from pipeline.tiny import TINY, config_flags, start

from colar_jax.training.disk import refusal_of_disk

# The child's files may grow to so many bytes: what a full disk is to a save, wherever the test runs.
LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
from colar_jax.train import Flags, run_main, train_command
run_main(train_command, Flags)
"""


def flags(workdir: Path) -> list[str]:
    return config_flags(TINY | {"run": "cot", "workdir": str(workdir)})


@pytest.mark.parametrize(
    ("place", "words"),
    fast([("file", "File exists"), ("file/run", "Not a directory")], ("file/run", "Not a directory")),
)
def test_a_file_in_the_place_of_the_folder(tmp_path, place, words):
    (tmp_path / "file").write_text("in the way")
    _, errors = start("-m", "colar_jax.train", *flags(tmp_path / place)).communicate(timeout=120)
    assert errors == f"error: {tmp_path / place}: {words}\n"


@pytest.mark.slow
def test_a_disk_that_is_full_is_one_line(tmp_path):
    environment = {"JAX_ENABLE_COMPILATION_CACHE": "0"}
    process = start("-c", LIMITED, *flags(tmp_path / "run"), environment=environment)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 2, errors[-3000:]
    assert errors.count("\n") == 1 and "File too large" in errors and "the same command goes on" in errors, errors
    assert "Traceback" not in output, output[-3000:]


def test_the_words_of_the_disk_are_found_in_what_wraps_them():
    wrapped = RuntimeError("saving failed")
    wrapped.__cause__ = OSError(28, os.strerror(28))
    assert refusal_of_disk(wrapped) == "No space left on device"
    assert refusal_of_disk(ValueError("RESOURCE_EXHAUSTED: ... : No space left on device [os_error_code='28']"))
    denied = RuntimeError("ptxas: Permission denied")
    assert refusal_of_disk(denied) is None and refusal_of_disk(denied, of_a_save=True) == "Permission denied"
    fault = KeyError("of the program, while another error was handled")
    fault.__context__ = PermissionError(13, "Permission denied")
    assert refusal_of_disk(fault) is None and refusal_of_disk(fault, of_a_save=True)
    assert refusal_of_disk(ValueError("another")) is None and refusal_of_disk(FileNotFoundError(2, "x")) is None
