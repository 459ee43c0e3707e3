"""At which speeds a stage was trained: config and checkpoints say it, and who asks need not hold the run's weights."""

from collections.abc import Iterator
from pathlib import Path

from colar_jax.config import Config
from colar_jax.data.recipe import Recipe
from colar_jax.runs.run_folder import open_checkpoints
from colar_jax.training.stage import CHECKPOINTS_FOLDER

SOURCE = "source"  # in a checkpoint: what its stage started from, as `Config.source_of` named it then


def trained_recipes(config: Config, stage_name: str) -> Iterator[Recipe]:
    """The recipe of a stage, and of those of this run whose latents it improves with rewards, the last first."""
    for _ in config.stages:  # at most all of them
        stage = config.stages[stage_name]
        yield stage.bound_method.recipe
        if stage.trainer != "grpo":
            return
        # `config.run` is that of the last start, which may have been of other stages.
        stage_name = noted_source(Path(config.workdir).expanduser() / stage_name) or config.source_of(stage_name)
        if stage_name not in config.stages:
            return


def noted_source(folder: Path) -> str:
    """What a stage started from, by its latest checkpoint; empty where it has none, or an earlier version wrote it."""
    if not (folder / CHECKPOINTS_FOLDER).is_dir():
        return ""
    with open_checkpoints(folder) as checkpoints:
        step = checkpoints.latest_step()
        return "" if step is None else checkpoints.read(step)[1].get(SOURCE, "")
