"""The methods by name. A new one is one file beside these, and one line here; or it is named by its import path."""

from colar_jax.errors import UserError
from colar_jax.methods.coconut import COCONUT
from colar_jax.methods.codi import CODI
from colar_jax.methods.colar import COLAR
from colar_jax.methods.cot import COT
from colar_jax.methods.icot import ICOT
from colar_jax.methods.method import Method
from colar_jax.methods.no_cot import NO_COT
from colar_jax.settings import import_object, is_import_path, unknown_name

METHODS: dict[str, Method] = {
    "no_cot": NO_COT,
    "cot": COT,
    "colar": COLAR,
    "icot": ICOT,
    "coconut": COCONUT,
    "codi": CODI,
}


def find_method(name: str, setting: str = "method") -> Method:
    """The method of a stage: one of `METHODS`, or a `Method` of the user's by its import path, `package.module:NAME`.

    Args:
        setting: what the name was given as, for messages: "stages.colar.method".

    Raises:
        UserError: there is no such method, it cannot be imported, or what is imported is no `Method`.
    """
    if name in METHODS:
        return METHODS[name]
    if not is_import_path(name):
        raise unknown_name(setting, name, METHODS, "A method")
    method = import_object(setting, name)
    if not isinstance(method, Method):
        raise UserError(f"{setting}={name!r} is of type {type(method).__name__}: a methods.method.Method is wanted")
    return method
