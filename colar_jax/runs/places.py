"""Settings that name a place on this disk: written whole in a run's folder, and the same however they are written.

A name of a config is looked for where its command is started. Who opens the run later may stand elsewhere, so a run's
`config.json` has whole paths. What a checkpoint remembers is the name as it was given.
"""

import copy
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from colar_jax.data.embedded_tokenizers import EMBEDDED_TOKENIZERS
from colar_jax.data.sources import path_in
from colar_jax.data.splits import change_tests

# What these settings may be besides a place. A hub id, or a package's file, is none because nothing is there.
_NO_PLACES = {
    "compilation_cache": ("auto", "off"),
    "data.tokenizer": tuple(EMBEDDED_TOKENIZERS),
    "model.base": (),
    "model.lora.init_from": (),
    "eval.trim.verifier": (),
}
_SOURCES = ("data.train", "data.val")
_OF_STAGES = ("init_from", "dropped_steps.like")
# Which of them checkpoints compare.
_COMPARED = ("data.tokenizer", "model.lora.init_from", "data.train", *(f"stage.{name}" for name in _OF_STAGES))


def change_places(settings: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """A run's settings as nested dicts, with `change` on each name that may be a place.

    A name of something else, such as an embedded tokenizer or a stage of the run, is left as it is.
    """
    changed = copy.deepcopy(settings)
    stages = changed["stages"]
    for path, others in _NO_PLACES.items():
        _change_at(changed, path, lambda name, others=others: name if name in (*others, *stages) else change(name))
    for path in _SOURCES:
        _change_at(changed, path, lambda source: _change_source(source, change))
    _change_at(changed, "data.test", lambda text: change_tests(text, lambda source: _change_source(source, change)))
    for stage in stages.values():
        for path in _OF_STAGES:
            _change_at(stage, path, lambda name: name if name in stages else change(name))
    return changed


def whole_path(name: str) -> str:
    """A name that is there, seen from the working folder, as its whole path; any other as it is."""
    is_here = bool(name) and not name.startswith("~") and os.path.exists(name)
    return os.path.abspath(name) if is_here else name


def bare_name(name: str) -> str:
    """A place on this disk by its last name, for whom its path is nothing; any other name as it is."""
    is_place = os.path.isabs(name) or name.startswith(("~", ".")) or os.path.exists(name)
    return os.path.basename(os.path.normpath(name)) if name and is_place else name


def moved_path(name: str, was_in: str, is_in: str) -> str:
    """Where a place is now, of a run that has been moved (`was_in`, `is_in`: its folder) together with what it names.

    A place that is there is taken, as is one that is in neither.
    """
    if not os.path.isabs(name) or os.path.exists(name):
        return name
    moved = os.path.normpath(os.path.join(is_in, os.path.relpath(name, was_in)))
    return moved if os.path.exists(moved) else name


def is_same(setting: str, was: Any, value: Any, stages: Collection[str]) -> bool:
    """Whether a setting is what a checkpoint remembers: equal, or the same place, written otherwise.

    Where a relative name of before was looked for is not known. It is the same where the place of now ends in it, as
    a name always was the same wherever the command that says it was started.

    Args:
        setting: as checkpoints call it: `stage.init_from`.
        was: its value in a checkpoint; `value` that of now.
        stages: of the run; a name of one of them is no place.
    """
    if was == value or setting not in _COMPARED or not isinstance(was, str) or not isinstance(value, str):
        return was == value
    before_was, was = path_in(was) if setting == "data.train" else ("", was)
    before_value, value = path_in(value) if setting == "data.train" else ("", value)
    if before_was != before_value or not was or not value or was in stages or value in stages:
        return False
    return _is_same_place(os.path.expanduser(was), os.path.expanduser(value))


def _is_same_place(was: str, value: str) -> bool:
    if not os.path.isabs(value) and not os.path.exists(value):  # a hub id
        return False
    if os.path.isabs(was):
        return os.path.realpath(was) == os.path.realpath(value)
    end = tuple(part for part in Path(os.path.normpath(was)).parts if part != "..")
    return bool(end) and Path(os.path.abspath(value)).parts[-len(end) :] == end


def _change_source(source: str, change: Callable[[str], str]) -> str:
    before, path = path_in(source)
    return f"{before}{change(path)}" if path else source


def _change_at(settings: dict[str, Any], path: str, change: Callable[[str], str]) -> None:
    *groups, name = path.split(".")
    for group in groups:
        settings = settings.get(group, {})
    if isinstance(settings.get(name), str):
        settings[name] = change(settings[name])
