"""What was measured of checkpoints after they had been saved: in a file beside them, and they stay as they are."""

import json
import os
from pathlib import Path

from colar_jax.parallel.hosts import is_first

LATE_METRICS_FILE = "late_metrics.json"  # in a stage's folder


class LateMetrics:
    """The metrics of steps that were saved without any.

    A file that cannot be read is as none: what is not known is measured again.
    """

    def __init__(self, path: Path):
        self._path, self._saved_at = path, {}
        self.of_step: dict[int, dict[str, float]] = {}
        try:
            for step, noted in json.loads(path.read_text(encoding="utf-8")).items():
                self.of_step[int(step)] = {name: float(value) for name, value in noted["metrics"].items()}
                self._saved_at[int(step)] = int(noted["saved_at"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.of_step.clear()

    def keep_of(self, saved_at: dict[int, int]) -> None:
        """Forget those of other checkpoints than the ones that are there, by step when each was saved."""
        for step in list(self.of_step):
            if self._saved_at.get(step) != saved_at.get(step):
                del self.of_step[step]

    def add(self, step: int, saved_at: int, metrics: dict[str, float]) -> None:
        """Note a step's metrics, of the checkpoint that was saved then: whole, or not at all."""
        self.of_step[step], self._saved_at[step] = metrics, saved_at
        if not is_first():
            return
        noted = {n: {"saved_at": self._saved_at[n], "metrics": found} for n, found in self.of_step.items()}
        unfinished = self._path.with_name(f".{self._path.name}.unfinished")
        unfinished.write_text(json.dumps(noted) + "\n", encoding="utf-8")
        os.replace(unfinished, self._path)
