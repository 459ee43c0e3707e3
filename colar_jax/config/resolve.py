"""From the mutable `ConfigDict` that config files fill in to the checked, frozen dataclasses, and back."""

import dataclasses
import functools
import types
import typing
from typing import Any

import ml_collections

from colar_jax.config.names import what_is_meant
from colar_jax.config.run_settings import Config
from colar_jax.config.stage_settings import StageConfig, unread_by
from colar_jax.errors import UserError
from colar_jax.methods import METHODS, find_method
from colar_jax.settings.checks import is_finite, require
from colar_jax.settings.on_resume import plain

_hints = functools.cache(typing.get_type_hints)
_AT_DEFAULT = {field.name: plain(getattr(StageConfig(), field.name)) for field in dataclasses.fields(StageConfig)}


def defaults() -> ml_collections.ConfigDict:
    """Every setting at its default, as the mutable `ConfigDict` that a config file fills in; `stages` is empty."""
    groups = {
        field.name: field.default if field.default is not dataclasses.MISSING else plain(field.default_factory())
        for field in dataclasses.fields(Config)
    }
    return ml_collections.ConfigDict(groups)


def stage_defaults(**settings) -> ml_collections.ConfigDict:
    """A stage at its defaults, with `settings` on top: those of its `method` and of its `trainer`, and no others."""
    of = {name: settings[name] for name in ("method", "trainer") if name in settings}
    stage = ml_collections.ConfigDict(plain(StageConfig(**of)))
    stage.update(settings)
    return stage


def resolve(config: ml_collections.ConfigDict) -> Config:
    """The checked, frozen form of a `ConfigDict`; UserError for any wrong key, type, range or combination."""
    return resolve_plain(config.to_dict())


def resolve_plain(settings: dict[str, Any]) -> Config:
    """As `resolve`, of nested dicts, such as a run's config.json holds."""
    return _build(Config, settings, "config")


def _build(kind: Any, value: Any, path: str) -> Any:
    if kind is StageConfig:
        return _build_stage(value, path)
    if dataclasses.is_dataclass(kind):
        fields = {field.name: field for field in dataclasses.fields(kind)}
        require(isinstance(value, dict), f"{path}={value!r}: expected a group of settings ({', '.join(fields)})")
        for key in value:
            if key not in fields:
                raise UserError(f"{path}.{key} is no setting.{what_is_meant(f'{path}.{key}', fields)}")
        hints = _hints(kind)
        return kind(**{key: _build(hints[key], item, f"{path}.{key}") for key, item in value.items()})
    if isinstance(kind, types.GenericAlias):  # dict[str, StageConfig]
        _, item_kind = typing.get_args(kind)
        require(isinstance(value, dict), f"{path}={value!r}: expected groups of settings by name")
        return {key: _build_named(item_kind, item, f"{path}.{key}") for key, item in value.items()}
    if kind is float and type(value) is int:
        require(is_finite(value), f"{path} is no finite number in float32")
        return float(value)
    require(type(value) is kind, f"{path}={value!r} is of type {type(value).__name__}: expected {kind.__name__}")
    if kind is int:  # what a device counts in; a seed may use the sign's bit as well
        require(-(2**31) <= value < 2 ** (32 if path == "config.seed" else 31), f"{path}={value} has more than 32 bits")
    if kind is str:
        is_whole = value.encode("utf-8", "replace").decode() == value
        require(is_whole, f"{path}={value!r} is no valid text: it has half of a character in it")
    if kind is float:
        require(is_finite(value), f"{path}={value!r} is not a finite number in float32")
    return value


def _build_stage(value: Any, path: str) -> StageConfig:
    """A stage, whose method says which group of settings is its own."""
    hints, fields = typing.get_type_hints(StageConfig), [field.name for field in dataclasses.fields(StageConfig)]
    fields.remove("bound_method")
    require(isinstance(value, dict), f"{path}={value!r}: expected a group of settings ({', '.join(fields)})")
    settings = dict(value)
    name = settings.get("method", StageConfig.method)
    require(type(name) is str, f"{path}.method={name!r} is of type {type(name).__name__}: expected str")
    kind = find_method(name, f"{path}.method")
    has_own = bool(dataclasses.fields(kind))
    own = settings.pop(kind.group, {}) if has_own else {}
    for other in METHODS.values():
        # Left at its defaults a group says nothing: the stage's method was changed after it had been put there.
        if other.group and other.group in settings and settings.pop(other.group) != plain(other()):
            shown = f"its settings are {path}.{kind.group}" if has_own else "it has no settings of its own"
            raise UserError(
                f"{path}.{other.group}: the stage's method is {name!r}, and {shown}; take {path}.{other.group} out, or "
                f"set {path}.method"
            )
    unread = unread_by(settings.get("trainer", StageConfig.trainer))
    for key in settings:
        if key not in fields:
            beside = [field for field in fields if field not in unread]
            raise UserError(f"{path}.{key} is no setting.{what_is_meant(f'{path}.{key}', beside)}")
    settings = _without_unread(settings, path)
    bound = _build(kind, own, f"{path}.{kind.group}")
    built = {key: _build(hints[key], item, f"{path}.{key}") for key, item in settings.items()}
    return StageConfig(**built, bound_method=bound)


def _without_unread(settings: dict[str, Any], path: str) -> dict[str, Any]:
    """A stage's settings without those that its trainer does not read; UserError where one of them says something."""
    trainer, read = settings.get("trainer", StageConfig.trainer), dict(settings)
    for field in unread_by(trainer):
        if field in read and _differs(read.pop(field), _AT_DEFAULT[field]):
            raise UserError(f"{path}.{field}: a stage of trainer={trainer!r} does not read it; take it out")
    return read


def _differs(value: Any, default: Any) -> bool:
    """Whether a setting, or one of a group of which some are given, is not at its default."""
    if isinstance(value, dict) and isinstance(default, dict):
        return any(name not in default or _differs(item, default[name]) for name, item in value.items())
    return value != default


def _build_named(kind: Any, value: Any, path: str) -> Any:
    """One of several groups of a kind, which says in every error which one it is."""
    try:
        return _build(kind, value, path)
    except UserError as error:
        raise error if str(error).startswith(path) else UserError(f"{path}: {error}") from None
