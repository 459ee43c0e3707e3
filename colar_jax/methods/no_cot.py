"""Answer only: the answer follows the question at once. The floor that every way of reasoning has to beat."""

import dataclasses

from colar_jax.data.prompts import AUTO_SPEED
from colar_jax.data.recipe import Recipe
from colar_jax.methods.method import Method, Thinking, word_thinking
from colar_jax.settings import DecodeConfig


@dataclasses.dataclass(frozen=True)
class NoCot(Method):
    """No thought at all."""

    @property
    def recipe(self) -> Recipe:
        return Recipe(speeds=(1.0,), keeps_steps=False, prompt_speed=AUTO_SPEED)

    def thinking(self, decode: DecodeConfig, separator_id: int, *, greedy: bool) -> Thinking:
        return word_thinking(decode, separator_id, greedy=greedy, max_thoughts=0)
