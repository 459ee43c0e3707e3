"""The speed that a model chooses itself, once it has read the question."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from colar_jax.model.reasoner import Reasoner
from colar_jax.model.speed_choice import SPEED_CHOICE
from colar_jax.settings.speeds import OWN_NUMBER


def own_speeds(
    model: Reasoner,
    speeds_C,
    read_before: Callable[[], jax.Array],
    certainty: float,
    anyone: Callable[[jax.Array], jax.Array],
    draw_keys_C=None,
):
    """The speed that the model chooses for each question that asks it to, 0 for others, and its log-probability, `[C]`.

    None without a choice; the log-probability is 0 where none is drawn.

    Args:
        speeds_C: what each is told (`data.recipe.Told.number`); None: the model is told no numbers.
        read_before: the hidden states `[C, D]` before the separators, which are told of the choice: such questions are
            read twice.
        anyone: whether a mask holds anywhere, on any device.
    """
    if not hasattr(model, SPEED_CHOICE) or speeds_C is None:
        return None
    is_own_C, zeros_C = speeds_C == OWN_NUMBER, jnp.zeros_like(speeds_C)

    def chosen():
        before_CD = read_before()
        if draw_keys_C is None:
            return jnp.where(is_own_C, model.speed_choice.chosen(before_CD, certainty), 0.0), zeros_C
        return tuple(jnp.where(is_own_C, of_C, 0.0) for of_C in model.speed_choice.drawn(before_CD, draw_keys_C))

    return jax.lax.cond(anyone(jnp.any(is_own_C)), chosen, lambda: (zeros_C, zeros_C))
