"""Chain of thought: the steps as words, one token a position. Every other method starts from its checkpoint."""

import dataclasses

from colar_jax.data.recipe import Recipe
from colar_jax.methods.method import OF_DECISIONS, OF_DRAWN_LATENTS, Method, Thinking, word_thinking
from colar_jax.settings import DecodeConfig


@dataclasses.dataclass(frozen=True)
class Cot(Method):
    """The steps are thought as words, until `###` or the limit."""

    idle_in_rewards = {
        "is about latents, and these chains are words": (*OF_DRAWN_LATENTS, "final_max_latents"),
        "is about decisions to stop, and here `###` is a token like any other": OF_DECISIONS,
    }

    @property
    def recipe(self) -> Recipe:
        """The prompt of words says speed 1, as published: it is CoLaR's c = 1 without the latents."""
        return Recipe(speeds=(1.0,))

    @property
    def takes_rewards(self) -> bool:
        return True

    def thinking(self, decode: DecodeConfig, separator_id: int, *, greedy: bool) -> Thinking:
        return word_thinking(decode, separator_id, greedy=greedy, max_thoughts=decode.max_step_tokens)
