"""The batches of a stage that learns from data, and how many steps a stage takes."""

import math

from colar_jax.data.loader import Batches
from colar_jax.errors import UserError
from colar_jax.rl.grpo import iterations
from colar_jax.runs.learned import training_set
from colar_jax.runs.run import Run


def loader_of(run: Run, name: str) -> Batches:
    """A stage's batches, planned once for as long as `run.loaders` has them.

    Raises:
        UserError: no example fits into a row.
    """
    if name not in run.loaders:
        stage, method = run.config.stages[name], run.method(name)
        try:
            run.loaders[name] = method.make_loader(
                training_set(run, name), seed=run.seed_of(name), rows=stage.rows, row_positions=stage.row_positions
            )
        except UserError as error:
            raise UserError(f"stages.{name}: {error}") from None
    return run.loaders[name]


def num_steps_of(run: Run, name: str) -> int:
    """How long a stage is: optimizer steps, or iterations."""
    stage = run.config.stages[name]
    if stage.steps:
        return stage.steps
    if stage.trainer == "grpo":
        return iterations(stage, len(run.train))
    return math.ceil(stage.epochs * loader_of(run, name).steps_per_epoch)


def check_schedule(run: Run, name: str) -> None:
    """UserError where a stage that learns from data ends before its schedule does."""
    stage, loader, num_steps = run.config.stages[name], loader_of(run, name), num_steps_of(run, name)
    if loader.first_final_step >= num_steps:
        raise UserError(
            f"stages.{name}: the schedule of {stage.method} ends at step {loader.first_final_step}, the stage at "
            f"{num_steps}: the model would never be trained as it is decoded. Train longer (steps or epochs), or "
            f"shorten the schedule (stages.{name}.{stage.method})"
        )
