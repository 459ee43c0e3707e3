"""The config.json of a run that an earlier version of the package wrote, as this version understands it."""

import dataclasses
import typing
from typing import Any

from colar_jax.config.run_settings import Config
from colar_jax.config.stage_settings import StageConfig, unread_by
from colar_jax.errors import UserError
from colar_jax.methods import METHODS, Method, find_method
from colar_jax.settings.on_resume import values_of_before


def of_this_version(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with what has moved in its place, and each stage with the settings of its own method only.

    Every stage used to have the groups of all methods, and settings that its trainer does not read. A setting that is
    not there did not exist then: it is set to what was done before it, where that is not its default. What is wrong
    otherwise is left for `resolve_plain` to say.
    """
    settings, stages = dict(settings), settings.get("stages")
    if not isinstance(stages, dict):
        return settings
    settings["stages"] = {name: _stage(stage, settings) for name, stage in stages.items()}
    for old_name in (old_name for method in METHODS.values() for old_name in method.old_names):
        settings = _without(settings, old_name.split("."))
    return _as_before(Config, settings)


def _stage(stage: Any, settings: dict[str, Any]) -> Any:
    if not isinstance(stage, dict):
        return stage
    try:
        method: type[Method] = find_method(stage.get("method", StageConfig.method))
    except (UserError, TypeError):
        return stage
    others = {other.group for other in METHODS.values() if dataclasses.fields(other)} - {method.group}
    stage = {name: value for name, value in stage.items() if name not in others}
    moved = {field: _at(settings, old_name.split(".")) for old_name, field in method.old_names.items()}
    moved = {field: value for field, value in moved.items() if value is not None}
    group = stage.get(method.group, {})
    if dataclasses.fields(method) and isinstance(group, dict):
        stage |= {method.group: _as_before(method, moved | group)}
    unread = unread_by(stage.get("trainer", StageConfig.trainer))
    return {name: value for name, value in _as_before(StageConfig, stage).items() if name not in unread}


def _as_before(kind: type, settings: dict[str, Any]) -> dict[str, Any]:
    """A group of settings, with those that are not there as they were before they existed."""
    hints = typing.get_type_hints(kind)
    groups = {
        field.name: _as_before(hints[field.name], settings.get(field.name, {}))
        for field in dataclasses.fields(kind)
        if dataclasses.is_dataclass(hints[field.name]) and isinstance(settings.get(field.name, {}), dict)
    }
    return values_of_before(kind) | settings | {name: group for name, group in groups.items() if group}


def _at(settings: Any, path: list[str]) -> Any:
    for name in path:
        settings = settings.get(name) if isinstance(settings, dict) else None
    return settings


def _without(settings: Any, path: list[str]) -> Any:
    """Without what stands at a path, nor the group that it leaves empty."""
    name, *rest = path
    if not isinstance(settings, dict) or name not in settings:
        return settings
    inner = _without(settings[name], rest) if rest else {}
    kept = {key: value for key, value in settings.items() if key != name}
    return settings if rest and inner is settings[name] else kept | ({name: inner} if inner != {} else {})
