"""The distance between a student's and a teacher's hidden states at one token (CODI, arXiv 2502.21074, equation 4)."""

import jax
import jax.numpy as jnp

from colar_jax.model.execution import Execution
from colar_jax.model.reasoner import Reasoner


def hidden_states(model: Reasoner, layers: tuple, ids_BT, positions_BE, *, with_embedding: bool):
    """The states of one token of each example, `[L, B, E, D]` in float32, as `transformers` lists them.

    Args:
        layers: the residual stream `[B, E, D]` after every layer; the last one is returned after the final norm.
        ids_BT, positions_BE: the tokens that were fed, and which of them it is.
        with_embedding: whether its embedding comes first: `L` is one more then.
    """
    states = [*layers[:-1], model.llama.final_norm(layers[-1])]
    if with_embedding:
        ids_BE = jnp.take_along_axis(ids_BT, positions_BE, axis=1)
        states.insert(0, model.llama.embed(ids_BE, layers[-1].dtype))
    return jnp.stack(states).astype(jnp.float32)


def distance(student_LBED, teacher_LBED, spread=None):
    """Smooth L1 between the states of each example, averaged over dimensions and layers: `[B, E]`.

    Args:
        spread: one of `SPREADS`, that each layer's distance is divided by: `[L, 1, 1]` or `[L, B, E]`.
    """
    error_LBED = jnp.abs(student_LBED - jax.lax.stop_gradient(teacher_LBED))
    smooth_LBED = jnp.where(error_LBED < 1, 0.5 * jnp.square(error_LBED), error_LBED - 0.5)
    distance_LBE = jnp.mean(smooth_LBED, axis=-1)
    if spread is not None:
        # Padding has the same state everywhere, and so no spread; the floor keeps it finite.
        distance_LBE = distance_LBE / jnp.maximum(jax.lax.stop_gradient(spread), 1e-6)
    return jnp.mean(distance_LBE, axis=0)


def spread_of_batch(teacher_LBED, is_real_BE, compute: Execution):
    """The standard deviation of each layer's states over all examples and dimensions, `[L, 1, 1]`: CODI's own.

    Over the whole step, on however many devices; with `accumulation`, over a microbatch.
    """
    return _spread_over((1, 2, 3), teacher_LBED, is_real_BE, compute)


def spread_of_all(teacher_LBED, is_real_BE, compute: Execution):
    """The same over all layers at once, `[1, 1, 1]`: what PCCoT's code divides by where it does not take each layer's.

    A layer whose states are small then counts little.
    """
    return _spread_over((0, 1, 2, 3), teacher_LBED, is_real_BE, compute)


def _spread_over(axes: tuple[int, ...], teacher_LBED, is_real_BE, compute: Execution):
    is_real_BE1 = is_real_BE[..., None]
    num_states = teacher_LBED.shape[-1] * (teacher_LBED.shape[0] if 0 in axes else 1)

    def total(values_LBED):
        return compute.over_all_rows(jnp.sum(jnp.where(is_real_BE1, values_LBED, 0), axis=axes, keepdims=True))

    count = compute.over_all_rows(jnp.sum(is_real_BE)) * num_states
    mean = total(teacher_LBED) / jnp.maximum(count, 1)
    return jnp.sqrt(total(jnp.square(teacher_LBED - mean)) / jnp.maximum(count - 1, 1))[..., 0]


def spread_of_example(teacher_LBED, is_real_BE, compute: Execution):
    """The standard deviation of each example's own states over dimensions, `[L, B, E]`.

    With it a loss does not depend on the batch that an example is in.
    """
    return jnp.std(teacher_LBED, axis=-1, ddof=1)


SPREADS = {"batch": spread_of_batch, "example": spread_of_example, "all": spread_of_all}
