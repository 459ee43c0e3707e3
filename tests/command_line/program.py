"""A program that takes a config, called as from a shell."""

import dataclasses
import sys

from colar_jax.command_line import run_main
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
