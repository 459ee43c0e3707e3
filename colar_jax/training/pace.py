"""How fast a stage goes, and what memory it takes: numbers named `time/...`, which differ from one run to the next."""

import logging
import resource
import sys
import time
from typing import Any

import jax

from colar_jax.progress import duration_text

logger = logging.getLogger(__name__)

_GIB = 2**30


class Pace:
    """Measures between two log lines.

    Args:
        num_tokens: of all that the trainer has handed out so far (0: not known).
    """

    def __init__(self, num_tokens: int = 0):
        self._since, self._num_tokens, self._step = time.monotonic(), num_tokens, None

    def skip(self) -> None:
        """What has happened since the last call was no training: a validation, or a save."""
        self._since = time.monotonic()

    def read(self, step: int, num_examples: int, num_tokens: int) -> dict[str, float]:
        """The rates since the last call (or the start) at which `step` steps are done."""
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        values = {"time/examples_per_second": num_examples / seconds}
        if num_tokens:
            values["time/tokens_per_second"] = (num_tokens - self._num_tokens) / seconds
        if self._step is not None and step > self._step:
            values["time/seconds_per_step"] = seconds / (step - self._step)
        values["time/peak_memory_gib"] = peak_memory_bytes() / _GIB
        self._since, self._num_tokens, self._step = now, num_tokens, step
        return values


def peak_memory_bytes() -> int:
    """The most memory held so far: of the first device here, or of the process where devices do not say (CPUs)."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


class Forecast:
    """Says once, when the first steps are taken, how long a stage will take."""

    FROM, TO = 3, 10  # of the steps that are taken: those before compile

    def __init__(self, name: str, stop: int):
        self._name, self._stop = name, stop
        self._taken, self._since = 0, 0.0

    def look(self, step: int, of_step: Any) -> None:
        """After each step, with an array that it makes: it is waited for twice."""
        self._taken += 1
        if self._taken not in (self.FROM, self.TO):
            return
        jax.block_until_ready(of_step)
        now = time.monotonic()
        if self._taken == self.TO and self._stop > step:
            seconds = (now - self._since) / (self.TO - self.FROM)
            left = duration_text(seconds * (self._stop - step))
            logger.info(
                "stage %s: %.3g s a step, %d to go: about %s, validations aside",
                self._name, seconds, self._stop - step, left,
            )  # fmt: skip
        self._since = now
