"""A model's own choice of its speed: from a hidden state, of a question's last token or in mid-chain, to one of a grid.

    Linear(D, I) GELU Linear(I, K)  ->  log-odds of the K speeds

It is read before the separator that opens the reasoning, so what is chosen can be told there; and, where speeds may
change, where a latent is made, which tells it. The last layer starts at zero: every speed is as likely.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from colar_jax.model.gelu import gelu
from colar_jax.model.linear import Linear, along_last, parameter, project
from colar_jax.model.llama_config import LlamaConfig

SPEED_CHOICE = "speed_choice"  # the name of this part of the model


@dataclasses.dataclass(frozen=True)
class SpeedChoiceConfig:
    """What there is to choose from, rising, and the size of the layer between."""

    speeds: tuple[float, ...]
    inner_size: int = 64
    # Of a head that learned labels: whether it says of each speed by itself how likely an answer is right at it, or
    # (False) which speed is the fastest that is right.
    of_each: bool = False
    mid_chain: bool = False  # whether it is asked in mid-chain, too: then it also says where lines end


class SpeedChoice(nnx.Module):
    """The head over a grid of speeds."""

    def __init__(self, llama: LlamaConfig, config: SpeedChoiceConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.first = Linear(llama.hidden_size, config.inner_size, ("choice_in", "choice"), bias=True, rngs=rngs)
        num_outputs = len(config.speeds) + config.mid_chain
        self.second_kernel = parameter(rngs, (config.inner_size, num_outputs), ("choice", "choice_out"))
        self.second_bias = parameter(rngs, (num_outputs,), ("choice_out",))

    def __call__(self, hidden):
        """Logits `[..., K]`, float32, from hidden states `[..., D]`."""
        return self._outputs(hidden)[..., : len(self.config.speeds)]

    def line_end(self, hidden):
        """Log-odds that the latent which is made of a hidden state ends a line, float32 `[...]`."""
        return self._outputs(hidden)[..., -1]

    def _outputs(self, hidden):
        inner = gelu(self.first(hidden))
        logits = project(inner, self.second_kernel[...].astype(inner.dtype)).astype(jnp.float32)
        return logits + along_last(self.second_bias[...], logits)

    @property
    def grid_K(self):
        """The speeds, float32."""
        return jnp.asarray(self.config.speeds, jnp.float32)

    def chosen(self, hidden, certainty: float = 0.0):
        """The speed at each hidden state, float32 `[...]`: that of the largest logit, or the fastest that is sure.

        Args:
            certainty: of a head that has learned labels, how likely an answer has to be right. The fastest speed is
                taken at which it is; if there is none, that at which it is likeliest to be. A head that learned
                the fastest right speeds takes what is right at one to be right at all slower ones: of a speed the
                probabilities of its own label and of those of all faster ones are added up. 0: the speed of the
                largest logit, which of labels of each speed is the safest, and of the fastest ones the likeliest.
        """
        logits = self(hidden)
        likeliest = jnp.argmax(logits, axis=-1)
        if not certainty:
            return self.grid_K[likeliest]
        if self.config.of_each:
            right = jax.nn.sigmoid(logits)
        else:
            right, likeliest = jnp.cumsum(jax.nn.softmax(logits)[..., ::-1], axis=-1)[..., ::-1], 0
        places = jnp.where(right >= certainty, jnp.arange(right.shape[-1]), -1)
        fastest = jnp.max(places, axis=-1)
        return self.grid_K[jnp.where(fastest >= 0, fastest, likeliest)]

    def drawn(self, hidden_CD, keys_C):
        """A speed drawn at each hidden state, and its log-probability, both float32 `[C]`."""
        log_probs_CK = jax.nn.log_softmax(self(hidden_CD))
        index_C = jax.vmap(jax.random.categorical)(keys_C, log_probs_CK)
        return self.grid_K[index_C], jnp.take_along_axis(log_probs_CK, index_C[:, None], axis=-1)[:, 0]

    def log_prob(self, hidden, speeds):
        """The log-probability of `speeds` `[...]` of the grid at hidden states `[..., D]`, and the entropy there."""
        log_probs = jax.nn.log_softmax(self(hidden))
        index = jnp.argmin(jnp.abs(along_last(self.grid_K, log_probs) - speeds[..., None]), axis=-1)
        picked = jnp.take_along_axis(log_probs, index[..., None], axis=-1)[..., 0]
        return picked, -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
