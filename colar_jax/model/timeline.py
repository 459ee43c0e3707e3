"""Latents on the chain's own timeline: rotary positions that count its tokens, and how many the next latent holds.

A latent stands where the last token of its group would stand in the chain in words, and is told the size of the group
after it. At any speed a token then has one and the same place, and what is learned at one speed holds at the others.
With positions that count latents (as published) the place of a token depends on the speed.

Groups are those of `data.grouping` at the phase `ASKED_PHASE`. The last one of a chain may hold fewer tokens than are
told: only its text would say that. A chain whose speed changes on the way has a `VaryingSpeed`.
"""

import dataclasses

import jax
import jax.numpy as jnp

from colar_jax.model.reasoner import Reasoner
from colar_jax.model.speed_embedding import SPEED
from colar_jax.settings.speeds import ASKED_PHASE, NO_NUMBER

# Of float32 products of a speed and a number of latents. Speeds have two decimals, and ends lie 0.01 apart.
_EPSILON = 1e-3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VaryingSpeed:
    """How far `B` chains are, and how fast they go on, where their speed may change at any latent.

    Each latent is told the size of the group after it, so when a latent is made its own size is known, and that of the
    next is to be chosen. Group `k` ends before token `floor(the sum of the speeds up to its own + phase)`: at one speed
    these are the groups of `data.grouping`.
    """

    tokens_B: jax.Array  # int32, how many the latents so far hold
    rest_B: jax.Array  # float32, how far the sum of the speeds and the phase goes beyond them, below 1
    speeds_B: jax.Array  # float32, of the next latent, told already
    following_B: jax.Array  # float32, of the one after it, told with the next latent

    @classmethod
    def at_start(cls, speeds_B, following_B) -> "VaryingSpeed":
        """Of chains before their first latent."""
        return cls(jnp.zeros_like(speeds_B, jnp.int32), jnp.full_like(speeds_B, ASKED_PHASE), speeds_B, following_B)

    @property
    def size_B(self):
        """How many tokens the next latent holds, int32."""
        return jnp.floor(self.rest_B + self.speeds_B + _EPSILON).astype(jnp.int32)

    def fed(self, following_B, is_real_B=True) -> "VaryingSpeed":
        """After one more latent of the chains that are real, with the speed of the one after the next."""
        size_B = self.size_B
        after = VaryingSpeed(
            self.tokens_B + size_B, self.rest_B + self.speeds_B - size_B, self.following_B, following_B
        )
        return jax.tree.map(lambda new_B, old_B: jnp.where(is_real_B, new_B, old_B), after, self)


def counts_tokens(model: Reasoner) -> bool:
    """Whether positions of this model's latents count the tokens of the chain."""
    return hasattr(model, SPEED) and model.speed.config.counts_tokens


def tokens_before(num_latents, speeds):
    """How many tokens the first latents hold at these speeds, int32; one each where a number is no speed."""
    ends = jnp.floor(num_latents * speeds + ASKED_PHASE + _EPSILON).astype(jnp.int32)
    return jnp.where((num_latents > 0) & (speeds >= 1), ends, num_latents)


def skipped_positions(model: Reasoner, num_latents, speeds):
    """How far the latest of so many latents stands from where it would stand if positions counted latents; int32."""
    if not counts_tokens(model):
        return jnp.zeros_like(num_latents)
    return tokens_before(num_latents, speeds) - num_latents


def told_next(model: Reasoner, num_latents, speeds):
    """What is added to the latest of so many latents, float32 `[..., D]`: an embedding of how many tokens come next.

    0 latents are the opening separator, which is told a number that is no speed (`settings.speeds`) as itself.
    """
    sizes = tokens_before(num_latents + 1, speeds) - tokens_before(num_latents, speeds)
    return model.speed(jnp.where(speeds >= 1, sizes, jnp.where(num_latents > 0, NO_NUMBER, speeds)))


def told_at_opening(model: Reasoner, speeds):
    """What is added to the opening separator, float32 `[..., D]`."""
    return told_next(model, jnp.zeros_like(speeds, jnp.int32), speeds) if counts_tokens(model) else model.speed(speeds)
