"""What a checkpoint depends on: each setting says beside itself whether it may change between a stop and a resume.

rows: int = adjustable(16)        may change with `--accept_changes`: the learning rate, the batch, the length
remat: str = execution("none")    may change: only how a step is computed depends on it
log_every: int = observing(20)    may change: only what is looked at depends on it
speeds: str = "1,2,3"             a plain default binds: with another value it is another run
pooling: str = binding("sqrt", before="mean")     binds; what was saved when there was no such setting meant "mean"
"""

import dataclasses
import enum
from collections.abc import Iterator
from typing import Any


class OnResume(enum.Enum):
    """Whether a run may go on from its checkpoint when a setting has changed."""

    BINDS = "no"
    ADJUSTABLE = "with --accept_changes"
    EXECUTION = "yes"
    OBSERVING = "yes, and checkpoints do not know it"


_KEY, _BEFORE = "on_resume", "before"
# Of a setting that has always been there, or whose default changes nothing.
_AS_NOW = object()


def binding(default: Any, *, before: Any = _AS_NOW) -> Any:
    """A setting without which a run would be another one, as a plain default says it.

    Args:
        before: of this and the other kinds: what runs and checkpoints of before the setting existed meant by leaving it
            out, where its default is something else.
    """
    return _declared(default, OnResume.BINDS, before)


def adjustable(default: Any, *, before: Any = _AS_NOW) -> Any:
    """A setting of training that may change in mid-run, if the user says so."""
    return _declared(default, OnResume.ADJUSTABLE, before)


def execution(default: Any, *, before: Any = _AS_NOW) -> Any:
    """A setting of how a step is computed, not of what: the same but for the last digits."""
    return _declared(default, OnResume.EXECUTION, before)


def observing(default: Any, *, before: Any = _AS_NOW) -> Any:
    """A setting that says when to look, save or stop, or that is known to a checkpoint in another way."""
    return _declared(default, OnResume.OBSERVING, before)


def _declared(default: Any, kind: OnResume, before: Any) -> Any:
    metadata = {_KEY: kind} | ({} if before is _AS_NOW else {_BEFORE: before})
    return dataclasses.field(default=default, metadata=metadata)


def on_resume(field: dataclasses.Field) -> OnResume:
    """What a field's declaration says; a plain one binds."""
    return field.metadata.get(_KEY, OnResume.BINDS)


def values_of_before(kind: type) -> dict[str, Any]:
    """The settings of a dataclass that meant something else before they existed, by name, and what that was."""
    return {field.name: field.metadata[_BEFORE] for field in dataclasses.fields(kind) if _BEFORE in field.metadata}


def as_before(group: Any) -> Any:
    """Settings of a dataclass and of the groups in it, with those that did not always exist as they were before."""
    inner = {field.name: getattr(group, field.name) for field in dataclasses.fields(group)}
    inner = {name: as_before(value) for name, value in inner.items() if dataclasses.is_dataclass(value)}
    return dataclasses.replace(group, **inner, **values_of_before(type(group)))


def walk(group: Any, prefix: str = "") -> Iterator[tuple[str, Any, OnResume]]:
    """Every setting of a dataclass and of the groups in it: dotted name, value, and whether it may change."""
    for name, value, field in shown(group):
        if dataclasses.is_dataclass(value):
            yield from walk(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, on_resume(field)


def shown(group: Any) -> Iterator[tuple[str, Any, dataclasses.Field]]:
    """The fields of a dataclass that users see, under their names there (`shown_as`, where the dataclass has it)."""
    shown_as = getattr(group, "shown_as", lambda name: name)
    for field in dataclasses.fields(group):
        if name := shown_as(field.name):
            yield name, getattr(group, field.name), field


def plain(value: Any) -> Any:
    """Settings as nested dicts, as users see them."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return {name: plain(item) for name, item, _ in shown(value)} if dataclasses.is_dataclass(value) else value
