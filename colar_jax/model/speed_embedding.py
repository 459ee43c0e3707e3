"""The speed as a number: what is added to the opening separator's embedding.

    log c, sin and cos of k log c (k = 1 .. 8), of 2 pi c and 4 pi c, of 2 pi phase and 2 pi (c + phase), and the phase
    -> Linear GELU Linear -> [D];  "auto" has a vector of its own

All of it is smooth in c, so a speed between two that were trained is told as something between the two; and the
fraction of c is told apart from its size, so that 2.5 has to do with 3.5. The phase says where in its pattern the
grouping begins: else the first group of 2.5 might as well have 2 tokens as 3, and what is learned of it is the mean of
both. The last layer and the vector start at zero: a model that gets this module says at first what it said without.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from colar_jax.errors import UserError
from colar_jax.model.gelu import gelu
from colar_jax.model.linear import Linear, along_last, parameter, project
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.settings.speeds import ASKED_PHASE

SPEED = "speed"  # the name of this part of the model
# The waves of fraction and phase, two each of 2 pi c, 4 pi c, 2 pi phase, 2 pi (c + phase); and the phase.
_OF_FRACTION = 9


@dataclasses.dataclass(frozen=True)
class SpeedEmbeddingConfig:
    """Its sizes."""

    inner_size: int = 64
    num_waves: int = 8  # the shortest has a wavelength of 2 pi / 8 = 0.79 in log c: from 2 to 4.4
    # At every latent it tells how many tokens the next one holds (`model.timeline`); False: c, at the opening.
    counts_tokens: bool = False


def num_speed_features(config: SpeedEmbeddingConfig) -> int:
    """How many numbers say a speed and its phase."""
    return 1 + 2 * config.num_waves + _OF_FRACTION


class SpeedEmbedding(nnx.Module):
    """From numbers as `data.recipe.Told` has them to what is added: for speeds, "auto" (0) and nothing (negative).

    UserError where positions count tokens and the Llama's rotary embeddings change with them.
    """

    def __init__(self, llama: LlamaConfig, config: SpeedEmbeddingConfig, *, rngs: nnx.Rngs):
        if config.counts_tokens and llama.rope_scaling is not None and llama.rope_scaling.most_positions is not None:
            # How far a pass reaches is checked in positions that are fed; here a latent's own may lie beyond them.
            raise UserError(
                f"timeline='tokens' with this {llama.family} model: its rotary embeddings change beyond "
                f"{llama.rope_scaling.most_positions} positions (rope_type dynamic), and a latent may stand beyond "
                "them; take timeline='latents'"
            )
        self.config = config
        inner, hidden = config.inner_size, llama.hidden_size
        num_features = num_speed_features(config)
        self.first = Linear(num_features, inner, ("speed_wave", "speed"), bias=True, rngs=rngs)
        self.second_kernel = parameter(rngs, (inner, hidden), ("speed", "speed_out"))
        self.second_bias = parameter(rngs, (hidden,), ("speed_out",))
        self.auto = parameter(rngs, (hidden,), ("speed_out",))

    def __call__(self, numbers, phases=ASKED_PHASE):
        """What to add, float32 `[..., D]`, for `numbers` `[...]` and phases as many, or one for all."""
        speeds = jnp.maximum(numbers, 1.0)[..., None]
        phases = jnp.broadcast_to(jnp.asarray(phases, speeds.dtype)[..., None], speeds.shape)
        log = jnp.log(speeds)
        waves = along_last(jnp.arange(1.0, 1.0 + self.config.num_waves), log) * log
        turns = 2 * jnp.pi * jnp.concatenate([speeds, 2 * speeds, phases, speeds + phases], axis=-1)
        angles = jnp.concatenate([waves, turns], axis=-1)
        features = jnp.concatenate([log, phases, jnp.sin(angles), jnp.cos(angles)], axis=-1)
        of_speed = project(gelu(self.first(features)), self.second_kernel[...])
        of_speed = of_speed + along_last(self.second_bias[...], of_speed)
        is_auto, is_told = (numbers == 0)[..., None], (numbers >= 0)[..., None]
        return jnp.where(is_told, jnp.where(is_auto, along_last(self.auto[...], of_speed), of_speed), 0.0)
