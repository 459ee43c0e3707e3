"""A config that varies another one: the other is a file beside it."""

import runpy
import types
from pathlib import Path

from colar_jax.errors import UserError


def config_beside(file: str, name: str) -> types.SimpleNamespace:
    """What the config file `name`.py beside `file` defines: its `get_config`, and its constants.

        colar = config_beside(__file__, "gsm8k_colar")
        config = colar.get_config("smoke")

    Args:
        file: the config that varies the other, `__file__` in it.
        name: of the other, without ending.

    Raises:
        UserError: there is no such file.
    """
    path = Path(file).with_name(f"{name}.py")
    if not path.is_file():
        raise UserError(f"{file} varies {path}, which is not there")
    return types.SimpleNamespace(**runpy.run_path(str(path)))
