"""One job at a time writes into a folder: a lock with the host and the number of the process that holds it."""

import contextlib
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import jax
import numpy as np
from jax.experimental import multihost_utils

from colar_jax.errors import UserError
from colar_jax.parallel.hosts import also_before_the_end, is_first

logger = logging.getLogger(__name__)

# Of the environment, what names a job that is never at work twice at a time.
JOB_VARIABLES = ("COLAR_JOB", "SKYPILOT_TASK_ID", "SLURM_JOB_ID")
# The number of a machine of the job, where each may be training by itself. Machines that train together have the first
# one hold the lock, and the one that takes its place after a restart has its number.
_MACHINE = "SKYPILOT_NODE_RANK"

TRAINING, REPORT = ".training.lock", ".report.lock"  # in a run's folder; in a report's


@contextlib.contextmanager
def locked(folder: Path, name: str, doing: str) -> Iterator[None]:
    """Holds the lock `name` of a folder, which is made if it is not there; its owner, if it ends in any way, loses it.

    The kernel knows whether a process of this host holds the lock, so one that was killed is followed without a word
    but a line in the log. What a process of another host left is refused, for it may be alive, unless it was of the
    same job (`JOB_VARIABLES`, and of SkyPilot's machines the one of the same number), which has been started again. Of
    several processes of one job the first holds the lock for all.

    Args:
        doing: what the folder is locked for, as in "train".

    Raises:
        UserError: another process holds the lock; in every process of the job.
    """
    refusal, file = "", None
    if is_first():
        try:
            file = _take(folder, name, doing)
        except UserError as error:
            refusal = str(error)
    if jax.process_count() > 1:
        was_refused = multihost_utils.broadcast_one_to_all(np.array(bool(refusal)))
        refusal = refusal or ("the first process was refused the folder's lock" if was_refused else "")
    if refusal:
        raise UserError(refusal)
    if file is None:
        yield
        return
    try:
        with also_before_the_end(lambda: file.truncate(0)):
            yield
    finally:
        file.truncate(0)
        file.close()


def _take(folder: Path, name: str, doing: str) -> TextIO:
    """The locked file, open."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    file = path.open("a+", encoding="utf-8")
    is_held = False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        is_held = True
    except OSError:  # a file system without locks: what is written in it has to do
        is_held = _is_alive(_holder(file))
    holder = _holder(file)
    if is_held:
        file.close()
        who = f"process {holder['process']} on {holder['host']}" if holder else "another process"
        raise UserError(f"{folder} is in use: {who} is at work in it. Wait for it, or {doing} in another folder")
    if holder and holder["host"] != socket.gethostname() and (not _job() or holder.get("job") != _job()):
        file.close()
        raise UserError(
            f"{folder} is in use, or was when process {holder['process']} on {holder['host']} was killed: if that "
            f"process runs no longer, remove {path}"
        )
    if holder:
        logger.info("%s: process %s ended before its time; this one takes over", folder, holder["process"])
    file.truncate(0)
    holder = {"host": socket.gethostname(), "process": os.getpid(), "doing": doing, "job": _job()}
    file.write(json.dumps(holder) + "\n")
    file.flush()
    with contextlib.suppress(OSError):  # a bucket that is mounted shows others what was synced or closed
        os.fsync(file.fileno())
    return file


def _holder(file: TextIO) -> dict | None:
    """Who wrote the lock last, and did not empty it; None where nobody did, or a kill cut the line short."""
    file.seek(0)
    try:
        holder = json.loads(file.read())
    except ValueError:
        return None
    return holder if isinstance(holder, dict) and {"host", "process"} <= holder.keys() else None


def _job() -> str:
    """The cluster's name of this job, the same when it is started again on other machines; empty without one."""
    job = next((name for name in JOB_VARIABLES if os.environ.get(name)), None)
    return " ".join(f"{name}={os.environ[name]}" for name in (job, _MACHINE) if job and os.environ.get(name))


def _is_alive(holder: dict | None) -> bool:
    if holder is None or holder["host"] != socket.gethostname():
        return False
    try:
        os.kill(holder["process"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    return True
