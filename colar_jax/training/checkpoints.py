"""Checkpoints of a run: saved in the background, the best and the latest kept, restored bit for bit.

The only file that imports Orbax, whose names still move between releases (import-linter holds us to it, see setup.cfg).
"""

import dataclasses
import json
import logging
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from colar_jax.errors import UserError

PyTree = Any


class _WithoutOrbaxChatter(logging.Filter):
    """Drops what Orbax says below WARNING, dozens of lines a save, through the logger that programs on absl share."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or "orbax" not in pathlib.PurePath(record.pathname).parts


logging.getLogger("absl").addFilter(_WithoutOrbaxChatter())


# The metrics that say which checkpoint is best, the higher the better: the first that any of a stage's checkpoints has.
# A stage that learns from rewards is after their mean, which may be worth a little accuracy.
BEST_BY = ("reward", "accuracy")


class Checkpoints:
    """The checkpoints of one stage, a folder each, named by its step; the best few by `BEST_BY` and the latest stay.

    A checkpoint without that metric (one saved on SIGTERM), or with one that is not finite, is never among the best.

    A context manager: leaving it waits for the save in progress. A checkpoint is written beside its final place and
    renamed when complete, and older ones are removed only after that, so a kill at any moment leaves every finished
    checkpoint whole. With several processes every process makes the same calls in the same order.

    Opening a folder changes nothing in it: what a killed run left unfinished goes away with the first save, so that a
    finished checkpoint can be evaluated while the run that wrote it goes on. The steps are those found on opening, and
    those saved since.

    Args:
      folder: where the checkpoints lie; made if it is not there.
      keep_best: how many to keep for their metric. The latest step is kept besides, whatever its metric.

    Raises:
      ValueError: `keep_best` is less than 1.
    """

    def __init__(self, folder: pathlib.Path, *, keep_best: int = 3):
        if keep_best < 1:
            raise ValueError(f"keep_best = {keep_best}: keep at least 1 checkpoint for its metric")
        self.folder = pathlib.Path(folder).absolute()
        self._policy = _BestAndLatest(keep_best)
        self._has_saved = False
        self._checkpointer = self._open(remove_unfinished=False)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._checkpointer.close()

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending; the one being saved is among them."""
        # A kill while an old checkpoint was being removed leaves a part of it under its final name. It is always one
        # that the policy does not keep, so what the policy does not keep does not count.
        return sorted(self._policy.kept(self._checkpointer.checkpoints))

    def latest_step(self) -> int | None:
        """The highest step that has a checkpoint, or None."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """The step with the highest metric, the latest of equals; None where no checkpoint has the metric."""
        return next(iter(self._policy.ranked(self._checkpointer.checkpoints)), None)

    def save(self, step: int, tree: PyTree, *, metrics: dict[str, float] | None, identity: dict[str, Any]) -> None:
        """Starts to save a checkpoint and returns; a step that has one already is left as it is.

        The arrays are copied before this returns: they may be donated at once. An earlier save still in progress is
        waited for, and its failure is raised here (or in `wait`).

        Args:
          step: the number of optimizer steps that the tree has seen.
          tree: arrays and Python numbers in any containers; a leaf is known by its path alone ("trainable/lora/a").
          metrics: what the evaluation at this step measured, or None.
          identity: a small JSON object that says what the tree belongs to (frozen base, method, hash of the config).
        """
        if step in self.steps():
            return
        if not self._has_saved:
            self._checkpointer.close()
            self._checkpointer = self._open(remove_unfinished=True)
            self._has_saved = True
        self._checkpointer.save_async(
            step,
            _leaf_of_path(tree),
            force=True,  # when to save is the training loop's decision
            metrics={name: float(value) for name, value in (metrics or {}).items()},
            custom_metadata={"identity": json.loads(json.dumps(identity))},  # what is not JSON fails here, not later
        )

    def restore(self, step: int, abstract_tree: PyTree) -> PyTree:
        """The saved tree, bit for bit, in the containers and shardings of `abstract_tree`.

        Args:
          step: one of `steps()`.
          abstract_tree: what is expected: a `jax.ShapeDtypeStruct` (or array) for each array, whose sharding the
            restored one gets (none: the first local device), a number for each Python number. The devices may be
            others, and more or fewer, than those that saved.

        Raises:
          UserError: there is no such step, or its paths, shapes or dtypes are not the expected ones; lists them all.
        """
        return self._restore(step, abstract_tree, self._metadata(step).metadata)

    def restore_part(self, step: int, abstract_tree: dict[str, PyTree]) -> dict[str, PyTree]:
        """As `restore`, for some of the saved tree's top-level entries: what else was saved is not read."""
        saved = self._metadata(step).metadata
        part = {path: leaf for path, leaf in saved.items() if path.split("/")[0] in abstract_tree}
        return self._restore(step, abstract_tree, part)

    def _restore(self, step: int, abstract_tree: PyTree, saved: dict[str, Any]) -> PyTree:
        wanted = _leaf_of_path(abstract_tree)
        differences = list(_differences(saved, wanted))
        if differences:
            raise UserError(
                f"checkpoint {step} in {self.folder} is not of this model and optimizer:\n"
                + "\n".join(differences)
                + "\nresume with the config that wrote it, or start in another workdir"
            )
        restored = self._checkpointer.load(step, {path: _with_sharding(leaf) for path, leaf in wanted.items()})
        leaves, treedef = jax.tree.flatten(abstract_tree)
        values = [restored[path] for path in wanted]  # Orbax gives them back sorted by path
        return treedef.unflatten(
            value if hasattr(leaf, "shape") else value.item() for leaf, value in zip(leaves, values, strict=True)
        )

    def read(self, step: int) -> tuple[dict[str, float], dict[str, Any]]:
        """The metrics (empty where none were given) and the identity that were saved with a step.

        Raises:
          UserError: there is no such step.
        """
        metadata = self._metadata(step)
        return dict(metadata.metrics or {}), metadata.custom_metadata["identity"]

    def saved_at(self, step: int) -> int:
        """When a step was saved, in nanoseconds since 1970: no two saves are alike, and copies of one are.

        Raises:
          UserError: there is no such step.
        """
        return self._metadata(step).commit_timestamp_nsecs

    def wait(self) -> None:
        """Returns when the save in progress is on disk; raises what made it fail."""
        self._checkpointer.wait()

    def _open(self, *, remove_unfinished: bool) -> ocp.training.Checkpointer:
        context = ocp.Context()
        # With folders made in the background, a failed save keeps the process from ending for five minutes.
        context.asynchronous.create_directories_asynchronously = False
        context.pytree.loading.partial_load = True  # for `restore_part`; what is there is compared before
        return ocp.training.Checkpointer(
            self.folder,
            context=context,
            preservation_policy=self._policy,
            cleanup_tmp_directories=remove_unfinished,
        )

    def _metadata(self, step: int) -> ocp.training.CheckpointMetadata:
        self.wait()
        if step not in self.steps():
            raise UserError(f"no checkpoint of step {step} in {self.folder}; there are {self.steps()}")
        metadata = self._checkpointer.metadata(step)
        if metadata.metadata is None:  # Orbax warns, and goes on, where it cannot read what it wrote
            raise UserError(f"{metadata.path} is damaged; remove that folder, and the run goes on from the one before")
        return metadata


