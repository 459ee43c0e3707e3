"""Which questions a stage was trained on, by hash: an answer to one of them does not show what was learned."""

import logging
import os
from pathlib import Path

import numpy as np

from colar_jax.data.fingerprint import question_hashes
from colar_jax.errors import UserError
from colar_jax.parallel.hosts import is_first
from colar_jax.runs.resuming import latest_step
from colar_jax.runs.run import Run
from colar_jax.runs.starts import source_of

logger = logging.getLogger(__name__)

QUESTIONS_FILE = "trained_questions.npy"  # in a stage's folder: sorted uint64


def note_trained_questions(run: Run, name: str) -> None:
    """Keep what a stage is about to be trained on, and what the stage that it starts from was: before its first step.

    A stage that has checkpoints already is left alone: its problems are those it has, or it is refused.

    Raises:
        UserError: a test question is among them (see `refuse_trained_questions`).
    """
    folder, source = run.workdir / name, source_of(run, name)
    if latest_step(folder) is None:
        hashes = question_hashes(run.train_problems)
        if source is not None:
            inherited = read_trained_questions(source)
            if inherited is None:
                logger.warning("stage %s: %s", name, _unknown(source))
            else:
                hashes = np.union1d(hashes, inherited)
        if is_first():
            _write(folder / QUESTIONS_FILE, hashes)
        _refuse(run, folder, hashes)


def refuse_trained_questions(run: Run, name: str) -> None:
    """Make sure that a stage was trained on none of the run's test questions, whatever the config says by now.

    Raises:
        UserError: it was, and `data.allow_overlap` is False.
    """
    folder = run.workdir / name
    hashes = read_trained_questions(folder)
    if hashes is None:
        logger.warning("%s", _unknown(folder))
        return
    _refuse(run, folder, hashes)


def refuse_inherited_questions(run: Run, source: Path) -> None:
    """Make sure that a stage folder to start from was trained on none of the run's test questions, as far as is known.

    Raises:
        UserError: it was, and `data.allow_overlap` is False.
    """
    hashes = read_trained_questions(source)
    if hashes is not None:
        _refuse(run, source, hashes)


def read_trained_questions(folder: Path) -> np.ndarray | None:
    """The hashes in a stage's folder; None where there are none: it is of an earlier version, or was imported."""
    path = folder / QUESTIONS_FILE
    if not path.is_file():
        return None
    try:
        hashes = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it; then nothing is known of what was trained") from None
    if hashes.dtype != np.uint64 or hashes.ndim != 1:
        raise UserError(f"{path} is damaged: remove it; then nothing is known of what was trained on")
    return hashes


def _refuse(run: Run, folder: Path, trained: np.ndarray) -> None:
    for name, encoded in run.tests.items():
        of_test = question_hashes(encoded.problems)
        count = int(np.isin(of_test, trained).sum())
        if not count:
            continue
        what = f"{count} of the {len(of_test)} questions of test set {name!r} are among those {folder} is trained on"
        if not run.config.data.allow_overlap:
            raise UserError(
                f"{what}: accuracy on them says nothing. Name another set (data.test), or set data.allow_overlap=True"
            )
        logger.warning("%s (allowed by data.allow_overlap)", what)


def _unknown(folder: Path) -> str:
    return (
        f"{folder} has no {QUESTIONS_FILE} (trained by an earlier version, or imported): whether test questions were "
        "trained on cannot be checked"
    )


def _write(path: Path, hashes: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("wb") as file:
        np.save(file, hashes)
    os.replace(unfinished, path)
