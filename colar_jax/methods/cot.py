"""Chain of thought: the steps as words, one token a position. Every other method starts from its checkpoint."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from colar_jax.data.loader import Recipe
from colar_jax.decoding.thinking import word_thinker
from colar_jax.methods.method import Method, Thinking
from colar_jax.settings import DecodeConfig


@dataclasses.dataclass(frozen=True)
class Cot(Method):
    """The steps are thought as words, until `###` or the limit."""

    @property
    def recipe(self) -> Recipe:
        """The prompt of words says speed 1, as published: it is CoLaR's c = 1 without the latents."""
        return Recipe(speeds=(1.0,))

    @property
    def takes_rewards(self) -> bool:
        return True

    def objection_to_rewards(self, rl: Any) -> str:
        of_latents = ("final_min_std", "final_stop_odds_temperature", "final_max_latents", "entropy_weight")
        changed = [field for field in of_latents if getattr(rl, field)]
        if rl.first_latent != "all":
            changed.append("first_latent")
        return (
            f"{changed[0]}={getattr(rl, changed[0])!r} is about latents, and these chains are words" if changed else ""
        )

    def thinking(self, decode: DecodeConfig, separator_id: int, dtype: jnp.dtype, greedy: bool) -> Thinking:
        think = word_thinker(
            separator_id, dtype, greedy=greedy, temperature=decode.stop_temperature, top_p=decode.top_p
        )
        return Thinking(think, max_thoughts=decode.max_step_tokens, in_words=True)
