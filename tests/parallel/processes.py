"""Processes of one run on the loopback."""

import socket
import subprocess
from collections.abc import Sequence


def free_address() -> str:
    """A host and a port at which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return f"localhost:{listener.getsockname()[1]}"


def ended(started: Sequence[subprocess.Popen], seconds: float) -> list[tuple[int, str]]:
    """The exit status of each process and all that it says, on what of its output is a pipe; none is left behind."""
    try:
        said = ["".join(filter(None, process.communicate(timeout=seconds))) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]
