"""Whether a stage was trained at a speed, which a config alone says: who asks need not hold the run and its weights."""

from colar_jax.config import Config
from colar_jax.data.prompts import Speed


def was_trained(config: Config, stage_name: str, speed: Speed) -> bool:
    """Whether a stage was trained at a speed, or one of this run whose latents it improves with rewards."""
    stage = config.stages[stage_name]
    if stage.bound_method.recipe.was_trained(speed):
        return True
    source = config.source_of(stage_name)
    return stage.trainer == "grpo" and source in config.stages and was_trained(config, source, speed)
