"""Latents on the chain's own timeline: rotary positions that count its tokens, and how many the next latent holds.

A latent stands where the last token of its group would stand in the chain in words, and is told the size of the group
after it. At any speed a token then has one and the same place, and what is learned at one speed holds at the others.
With positions that count latents (as published) the place of a token depends on the speed.

Groups are those of `data.grouping` at the phase `ASKED_PHASE`. The last one of a chain may hold fewer tokens than are
told: only its text would say that.
"""

import jax.numpy as jnp

from colar_jax.model.reasoner import Reasoner
from colar_jax.model.speed_embedding import SPEED
from colar_jax.settings.speeds import ASKED_PHASE, NO_NUMBER

# Of float32 products of a speed and a number of latents. Speeds have two decimals, and ends lie 0.01 apart.
_EPSILON = 1e-3


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
