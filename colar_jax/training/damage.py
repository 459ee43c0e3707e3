"""A checkpoint that cannot be read: which one it is, what is said of it, and what is no damage at all."""

import pathlib
import tempfile
from collections.abc import Callable

import jax

from colar_jax.errors import UserError
from colar_jax.parallel.hosts import is_of_runtime


def is_no_damage(error: Exception) -> bool:
    """Whether what Orbax raises is of memory or of another process: lost, or elsewhere than this one."""
    if isinstance(error, AssertionError):  # `jax.experimental.multihost_utils.sync_global_devices`
        return jax.process_count() > 1 and "name mismatch" in str(error)
    return isinstance(error, MemoryError) or is_of_runtime(error)


def damaged(folder: pathlib.Path, step: int) -> UserError:
    """What is said of a damaged checkpoint in a folder of several, and what to do."""
    others = [other for other in _steps_in(folder) if other != step]
    then = f"training goes on from step {max(others)}" if others else "the stage starts anew"
    return UserError(f"{folder / str(step)} is damaged; remove that folder, and {then}")


def damaged_one_of(folder: pathlib.Path, open_alone: Callable[[pathlib.Path], None]) -> UserError | None:
    """What is said where a folder cannot be opened; None where each of its checkpoints, alone, can."""
    if jax.process_count() > 1:  # to open one alone is a collective, too: the others may be elsewhere
        return UserError(f"{folder}: one of its checkpoints is damaged; the same command as one process says which")
    for step in _steps_in(folder):
        with tempfile.TemporaryDirectory() as alone:
            (pathlib.Path(alone) / str(step)).symlink_to(folder / str(step))
            try:
                open_alone(pathlib.Path(alone))
            except Exception:
                return damaged(folder, step)
    return None


def _steps_in(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
