"""A run's numbers on disk: JSON Lines for programs, TensorBoard for eyes."""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from colar_jax.errors import UserError

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
VALIDATION = "val/"  # begins the names of what is measured in a validation
_FLUSH_SECONDS = 120


class MetricWriter:
    """Appends to `metrics.jsonl` and `tensorboard/` in a folder (made if missing); a context manager.

        with MetricWriter(folder, resume_step=checkpoint_step) as writer:
            writer.write(step, {"loss": 1.2, "accuracy": 0.5})

    Each line has left the program when `write` returns, so a killed run loses none; TensorBoard's events follow with
    the first line after two minutes, or at closing. In a run of several processes only one may have a writer.

    Args:
        folder: of one stage.
        resume_step: the step that training goes on from (0: from the start). A killed run may have logged steps after
            its last checkpoint; they will be taken again, so their lines are dropped, and TensorBoard is told to do the
            same. None keeps every line.
        validates_again: whether that step will be validated again: what a killed run wrote of it is dropped, too.
        hooks: called with the step and the values of each line.

    Raises:
        UserError: a line of an existing `metrics.jsonl` is not a metrics line; the message names file and line. Only
            the last line may be half-written, as a kill leaves it: it is dropped.
        OSError: the disk is full, or may not be written; here, in `write`, or in `close`.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        resume_step: int | None = None,
        hooks: Sequence[Callable[[int, dict[str, float]], object]] = (),
        *,
        validates_again: bool = False,
    ):
        self._hooks = tuple(hooks)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS_FILE
        if path.exists():
            _drop_lines_after(path, math.inf if resume_step is None else resume_step, validates_again)
        self._lines = path.open("a", encoding="utf-8", buffering=1)
        self._tensorboard = _TensorBoard(
            folder / TENSORBOARD_FOLDER, purge_step=None if resume_step is None else resume_step + 1
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write one line `{"step": step, name: value, ...}` and one TensorBoard scalar for each name.

        JSON has no NaN and no Inf: they become null in the line (TensorBoard shows them as they are).

        Raises:
            ValueError: a value is named "step".
        """
        if "step" in values:
            raise ValueError('a metric cannot be named "step": that is the key of the step itself; rename it')
        values = {name: float(value) for name, value in values.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._lines.write(json.dumps({"step": int(step), **finite}, allow_nan=False) + "\n")
        self._tensorboard.add(int(step), values)
        for hook in self._hooks:
            hook(int(step), dict(values))

    def sync(self) -> None:
        """Have all lines on disk: those before a checkpoint are there when the machine is lost right after it."""
        with contextlib.suppress(OSError):  # of a file that is none, such as a pipe
            os.fsync(self._lines.fileno())

    def close(self) -> None:
        """Flush and close both; a second call does nothing."""
        try:
            self._lines.close()
        finally:
            self._tensorboard.close()

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


class _TensorBoard:
    """TensorBoard's events of a folder, written where they are added.

    tensorboardX's `SummaryWriter` hands them to a thread. What a full disk refuses ends the thread, and as soon as its
    queue is full, whoever adds an event waits for ever.
    """

    def __init__(self, folder: Path, purge_step: int | None):
        # Here, not above: it imports PyTorch where that is installed, which takes seconds, and only training writes.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self._event, self._scalar = Event, scalar
        folder.mkdir(exist_ok=True)
        self._events: EventsWriter | None = EventsWriter(str(folder / "events"))
        self._flushed_at = -math.inf
        if purge_step is not None:
            self._write(purge_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._write(step, summary=self._scalar(name, value))
        if time.monotonic() - self._flushed_at >= _FLUSH_SECONDS:
            self._events.flush()
            self._flushed_at = time.monotonic()

    def close(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            events.close()

    def _write(self, step: int, **what) -> None:
        self._events.write_event(self._event(step=step, wall_time=time.time(), **what))


class NoWriter:
    """What a process has that writes nothing, in the place of a `MetricWriter`."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Does nothing."""

    def sync(self) -> None:
        """Does nothing."""

    def __enter__(self) -> "NoWriter":
        return self

    def __exit__(self, *exception) -> None:
        pass


def read_metrics(folder: str | os.PathLike) -> list[dict]:
    """The lines of a folder's `metrics.jsonl` in the order written, without a half-written last one.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: a line other than the last is not a metrics line; the message names file and line.
    """
    return [values for _, values in _complete_lines(Path(folder) / METRICS_FILE)]


def _complete_lines(path: Path) -> Iterator[tuple[str, dict]]:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            if not isinstance(values, dict) or not isinstance(values.get("step"), int):
                raise UserError('no object with an integer "step"')
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                return
            raise UserError(
                f"{path}, line {number}: {line!r} is not a metrics line ({error}); remove the line, or the file"
            ) from error
        yield line, values


def _drop_lines_after(path: Path, last_step: float, validates_again: bool) -> None:
    """Leave the lines up to a step; where it is validated again, without what was measured of it in validation."""

    def is_kept(values: dict) -> bool:
        is_validation = any(name.startswith(VALIDATION) for name in values)
        return values["step"] < last_step or (values["step"] == last_step and not (validates_again and is_validation))

    kept = "".join(f"{line}\n" for line, values in _complete_lines(path) if is_kept(values))
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(kept, encoding="utf-8")
    os.replace(unfinished, path)
