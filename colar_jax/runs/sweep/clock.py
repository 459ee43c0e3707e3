"""Where the time of a sweep's decoding goes."""

import contextlib
import time
from collections.abc import Iterator

from colar_jax.evaluation.decode_program import Programs


class Clock:
    """Runs in `with` blocks around decoding; loading data and checkpoints is outside of them.

    Its `programs` are what all decodes of a sweep share.
    """

    def __init__(self):
        self.programs = Programs()
        self.num_decoded = 0  # examples
        self._seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *exception) -> None:
        self._seconds += time.perf_counter() - self._start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """For what is no part of decoding, within a `with` block."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def numbers(self) -> dict | None:
        """For `report.json`; None where nothing was decoded. Compiling is not among the seconds.

        The host's share is what it did besides waiting for the device: it packs prompts, reads answers, judges them and
        writes them down. The device has work meanwhile, so that less than this is lost.
        """
        if not self.num_decoded:
            return None
        seconds = self._seconds - self.programs.compile_seconds
        return {
            "num_decoded": self.num_decoded,
            "seconds": seconds,
            "examples_per_second": self.num_decoded / seconds,
            "host_share": (seconds - self.programs.device_seconds) / seconds,
            "num_compiled": self.programs.num_compiled,
            "compile_seconds": self.programs.compile_seconds,
        }
