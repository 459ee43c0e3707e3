"""Going on or stopping as a choice between two tokens: a softmax over two rows of a vocabulary that has no others.

The rows are weights of their own (an adapter's base has no such tokens) and start at zero: both are as likely.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from colar_jax.model.linear import parameter
from colar_jax.model.llama_config import LlamaConfig

STOP_CHOICE = "stop_choice"  # the name of this part of the model
GO_ON, STOP = 0, 1


@dataclasses.dataclass(frozen=True)
class StopChoiceConfig:
    """It has no sizes of its own."""


class StopChoice(nnx.Module):
    """The rows of CONTINUE and STOP."""

    def __init__(self, llama: LlamaConfig, config: StopChoiceConfig, *, rngs: nnx.Rngs):
        self.rows = parameter(rngs, (2, llama.hidden_size), ("choice_out", "stop_in"))

    def __call__(self, hidden):
        """Logits `[..., 2]`, float32, of going on and of stopping, from hidden states `[..., D]`."""
        rows = self.rows[...].astype(hidden.dtype)
        return jnp.einsum("...d,kd->...k", hidden, rows, preferred_element_type=jnp.float32)

    def margin(self, hidden):
        """The log-odds of stopping, float32 `[...]`."""
        logits = self(hidden)
        return logits[..., STOP] - logits[..., GO_ON]
