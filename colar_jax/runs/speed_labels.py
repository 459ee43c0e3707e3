"""Labels that a model gives itself: at which speed it gets which of its training problems right.

For a choice in mid-chain each problem is answered again, at each speed of the grid after a first part at another.
"""

import dataclasses
import logging
from collections.abc import Callable

import numpy as np

from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.recipe import SpeedChange, Told
from colar_jax.data.speed_changes import SpeedChanges, draw_changes
from colar_jax.evaluation.evaluator import Request
from colar_jax.methods import Method
from colar_jax.parallel.hosts import wait_for_all
from colar_jax.runs.made_from import Parts, is_kept, keep
from colar_jax.runs.run import Run
from colar_jax.runs.starts import start_parameters

logger = logging.getLogger(__name__)

# What each problem is told for a speed; None: that speed.
ToldAt = Callable[[float], list[Told] | None]

RIGHT_FILE = "right_at_speeds.npy"  # in a stage's folder: bool [speeds of the grid, problems]
# The same, `right`, of the speeds after a change, and which it was: `speeds` and `after` (`data.speed_changes`).
RIGHT_LATER_FILE = "right_after_changes.npz"


def labelled(run: Run, name: str) -> EncodedProblems:
    """The training problems of a stage of `own_speed` with their labels; answered once, and kept in its folder."""
    method = run.method(name)
    encoded = run.train.head(method.num_labelled or len(run.train))
    labels_N = method.labels_of(_right_at_start(run, name, encoded))
    encoded = dataclasses.replace(encoded, speed_labels=labels_N)
    if not method.mid_chain:
        return encoded
    changes, right_KN = _right_after_changes(run, name, encoded)
    # Where no speed is right, most often the first part was wrong already, which says nothing of what comes after it.
    has_label_N = right_KN.any(axis=0) & (changes.after_N > 0)
    labels_N = np.where(has_label_N, method.labels_of(right_KN), -1)
    return dataclasses.replace(encoded, speed_changes=dataclasses.replace(changes, labels_N=labels_N))


def _right_at_start(run: Run, name: str, encoded: EncodedProblems) -> np.ndarray:
    """Which problems are right at each speed of the grid, bool `[K, N]`; kept."""
    path = run.workdir / name / RIGHT_FILE
    if not is_kept(run, name, path):
        parts = Parts(run, name, path)
        right_KN = _answered(run, name, encoded, "", lambda speed: None, parts)
        keep(run, name, path, lambda unfinished: np.save(unfinished, right_KN))
        parts.remove()
    return np.load(path)


def _right_after_changes(run: Run, name: str, encoded: EncodedProblems) -> tuple[SpeedChanges, np.ndarray]:
    """A change of each problem, and whether it is right at each speed after it, bool `[K, N]`; kept together."""
    method, path = run.method(name), run.workdir / name / RIGHT_LATER_FILE
    if not is_kept(run, name, path):
        changes = draw_changes(encoded.step_lengths, encoded.step_starts, method.speeds, run.seed_of(name))
        parts = Parts(run, name, path)
        right_KN = _answered(
            run, name, encoded, " after a first part", lambda speed: _told_of_changes(method, changes, speed), parts
        )
        arrays = {"speeds": changes.speeds_N, "after": changes.after_N, "right": right_KN}
        keep(run, name, path, lambda unfinished: np.savez(unfinished, **arrays))
        parts.remove()
    with np.load(path) as kept:
        return SpeedChanges(kept["speeds"], kept["after"]), kept["right"]


def _answered(run: Run, name: str, encoded: EncodedProblems, when: str, told_at: ToldAt, parts: Parts) -> np.ndarray:
    """Which problems the model that a stage starts from gets right at each speed of its grid, bool `[K, N]`.

    Args:
        when: what is said of it in the log.
        parts: one a speed; those that are there are not answered again.
    """
    method = run.method(name)
    asked = [c for c in method.speeds if not parts.has(_part_of(c))]
    logger.info(
        "stage %s: answering %d problems at speeds %s%s", name, len(encoded), ",".join(f"{c:g}" for c in asked), when
    )
    evaluator = run.evaluator(name, [encoded], method.speeds)
    requests = [Request(encoded, c, None, told=told_at(c)) for c in asked]
    for request, outcome in evaluator.run_all(start_parameters(run, name), requests) if requests else ():
        parts.keep(_part_of(request.speed), lambda unfinished, outcome=outcome: np.save(unfinished, outcome.right_N))
    wait_for_all(f"answered{when}")
    right_KN = np.stack([np.load(parts.path(_part_of(c))) for c in method.speeds])
    shares = ", ".join(f"{c:g} {share:.1%}" for c, share in zip(method.speeds, right_KN.mean(axis=1), strict=True))
    logger.info("stage %s: right at %s%s", name, shares, when)
    return right_KN


def _part_of(speed: float) -> str:
    return f"{speed:g}.npy"


def _told_of_changes(method: Method, changes: SpeedChanges, speed: float) -> list[Told]:
    """What each problem is told where its chain goes on at `speed` after its change.

    All prompts of a batch have one: where a chain has no place for it, after its first latent, and nobody reads what
    became of it.
    """
    return [
        dataclasses.replace(method.recipe.told(float(before)), later=SpeedChange(max(int(after), 1), speed))
        for before, after in zip(changes.speeds_N, changes.after_N, strict=True)
    ]
