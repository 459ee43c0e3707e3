"""The metrics of a stage's steps: read when the device is done with them, and looked through for what is not finite."""

import json
import math
from pathlib import Path

import jax
import numpy as np

from colar_jax.errors import TrainingEnded
from colar_jax.metrics import Metric, divide, merge
from colar_jax.parallel.hosts import is_first
from colar_jax.training.trainer import Trainer

DIVERGED_FOLDER = "diverged"  # in a stage's folder


class Diverged(TrainingEnded):
    """The loss or its gradient is not finite."""


class LateLog:
    """Metrics of the steps since the last log line, read when the device is done with them.

    Args:
        folder: of the stage; the batch of a step that is not finite is written below it.
        unlogged: what `unlogged()` returned when the checkpoint that training goes on from was saved.
    """

    def __init__(self, stage_name: str, folder: Path, trainer: Trainer, unlogged: list):
        self._stage_name, self._trainer = stage_name, trainer
        self._folder = folder / DIVERGED_FOLDER
        self._pending: list[tuple[int, dict[str, Metric]]] = [
            (step, {name: Metric(*map(np.float32, metric)) for name, metric in metrics.items()})
            for step, metrics in unlogged
        ]
        self.num_examples = 0

    def add(self, step: int, metrics: dict[str, Metric], num_examples: int) -> None:
        self._pending.append((step, metrics))
        self.num_examples += num_examples

    def read(self, *, everything: bool) -> tuple[dict[str, float], int]:
        """The merged values of all pending steps (without `everything`, of all but the newest), and their examples."""
        count = len(self._pending) if everything else len(self._pending) - 1
        ready, self._pending = self._pending[:count], self._pending[count:]
        num_examples, self.num_examples = self.num_examples, 0
        if not ready:
            return {}, num_examples
        self._raise_if_not_finite(ready)
        return divide(merge(*(metrics for _, metrics in ready))), num_examples

    def unlogged(self) -> list:
        """What the next line will be made of, as JSON: a run that goes on from here writes the same line."""
        return [
            (step, {name: (float(metric.sum), float(metric.count)) for name, metric in metrics.items()})
            for step, metrics in jax.device_get(self._pending)
        ]

    def check(self) -> None:
        """Make sure that every step so far is finite, so that what is saved is good."""
        self._raise_if_not_finite(self._pending)

    def _raise_if_not_finite(self, steps: list[tuple[int, dict[str, Metric]]]) -> None:
        for step, metrics in steps:
            values = divide(metrics)
            # An iteration of reinforcement learning has no loss if no group had different rewards.
            if not all(math.isfinite(values.get(name, 0.0)) for name in ("loss", "gradient_norm")):
                if is_first():
                    _write_evidence(self._folder, step, self._trainer.evidence(step), values)
                raise Diverged(
                    f"stage {self._stage_name}: not finite at step {step} (loss {values['loss']}, gradient norm "
                    f"{values['gradient_norm']}). The batch is in {self._folder}; the last checkpoint is untouched. "
                    f"{self._trainer.advice}"
                )


def _write_evidence(folder: Path, step: int, batch: dict[str, np.ndarray], values: dict[str, float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"batch_{step}.npz", **batch)
    shown = {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
    (folder / f"metrics_{step}.json").write_text(json.dumps(shown, indent=2), encoding="utf-8")
