"""A JSON object out of a file, or one sentence that names the file."""

import json
from pathlib import Path
from typing import Any

from colar_jax.errors import UserError


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: the file cannot be read, is not JSON in UTF-8, holds something else than an object, or an object in
            it has a key twice.
    """
    try:
        found = json.loads(path.read_bytes(), object_pairs_hook=_without_repeats)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except RecursionError:
        raise UserError(f"{path} is not readable JSON: it is nested too deeply") from None
    except ValueError as error:  # not JSON, not UTF-8, a key twice, or a number of too many digits
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}, not an object ({{...}})")
    return found


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice")
    return found
