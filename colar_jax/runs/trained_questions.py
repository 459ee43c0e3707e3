"""Which questions a stage was trained on or validated with, by hash: answers to them do not show what was learned.

A stage is not evaluated on questions that it was trained on, unless the config allows it. Questions that it was
validated with chose its checkpoint, which flatters their accuracy a little. The report says both.
"""

import logging
import os
from pathlib import Path

import numpy as np

from colar_jax.data.fingerprint import question_hashes
from colar_jax.errors import UserError
from colar_jax.parallel.hosts import is_first, wait_for_all
from colar_jax.runs.resuming import latest_step
from colar_jax.runs.run import Run
from colar_jax.runs.starts import source_of

logger = logging.getLogger(__name__)

QUESTIONS_FILE = "trained_questions.npy"  # in a stage's folder: sorted uint64
# Beside it where it may lack some: what the stage started from was trained on is not known.
UNKNOWN_FILE = "trained_questions.unknown.txt"
VALIDATION_FILE = "validation_questions.npy"  # the same of what its checkpoint, or that of its start, was chosen by


def note_trained_questions(run: Run, name: str) -> None:
    """Keep what a stage is about to be trained on and validated with, and what the stage that it starts from was.

    It is done before a step is taken. What a stage that has taken steps already is trained on is left alone: its
    problems are those it has, or it is refused. It may be validated with others from now on, which are added. A step 0
    without questions was imported: nothing is known of what was learned before it.

    Raises:
        UserError: a test question is among the trained ones (see `refuse_trained_questions`).
    """
    folder, step = run.workdir / name, latest_step(run.workdir / name)
    is_imported = step == 0 and read_trained_questions(folder) is None
    if step is not None and not is_imported:
        _note_validation(run, folder, folder / VALIDATION_FILE)
        return
    source = folder if is_imported else source_of(run, name)
    hashes = question_hashes(run.train_problems)
    inherited = None if source is None else read_trained_questions(source)
    if inherited is not None:
        hashes = np.union1d(hashes, inherited)
    unknown = "" if source is None else _unknown(source)
    if unknown:
        logger.warning("stage %s: %s", name, unknown)
    wait_for_all(f"looked for the questions of {name}")  # before the first writes them
    if is_first():
        # Before the questions: a kill in between must not leave these as if they were all.
        _mark_unknown(folder / UNKNOWN_FILE, bool(unknown))
        _write(folder / QUESTIONS_FILE, hashes)
    _note_validation(run, folder, None if source is None else source / VALIDATION_FILE)
    _refuse(run, folder, hashes)


def _note_validation(run: Run, folder: Path, before: Path | None) -> None:
    """Keep the run's validation questions, and those in a file of before, where there is one."""
    inherited = None if before is None else _read(before)
    hashes = question_hashes(run.val.problems)
    hashes = hashes if inherited is None else np.union1d(hashes, inherited)
    if is_first():
        _write(folder / VALIDATION_FILE, hashes)


def refuse_trained_questions(run: Run, name: str) -> list[str]:
    """Make sure that a stage was trained on none of the run's test questions, whatever the config says by now.

    Returns:
        What a report has to say of its accuracies: how many questions were trained on, where `data.allow_overlap` lets
        it be, or chose its checkpoint; or that it is not known.

    Raises:
        UserError: it was, and `data.allow_overlap` is False.
    """
    folder = run.workdir / name
    hashes = read_trained_questions(folder)
    remarks = [] if hashes is None else _refuse(run, folder, hashes)
    if unknown := _unknown(folder):
        logger.warning("%s", unknown)
        started = "" if hashes is None else " before it started"
        remarks.append(f"it is not known whether test questions were trained on{started}")
    remarks += _validated(run, folder)
    return [f"{name}: {remark}." for remark in remarks]


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
    return _read(folder / QUESTIONS_FILE)


def _read(path: Path) -> np.ndarray | None:
    if not path.is_file():
        return None
    unknown = "then nothing is known of what was trained on, or validated with"
    try:
        hashes = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it; {unknown}") from None
    if hashes.dtype != np.uint64 or hashes.ndim != 1:
        raise UserError(f"{path} is damaged: remove it; {unknown}")
    return hashes


def _among(run: Run, known: np.ndarray) -> dict[str, tuple[int, int]]:
    """Of each test set of which some questions are among the known ones, how many are, and how many it has."""
    found = {}
    for name, encoded in run.tests.items():
        of_test = question_hashes(encoded.problems)
        if count := int(np.isin(of_test, known).sum()):
            found[name] = (count, len(of_test))
    return found


def _refuse(run: Run, folder: Path, trained: np.ndarray) -> list[str]:
    remarks = []
    for name, (count, total) in _among(run, trained).items():
        what = f"{count} of the {total} questions of test set {name!r} are among those {folder} is trained on"
        if not run.config.data.allow_overlap:
            raise UserError(
                f"{what}: accuracy on them says nothing. Name another set (data.test), or set data.allow_overlap=True"
            )
        logger.warning("%s (allowed by data.allow_overlap)", what)
        remarks.append(f"{count:,} of {total:,} test questions of {name} were trained on")
    return remarks


def _validated(run: Run, folder: Path) -> list[str]:
    """What is to be said of test questions by which a checkpoint was chosen; nothing where none is known."""
    hashes = _read(folder / VALIDATION_FILE)
    remarks = []
    for name, (count, total) in ({} if hashes is None else _among(run, hashes)).items():
        what = f"{count} of the {total} questions of test set {name!r} are among those {folder} is validated with"
        logger.warning("%s: they chose its checkpoint", what)
        remarks.append(f"{count:,} of {total:,} test questions of {name} chose its checkpoint, in validation")
    return remarks


def _unknown(folder: Path) -> str:
    """What is to be said of a stage folder of which it is not known what all it was trained on; empty for others."""
    if not (folder / QUESTIONS_FILE).is_file():
        return (
            f"{folder} has no {QUESTIONS_FILE} (trained by an earlier version, or imported): whether test questions "
            "were trained on cannot be checked"
        )
    if (folder / UNKNOWN_FILE).is_file():
        return (
            f"{folder} started from what an earlier version trained, or from an import (it has {UNKNOWN_FILE}): "
            "whether test questions were trained on before cannot be checked"
        )
    return ""


def _mark_unknown(path: Path, is_unknown: bool) -> None:
    """Keep whether some questions are not known. A start that took no step may have been from something else."""
    if is_unknown:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("What this stage started from was trained on questions that are not known.\n", encoding="utf-8")
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, hashes: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("wb") as file:
        np.save(file, hashes)
    os.replace(unfinished, path)
