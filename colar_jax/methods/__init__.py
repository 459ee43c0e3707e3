"""The methods by name. A new one is one file beside these, and one line here; or it is named by its import path."""

import dataclasses
import inspect
import typing

from colar_jax.errors import UserError
from colar_jax.methods.adaptive import Adaptive
from colar_jax.methods.coconut import Coconut
from colar_jax.methods.codi import Codi
from colar_jax.methods.colar import Colar
from colar_jax.methods.cot import Cot
from colar_jax.methods.icot import Icot
from colar_jax.methods.kava import Kava
from colar_jax.methods.latent_sft import LatentSft
from colar_jax.methods.method import Method
from colar_jax.methods.no_cot import NoCot
from colar_jax.methods.own_speed import OwnSpeed
from colar_jax.methods.pccot import Pccot
from colar_jax.methods.ruplar import ColarKhot, Ruplar
from colar_jax.methods.segment_judge import SegmentJudge
from colar_jax.methods.shorter_chains import Concise, DroppedSteps
from colar_jax.methods.sim_cot import SimCoconut, SimCodi, SimColar
from colar_jax.settings import import_object, is_import_path, unknown_name

METHODS: dict[str, type[Method]] = {
    "no_cot": NoCot,
    "cot": Cot,
    "colar": Colar,
    "icot": Icot,
    "coconut": Coconut,
    "codi": Codi,
    "pccot": Pccot,
    "kava": Kava,
    "own_speed": OwnSpeed,
    "sim_coconut": SimCoconut,
    "sim_codi": SimCodi,
    "sim_colar": SimColar,
    "ruplar": Ruplar,
    "colar_khot": ColarKhot,
    "latent_sft": LatentSft,
    "adaptive": Adaptive,
    "segment_judge": SegmentJudge,
    "concise": Concise,
    "dropped_steps": DroppedSteps,
}

# Of settings: what a flag and a run's config.json can say.
_KINDS = (bool, int, float, str)


def find_method(name: str, setting: str = "method") -> type[Method]:
    """The method of this name: one of `METHODS`, or a `Method` of the user's by its import path, `package.module:Name`.

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
    if not (isinstance(method, type) and issubclass(method, Method)):
        kind = "is the class" if isinstance(method, type) else "is of type"
        shown = method.__name__ if isinstance(method, type) else type(method).__name__
        raise UserError(f"{setting}={name!r} {kind} {shown}: a subclass of methods.method.Method is wanted")
    if inspect.isabstract(method):
        missing = ", ".join(sorted(method.__abstractmethods__))
        raise UserError(f"{setting}={name!r} does not say all that a method has to: {missing}")
    declared = [field for field, kind in inspect.get_annotations(method).items() if "ClassVar" not in str(kind)]
    if declared and "__dataclass_params__" not in vars(method):
        raise UserError(
            f"{setting}={name!r} declares settings ({', '.join(declared)}) and is no dataclass itself: put "
            "@dataclasses.dataclass(frozen=True) above it"
        )
    if dataclasses.fields(method) and not method.group:
        raise UserError(f"{setting}={name!r} has settings, and does not say (group) what a stage calls them")
    hints = typing.get_type_hints(method)
    for field in dataclasses.fields(method):
        if hints[field.name] not in _KINDS or field.default is dataclasses.MISSING:
            raise UserError(
                f"{setting}={name!r}: its setting {field.name!r} has to be a bool, int, float or str with a default"
            )
    return method
