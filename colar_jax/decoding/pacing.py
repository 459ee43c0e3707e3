"""Speeds that change in mid-chain: chosen by the model where a line ends, or told beforehand (`Prompt.later`)."""

import jax.numpy as jnp

from colar_jax.decoding.loops import DecodeLimits
from colar_jax.decoding.prefill import Feeder
from colar_jax.model.timeline import VaryingSpeed


def first_pace(feeder: Feeder, limits: DecodeLimits) -> VaryingSpeed | None:
    """The pace of chains before their first latent; None where each has one speed."""
    prefilled = feeder.prefilled
    if not limits.changes_speed and prefilled.changes_B is None:
        return None
    speeds_B = jnp.maximum(prefilled.speeds_B, 1.0)
    following_B = following_speeds(feeder, limits, prefilled.hidden_BD, speeds_B, 0)
    return VaryingSpeed.at_start(speeds_B, following_B)


def following_speeds(feeder: Feeder, limits: DecodeLimits, hidden_BD, speeds_B, number):
    """The speed of the latent after latent `number` (0 the first) of each chain, float32 `[B]`; that latent tells it.

    Args:
        hidden_BD: the hidden states that latent `number` is made of.
        speeds_B: the speed of latent `number`.
    """
    prefilled = feeder.prefilled
    if prefilled.changes_B is not None:
        after_B, later_B = prefilled.changes_B
        return jnp.where(number + 1 >= after_B, later_B, speeds_B)
    choice = feeder.model.speed_choice
    is_asked_B = (prefilled.own_speeds_B > 0) & (choice.line_end(hidden_BD) > 0)
    return jnp.where(is_asked_B, choice.chosen(hidden_BD, limits.speed_certainty), speeds_B)
