"""Which stages an evaluation asks, at which speeds, and what prompts say of them: what a config alone says."""

from colar_jax.config import Config, parse_speeds, split_names
from colar_jax.data.prompts import Speed


def stages_of(config: Config) -> tuple[str, ...]:
    """The stages that are evaluated, in order."""
    answering = tuple(name for name in config.stage_names if config.stages[name].bound_method.answers_problems)
    return split_names(config.eval.stages) or answering or config.stage_names


def decode_speeds(config: Config, stage_name: str) -> tuple[Speed, ...]:
    """The speeds to decode a stage at: those it was trained with, unless the config asks for others."""
    method = config.stages[stage_name].bound_method
    recipe = method.recipe
    if not method.has_speed:
        return recipe.trained_speeds[:1]
    return parse_speeds(config.eval.speeds) or recipe.trained_speeds


def said_speeds(config: Config) -> tuple[Speed, ...]:
    """Every speed that any prompt of the run may say, in a fixed order: in training, and where a stage is evaluated.

    Raises:
        UserError: a stage that is evaluated cannot be told a speed that `eval.speeds` asks for.
    """
    speeds: dict[Speed, None] = {}
    for stage in config.stages.values():
        speeds |= dict.fromkeys(stage.bound_method.recipe.prompt_speeds)
    for name in stages_of(config):
        recipe = config.stages[name].bound_method.recipe
        speeds |= dict.fromkeys(recipe.told(speed).said for speed in decode_speeds(config, name))
    return tuple(sorted(speeds, key=lambda speed: (1, speed) if isinstance(speed, str) else (0, speed)))
