"""A program that takes a config, called as from a shell."""

import dataclasses
import sys

from colar_jax.command_line import flag, run_main
from colar_jax.config import Config

CONFIG_FILE = """
from colar_jax.config import defaults, stage_defaults

def get_config(argument=""):
    config = defaults()
    config.title = argument or "whole"
    config.stages.cot = stage_defaults(method="cot", steps=10)
    config.stages.colar = stage_defaults(method="colar", steps=20)
    return config
"""


@dataclasses.dataclass(frozen=True)
class Flags:
    """One flag of each type."""

    out: str = flag("", "a folder")
    form: str = flag("whole", "how much of it", ("whole", "half"))
    times: int = flag(1, "how often")
    scale: float = flag(0.5, "how much")
    show: bool = flag(False, "whether to show it")


@dataclasses.dataclass(frozen=True)
class Ran:
    config: Config | None  # what the program was called with
    flags: object  # and its own flags, if it has any
    status: int
    errors: list[str]  # the lines on stderr


def call(argv: list[str], main=None, flags=None, source=None) -> tuple[Config | None, object, int]:
    """What the program is called with for these words, and its exit status; standard error is left where it goes."""
    called, status, before = [], 0, sys.argv
    sys.argv = ["program", *argv]
    try:
        run_main(main or (lambda *given: called.extend(given)), flags, source)
    except SystemExit as stop:
        status = stop.code
    finally:
        sys.argv = before
    config, own = (*called, None, None)[:2]
    return config, own, status


def assert_refused(ran: Ran, line: str):
    """One line, exit status 2, and nothing ran."""
    assert (ran.status, ran.errors, ran.config) == (2, [f"error: {line}"], None)