@dataclasses.dataclass(frozen=True)
class _BestAndLatest:
    """Orbax's preservation policy for "best n and latest".

    Its own `BestN` keeps checkpoints without a metric for ever, or counts them among the n while there are few.
    """

    keep_best: int

    def should_preserve(self, checkpoints: Sequence[ocp.training.CheckpointMetadata], *, context: Any) -> list[bool]:
        kept = self.kept(checkpoints)
        return [checkpoint.step in kept for checkpoint in checkpoints]

    def kept(self, checkpoints: Iterable[ocp.training.CheckpointMetadata]) -> set[int]:
        checkpoints = list(checkpoints)
        latest = sorted(checkpoint.step for checkpoint in checkpoints)[-1:]
        return {*self.ranked(checkpoints)[: self.keep_best], *latest}

    def ranked(self, checkpoints: Iterable[ocp.training.CheckpointMetadata]) -> list[int]:
        """The steps that have the metric, best first; of equals the latest first."""
        values = {checkpoint.step: checkpoint.metrics or {} for checkpoint in checkpoints}
        metric = next((name for name in BEST_BY if any(name in of_step for of_step in values.values())), None)
        value_of_step = {step: of_step[metric] for step, of_step in values.items() if metric in of_step}
        measured = [step for step, value in value_of_step.items() if math.isfinite(value)]
        return sorted(measured, key=lambda step: (value_of_step[step], step), reverse=True)


def _leaf_of_path(tree: PyTree) -> dict[str, Any]:
    """The leaves by path, in their order; Python numbers as NumPy scalars.

    Flat, because Orbax's own view of containers (NamedTuples, empty optimizer states) changes with its release.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    leaf_of_path = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf if hasattr(leaf, "sharding") else np.asarray(leaf)
        for path, leaf in leaves
    }
    if len(leaf_of_path) < len(leaves):
        raise ValueError("two leaves of the tree have one path: no key of a dict may contain '/'")
    return leaf_of_path


def _differences(saved: dict[str, Any], wanted: dict[str, Any]) -> Iterable[str]:
    """One line for each path that is in one of the two only, or of another kind in each."""
    for path in sorted(saved.keys() | wanted.keys()):
        if path not in saved:
            yield f"  missing: {path} {_kind(wanted[path])}"
        elif path not in wanted:
            yield f"  unexpected: {path} {_kind(saved[path])}"
        elif _kind(saved[path]) != _kind(wanted[path]):
            yield f"  {path}: saved {_kind(saved[path])}, expected {_kind(wanted[path])}"


def _kind(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"


def _with_sharding(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return leaf
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
