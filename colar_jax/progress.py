"""Progress of long work: a bar at a terminal, one plain line a log step elsewhere."""

import os
import sys
import time

from tqdm import tqdm


class Progress:
    """How far some work of known length is; a context manager.

        with Progress("stage cot", total=1000, done=resume_step) as progress:
            for step in range(resume_step + 1, 1001):
                ...
                progress.advance(step)
                progress.log(step, {"loss": 1.234}, num_examples=256)     # at log steps

    When standard error is a terminal this is a tqdm bar there, with rate and time left, and the logged values at its
    end. Otherwise `log` prints to standard output

        stage cot | step 200/1000 | loss 1.234 | 35.2 examples/s | eta 2m10s

    where the rate is that since the last such line, and the time left assumes the mean pace since the start (compiling,
    evaluating and saving included, so that it holds for the whole run).

    Args:
        label: what is being done.
        total: units of work in all.
        done: units that were done before, by a run that this one resumes.
        unit: what is counted, in the singular.
    """

    def __init__(self, label: str, total: int, done: int = 0, unit: str = "step"):
        self._label, self._total, self._unit = label, total, unit
        self._first_done = done
        self._start = self._last_log = time.monotonic()
        self._bar = None
        if _terminal_columns() > 0:
            self._bar = tqdm(
                desc=label, total=total, initial=done, unit=f" {unit}", dynamic_ncols=True, file=sys.stderr
            )

    def advance(self, done: int) -> None:
        """Say that this many units are done in all; moves the bar, and prints nothing without one."""
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def skip(self, num: int) -> None:
        """Say that so many units more turned out to be done before: they count as done, and not for the pace."""
        self._first_done += num
        if self._bar is not None:
            self._bar.initial += num
            self._bar.update(num)

    def log(self, done: int, values: dict[str, float], num_examples: int | None = None) -> None:
        """Show the values at this many units done, and the rate if told the number of examples since the last call."""
        now = time.monotonic()
        parts = [f"{name} {value:.4g}" for name, value in values.items()]
        if num_examples is not None:
            parts.append(f"{num_examples / max(now - self._last_log, 1e-9):.1f} examples/s")
        self._last_log = now
        if self._bar is not None:
            self.advance(done)
            self._bar.set_postfix_str(", ".join(parts))
            return
        parts = [self._label, f"{self._unit} {done}/{self._total}", *parts]
        if done > self._first_done:
            pace = (now - self._start) / (done - self._first_done)
            parts.append(f"eta {duration_text(pace * (self._total - done))}")
        print(" | ".join(parts), flush=True)

    def close(self) -> None:
        """Leave the bar as it is and end its line; a second call does nothing."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _terminal_columns() -> int:
    """The width of the terminal that is standard error; 0 where it is none.

    Some terminals say they are 0 wide (containers, `script`): tqdm would show nothing at all there.
    """
    if not sys.stderr.isatty():
        return 0
    return os.get_terminal_size(sys.stderr.fileno()).columns


def duration_text(seconds: float) -> str:
    """A duration in its two largest units: "45s", "2m10s", "1h05m", "3d04h"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"
