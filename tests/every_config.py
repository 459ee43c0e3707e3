"""The config files of the project, and every config that one of them has."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

from colar_jax.config import Config, resolve

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
of_each_file = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def configs_in(path: Path) -> Iterator[Config]:
    """Without an argument, and with each one that the file says it knows."""
    get_config = runpy.run_path(str(path))["get_config"]
    with pytest.raises(ValueError, match="knows the argument") as known:
        get_config("?")
    names = re.search(r"knows the arguments? (.*), not", str(known.value))[1]
    for argument in ("", *(name for name in re.findall(r"\w+", names) if name != "and")):
        yield resolve(get_config(argument))
