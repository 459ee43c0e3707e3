"""What a model says of a stage's problems before its first step: kept in its folder, with what it depends on."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from colar_jax.config import OnResume, plain, walk
from colar_jax.errors import UserError
from colar_jax.json_object import read_json_object
from colar_jax.parallel.hosts import is_first, wait_for_all
from colar_jax.runs.identity import is_unread
from colar_jax.runs.places import is_same
from colar_jax.runs.resuming import READ_GREEDILY, latest_step
from colar_jax.runs.run import Run
from colar_jax.runs.starts import finished_identity, source_of


def is_kept(run: Run, name: str, path: Path) -> bool:
    """Whether a stage's file is there, and is what would be made now: of the same model, problems and settings.

    Of a stage that has a checkpoint, which has learned from it, the file is right as it is.
    """
    if not path.is_file():
        return False
    return latest_step(path.parent) is not None or _says_the_same(_note_of(path), _made_from(run, name), run, name)


def keep(run: Run, name: str, path: Path, write: Callable[[Path], None]) -> None:
    """Write a stage's file, and what it was made from: whole, or as if it was not there.

    All processes call it; the first one writes, and the file is there for all when it returns.
    """
    facts = _made_from(run, name)  # by all: it opens checkpoints, which all processes do together or none
    if is_first():
        path.parent.mkdir(parents=True, exist_ok=True)
        note = _note_of(path)
        note.unlink(missing_ok=True)  # a kill before the end leaves a file of which nothing is known
        _replace(path, write)
        _write_note(note, facts)
    wait_for_all(f"kept {path.name}")


class Parts:
    """What there is of a stage's file before it is whole: a run that is killed while it makes one goes on from there.

    They are files in a folder beside it, of the same model, problems and settings, or they are made anew. All processes
    see the folder, and the first one writes.
    """

    def __init__(self, run: Run, name: str, path: Path):
        self._folder = path.with_name(f".{path.stem}.parts")
        note, now = self._folder / "made_from.json", _made_from(run, name)
        if is_first() and not _says_the_same(note, now, run, name):
            self.remove()
            self._folder.mkdir(parents=True)
            _write_note(note, now)
        wait_for_all(f"looked for {self._folder.name}")
        self._found = {part.name for part in self._folder.iterdir()}

    def has(self, part: str) -> bool:
        """Whether a part was there when this was made: all processes say the same."""
        return part in self._found

    def path(self, part: str) -> Path:
        """Where it is, or is going to be."""
        return self._folder / part

    def keep(self, part: str, write: Callable[[Path], None]) -> None:
        """Write it, whole or not at all."""
        if is_first():
            _replace(self.path(part), write)

    def remove(self) -> None:
        """Where the whole file is there."""
        if is_first():
            shutil.rmtree(self._folder, ignore_errors=True)


def _made_from(run: Run, name: str) -> dict:
    """All that the file depends on, as JSON has it."""
    config, source, method = run.config, source_of(run, name), run.method(name)
    model = {name: value for name, value, kind in walk(config.model) if kind is not OnResume.EXECUTION}
    checkpoint = {} if source is None else finished_identity(source)
    # Labels are answered greedily, at speeds that are told; chains that a stage learns from are sampled.
    read = READ_GREEDILY if method.learns_from_answers else tuple(plain(config.decode))
    facts = {
        "checkpoint": {fact: checkpoint[fact] for fact in checkpoint if fact != "settings"},
        "seed": run.seed_of(name),
        "model": model,
        "base": run.base_identity,
        "tokenizer": config.data.tokenizer,
        "problems": run.train_problems_hash,
        "verifier": config.data.verifier,
        "method": {key: value for key, value in plain(method).items() if key not in method.read_after_answers},
        "decode": {key: value for key, value in plain(config.decode).items() if key in read},
    }
    return json.loads(json.dumps(facts))


def _says_the_same(note: Path, facts: dict, run: Run, name: str) -> bool:
    """Whether a note says these facts of now. A base model, or a place, may be named otherwise in it."""
    noted = _noted(note)
    if noted is None:
        return False
    was, now = _by_setting(noted, run, name), _by_setting(facts, run, name)
    stages = run.config.stages
    return was.keys() == now.keys() and all(is_same(setting, was[setting], now[setting], stages) for setting in now)


def _by_setting(facts: dict, run: Run, name: str) -> dict:
    """What a note says, flat, its settings called as checkpoints call them; without what the answers do not depend on.

    That is left out when notes are compared, and not when they are written: those of earlier versions have it.
    """
    flat = {}
    for fact, value in facts.items():
        group = "data.tokenizer" if fact == "tokenizer" else fact
        flat |= {f"{group}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {group: value}
    unread = {of for of in flat if of == "base.name" or (of.startswith("model.") and is_unread(run, name, of))}
    return {of: value for of, value in flat.items() if of not in unread}


def _write_note(note: Path, facts: dict) -> None:
    text = json.dumps(facts, indent=2) + "\n"
    _replace(note, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))


def _note_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}.made_from.json")


def _noted(note: Path) -> dict | None:
    try:
        return read_json_object(note)
    except UserError:  # of an earlier version, which wrote none; or damaged
        return None


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    write(unfinished)
    os.replace(unfinished, path)
