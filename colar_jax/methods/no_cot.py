"""Answer only: the answer follows the question at once. The floor that every way of reasoning has to beat."""

import dataclasses

import jax.numpy as jnp

from colar_jax.data.loader import Recipe
from colar_jax.data.prompts import AUTO_SPEED
from colar_jax.decoding.thinking import word_thinker
from colar_jax.methods.method import Method, Thinking
from colar_jax.settings import DecodeConfig


@dataclasses.dataclass(frozen=True)
class NoCot(Method):
    """No thought at all."""

    @property
    def recipe(self) -> Recipe:
        return Recipe(speeds=(1.0,), keeps_steps=False, prompt_speed=AUTO_SPEED)

    def thinking(self, decode: DecodeConfig, separator_id: int, dtype: jnp.dtype, greedy: bool) -> Thinking:
        think = word_thinker(
            separator_id, dtype, greedy=greedy, temperature=decode.stop_temperature, top_p=decode.top_p
        )
        return Thinking(think, max_thoughts=0, in_words=True)
