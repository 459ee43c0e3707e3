"""Objects of the user's own that a setting names by their import path: `package.module:NAME`."""

import pkgutil
from collections.abc import Iterable
from typing import Any

from colar_jax.errors import UserError
from colar_jax.settings.checks import nearest


def is_import_path(text: str) -> bool:
    """Whether a name says that it is to be imported; no name of the project's own has a colon."""
    return ":" in text


def import_object(setting: str, path: str) -> Any:
    """What `package.module:NAME` names. A module in the folder where the command is started is found too.

    Args:
        setting: the setting as a user writes it, for messages: "rl.reward".

    Raises:
        UserError: the path is not of this form, the module cannot be imported (whatever it raises), or it has no such
            name.
    """
    module, _, name = path.partition(":")
    if not module or not name:
        raise UserError(f"{setting}={path!r} names nothing: write package.module:NAME")
    try:
        return pkgutil.resolve_name(path)
    except ValueError as error:
        # Of the path's form if the module cannot even be looked for; else the module itself raised it.
        raise UserError(f"{setting}={path!r} cannot be imported: {error}; write package.module:NAME") from error
    except Exception as error:
        raise UserError(f"{setting}={path!r} cannot be imported: {type(error).__name__}: {error}") from error


def unknown_name(setting: str, name: str, known: Iterable[str], own: str) -> UserError:
    """The error for a name that is neither `known` nor an import path; `own` says what may be named: "A method"."""
    known = list(known)
    return UserError(
        f"{setting}={name!r} is none of {', '.join(known)}.{nearest(name, known)} {own} of your own is named as "
        "package.module:NAME"
    )
