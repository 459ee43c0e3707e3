"""Checkpoints of a run: saved in the background, the best and the latest kept, restored bit for bit.

The only file that imports Orbax, whose names still move between releases (import-linter holds us to it, see setup.cfg).
"""

import contextlib
import json
import pathlib
from collections.abc import Collection, Iterator
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from colar_jax.errors import UserError
from colar_jax.training import orbax_output
from colar_jax.training.checksums import digest_of, sums_of
from colar_jax.training.damage import damaged, damaged_one_of, is_no_damage
from colar_jax.training.disk import refusal_of_disk
from colar_jax.training.late_metrics import LATE_METRICS_FILE, LateMetrics
from colar_jax.training.preservation import BestAndLatest
from colar_jax.training.saved_leaves import differences_of, leaf_of_path, with_sharding

PyTree = Any

orbax_output.drop_chatter()


class Checkpoints:
    """The checkpoints of one stage, a folder each, named by its step; the best few and the latest stay.

    A checkpoint without the metric that decides (`preservation.BEST_BY`), as one saved on SIGTERM, or with one that is
    not finite, is never among the best.

    A context manager: leaving it waits for the save in progress. A checkpoint is written beside its final place and
    renamed when complete, and older ones are removed only after that, so a kill at any moment leaves every finished
    checkpoint whole. With several processes every process makes the same calls in the same order.

    Opening a folder changes nothing in it: what a killed run left unfinished goes away with the first save, so that a
    finished checkpoint can be evaluated while the run that wrote it goes on. The steps are those found on opening, and
    those saved since.

    What is read is compared with checksums that were saved with it (checkpoints of earlier versions have none).

    Args:
      folder: where the checkpoints lie; made if it is not there.
      keep_best: how many to keep for their metric. The latest step is kept besides, whatever its metric.

    Raises:
      ValueError: `keep_best` is less than 1.
      UserError: a checkpoint is damaged; here, or in whatever method first meets the damage.
      jax.errors.JaxRuntimeError, ValueError: another process was lost (`hosts.is_of_runtime`); nothing is damaged.
    """

    def __init__(self, folder: pathlib.Path, *, keep_best: int = 3):
        if keep_best < 1:
            raise ValueError(f"keep_best = {keep_best}: keep at least 1 checkpoint for its metric")
        self.folder = pathlib.Path(folder).absolute()
        self._late = LateMetrics(self.folder.with_name(LATE_METRICS_FILE))
        self._policy = BestAndLatest(keep_best, self._late.of_step)
        self._has_saved = False
        try:
            with orbax_output.silenced():  # what is damaged is said when it is read
                self._checkpointer = self._open(self.folder)
        except OSError:
            raise
        except Exception as error:  # of one of the checkpoints, without a word on which
            if is_no_damage(error) or (told := damaged_one_of(self.folder, self._try_to_open)) is None:
                raise
            raise told from error
        self._late.keep_of({step: self.saved_at(step) for step in self._late.of_step if step in self.steps()})

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        with self._writing():
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
        for step in self.steps():
            self.read(step)  # a metric that was damaged must not decide
        return next(iter(self._policy.ranked(self._checkpointer.checkpoints)), None)

    def save(self, step: int, tree: PyTree, *, metrics: dict[str, float] | None, identity: dict[str, Any]) -> None:
        """Starts to save a checkpoint and returns; a step that has one already is left as it is.

        The arrays are copied before this returns: they may be donated at once. An earlier save still in progress is
        waited for, and its failure is raised here (or in `wait`).

        Args:
          step: the number of optimizer steps that the tree has seen.
          tree: arrays and Python numbers in any containers; a leaf is known by its path alone ("trainable/lora/a").
          metrics: what the evaluation at this step measured, or None.
          identity: a small JSON object that says what the tree belongs to (settings, training problems, frozen base).
        """
        if step in self.steps():
            return
        if not self._has_saved:
            self._checkpointer.close()
            with self._writing():
                self._checkpointer = self._open(self.folder, remove_unfinished=True)
            self._has_saved = True
        leaves = leaf_of_path(tree)
        metrics = {name: float(value) for name, value in (metrics or {}).items()}
        # What is not JSON fails here, not later.
        facts = {"identity": json.loads(json.dumps(identity)), "sums": sums_of(leaves)}
        with self._writing():
            self._checkpointer.save_async(
                step,
                leaves,
                force=True,  # when to save is the training loop's decision
                metrics=metrics,
                custom_metadata=facts | {"digest": digest_of(facts, metrics)},
            )

    def add_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Note what was measured of a step that was saved without; its checkpoint stays as it is.

        As after a save, what is not kept any more goes. Of several processes the first one writes.
        """
        self._late.add(step, self.saved_at(step), {name: float(value) for name, value in metrics.items()})
        kept = self.steps()
        with self._writing():
            for step in [checkpoint.step for checkpoint in self._checkpointer.checkpoints]:
                if step not in kept:
                    self._checkpointer.delete(step, missing_ok=True)

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
        metadata = self._metadata(step)
        return self._restore(step, abstract_tree, metadata.metadata, metadata)

    def restore_part(
        self, step: int, abstract_tree: dict[str, PyTree], without: Collection[str] = ()
    ) -> dict[str, PyTree]:
        """As `restore`, for some of the saved tree's top-level entries; no other is read, nor what is below `without`.

        Args:
          without: paths such as `parameters/projection`.
        """
        metadata = self._metadata(step)
        unread = tuple(f"{path}/" for path in without)
        saved = {
            path: leaf
            for path, leaf in metadata.metadata.items()
            if path.split("/")[0] in abstract_tree and not path.startswith(unread)
        }
        return self._restore(step, abstract_tree, saved, metadata)

    def _restore(self, step: int, abstract_tree: PyTree, saved: dict[str, Any], metadata: Any) -> PyTree:
        wanted = leaf_of_path(abstract_tree)
        differences = list(differences_of(saved, wanted))
        if differences:
            raise UserError(
                f"checkpoint {step} in {self.folder} is not of this model and optimizer:\n"
                + "\n".join(differences)
                + "\nresume with the config that wrote it, or start in another workdir"
            )
        with self._reading(step):
            restored = self._checkpointer.load(step, {path: with_sharding(leaf) for path, leaf in wanted.items()})
        sums = metadata.custom_metadata.get("sums")  # none in checkpoints of earlier versions
        if sums is not None and any(sums.get(path) != value for path, value in sums_of(restored).items()):
            raise damaged(self.folder, step)
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
        return dict(metadata.metrics or self._late.of_step.get(step, {})), metadata.custom_metadata["identity"]

    def saved_at(self, step: int) -> int:
        """When a step was saved, in nanoseconds since 1970: no two saves are alike, and copies of one are.

        Raises:
          UserError: there is no such step.
        """
        return self._metadata(step).commit_timestamp_nsecs

    def wait(self) -> None:
        """Returns when the save in progress is on disk; raises what made it fail."""
        with self._writing():
            self._checkpointer.wait()

    def _open(self, folder: pathlib.Path, *, remove_unfinished: bool = False) -> ocp.training.Checkpointer:
        context = ocp.Context()
        # With folders made in the background, a failed save keeps the process from ending for five minutes.
        context.asynchronous.create_directories_asynchronously = False
        context.pytree.loading.partial_load = True  # for `restore_part`; what is there is compared before
        return ocp.training.Checkpointer(
            folder,
            context=context,
            preservation_policy=self._policy,
            cleanup_tmp_directories=remove_unfinished,
        )

    def _try_to_open(self, folder: pathlib.Path) -> None:
        with orbax_output.silenced():
            self._open(folder).close()

    def parts(self, step: int, entry: str) -> set[str]:
        """The names right below one of the saved tree's top-level entries.

        Raises:
          UserError: there is no such step.
        """
        paths = (path.split("/") for path in self._metadata(step).metadata)
        return {path[1] for path in paths if path[0] == entry and len(path) > 1}

    def _metadata(self, step: int) -> ocp.training.CheckpointMetadata:
        self.wait()
        if step not in self.steps():
            raise UserError(f"no checkpoint of step {step} in {self.folder}; there are {self.steps()}")
        with self._reading(step):
            metadata = self._checkpointer.metadata(step)
            facts = metadata.custom_metadata
            # Orbax goes on, with None, where it cannot read what it wrote.
            if not isinstance(metadata.metadata, dict) or not isinstance(facts["identity"], dict):
                raise ValueError("no metadata")
            if "digest" in facts and facts["digest"] != digest_of(facts, dict(metadata.metrics or {})):
                raise ValueError("other facts than those that were saved")
        return metadata

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Whatever Orbax cannot read is a damaged checkpoint; instead of what it says of that, one line."""
        try:
            with orbax_output.silenced(only_on_error=True):
                yield
        except PermissionError:
            raise
        except Exception as error:
            if is_no_damage(error):
                raise
            raise damaged(self.folder, step) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """What a full disk, or one that may not be written, makes of a save is one line."""
        try:
            with orbax_output.silenced(only_on_error=True):
                yield
        except Exception as error:
            if (reason := refusal_of_disk(error, of_a_save=True)) is None:
                raise
            raise UserError(
                f"{self.folder}: {reason}; the checkpoints in it are whole, and the same command goes on from the last"
            ) from error
