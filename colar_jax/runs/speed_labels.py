"""Labels that a model gives itself: at which speed it gets which of its training problems right."""

import dataclasses
import logging

import numpy as np

from colar_jax.data.encoding import EncodedProblems
from colar_jax.errors import UserError
from colar_jax.methods import find_method
from colar_jax.methods.own_speed import speed_labels
from colar_jax.parallel.hosts import is_first, wait_for_all
from colar_jax.runs.made_from import is_kept, keep
from colar_jax.runs.run import Run
from colar_jax.runs.starts import finished_identity, refuse_another_timeline, source_of, start_parameters

logger = logging.getLogger(__name__)

RIGHT_FILE = "right_at_speeds.npy"  # in a stage's folder: bool [speeds of the grid, problems]


def labelled(run: Run, name: str) -> EncodedProblems:
    """The training problems of a stage of `own_speed` with their labels; answered once, and kept in its folder."""
    method = run.method(name)
    encoded = run.train.head(method.num_labelled or len(run.train))
    path = run.workdir / name / RIGHT_FILE
    if not is_kept(run, name, path):
        _refuse_other_sources(run, name)
        wait_for_all("looked for labels")
        logger.info("stage %s: answering %d problems at speeds %s", name, len(encoded), method.grid)
        parameters = start_parameters(run, name)
        evaluator = run.evaluator(name, [encoded], method.speeds)
        right_KN = np.stack([evaluator.run(parameters, encoded, c, seed=None).right_N for c in method.speeds])
        shares = ", ".join(f"{c:g} {share:.1%}" for c, share in zip(method.speeds, right_KN.mean(axis=1), strict=True))
        logger.info("stage %s: right at %s", name, shares)
        if is_first():
            keep(run, name, path, lambda unfinished: np.save(unfinished, right_KN))
        wait_for_all("labelled")
    return dataclasses.replace(encoded, speed_labels=speed_labels(np.load(path)))


def _refuse_other_sources(run: Run, name: str) -> None:
    """UserError unless the stage starts from one that is told its speed as a number alone, which is what it chooses."""
    source = source_of(run, name)
    settings = finished_identity(source)["settings"] if source else {}
    group = find_method(settings["stage.method"]).group if settings else ""
    conditioning = settings.get(f"stage.{group}.conditioning")
    if conditioning != "number":
        raise UserError(
            f"stages.{name}: a model that chooses its speed is told it as a number, and {source} was trained with "
            f"latent.conditioning={conditioning!r}: start from a stage of colar with latent.conditioning='number'"
        )
    refuse_another_timeline(run, name, source, settings)
