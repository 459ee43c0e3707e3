"""The speed as a number: what is added to the opening separator's embedding.

    log c -> log c, sin(k log c), cos(k log c), k = 1 .. 8 -> Linear GELU Linear -> [D];  "auto" has a vector of its own

All of it is smooth in c, so a speed between two that were trained is told as something between the two. The last layer
and the vector start at zero: a model that gets this module says at first what it said without.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from colar_jax.model.linear import Linear, along_last, parameter, project
from colar_jax.model.presets import LlamaConfig

SPEED = "speed"  # the name of this part of the model


@dataclasses.dataclass(frozen=True)
class SpeedEmbeddingConfig:
    """Its sizes."""

    inner_size: int = 64
    num_waves: int = 8  # the shortest has a wavelength of 2 pi / 8 = 0.79 in log c: from 2 to 4.4


class SpeedEmbedding(nnx.Module):
    """From numbers as `data.recipe.Told` has them to what is added: for speeds, "auto" (0) and nothing (negative)."""

    def __init__(self, llama: LlamaConfig, config: SpeedEmbeddingConfig, *, rngs: nnx.Rngs):
        self.config = config
        inner, hidden = config.inner_size, llama.hidden_size
        self.first = Linear(1 + 2 * config.num_waves, inner, ("speed_wave", "speed"), bias=True, rngs=rngs)
        self.second_kernel = parameter(rngs, (inner, hidden), ("speed", "speed_out"))
        self.second_bias = parameter(rngs, (hidden,), ("speed_out",))
        self.auto = parameter(rngs, (hidden,), ("speed_out",))

    def __call__(self, numbers):
        """What to add, float32 `[..., D]`, for `numbers` `[...]`."""
        log = jnp.log(jnp.maximum(numbers, 1.0))[..., None]
        waves = along_last(jnp.arange(1.0, 1.0 + self.config.num_waves), log) * log
        features = jnp.concatenate([log, jnp.sin(waves), jnp.cos(waves)], axis=-1)
        of_speed = project(jax.nn.gelu(self.first(features), approximate=False), self.second_kernel[...])
        of_speed = of_speed + along_last(self.second_bias[...], of_speed)
        is_auto, is_told = (numbers == 0)[..., None], (numbers >= 0)[..., None]
        return jnp.where(is_told, jnp.where(is_auto, along_last(self.auto[...], of_speed), of_speed), 0.0)
