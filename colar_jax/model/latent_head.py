"""The latent head: from a hidden state to a Gaussian over the next compressed embedding (docs/method.md).

    Linear(D, I)  GELU(erf)  Linear(I, I)  LayerNorm(1e-5)  ->  Linear(I, D) mean,  Linear(I, D) log std

It works in units of `embed_std`, the standard deviation of the base model's token embeddings: a prediction times
`embed_std` is an input embedding.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from colar_jax.model.gelu import gelu
from colar_jax.model.linear import Linear, parameter
from colar_jax.model.norm import layer_norm


@dataclasses.dataclass(frozen=True)
class LatentHeadConfig:
    """Sizes and bounds of the latent head.

    The published log standard deviation is unbounded, and collapses or explodes in long runs; here it is clipped to
    `[min_log_std, max_log_std]`. A deterministic head (ablation DL) has no standard deviation at all.
    """

    intermediate_size: int
    deterministic: bool = False
    min_log_std: float = -6.0
    max_log_std: float = 2.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gaussian:
    """A diagonal Gaussian over embeddings divided by `embed_std`; both fields float32, of one shape `[..., D]`."""

    mean: jax.Array
    std: jax.Array  # all zeros for a deterministic head

    def sample(self, noise, temperature=1.0):
        """The reparameterised draw `mean + temperature * std * noise`."""
        return self.mean + temperature * self.std * noise

    def log_prob(self, value, temperature=1.0):
        """Log density of each dimension of `value` with the standard deviation scaled by `temperature`."""
        std = self.std * temperature
        return -0.5 * jnp.square((value - self.mean) / std) - jnp.log(std) - 0.5 * jnp.log(2 * jnp.pi)

    def with_min_std(self, min_std: float) -> "Gaussian":
        """The same with no standard deviation below `min_std` (in units of `embed_std`; no gradient where it is)."""
        if isinstance(min_std, float | int) and not min_std:
            return self
        return dataclasses.replace(self, std=jnp.maximum(self.std, min_std))

    def entropy(self):
        """Differential entropy of each dimension, in nats."""
        return 0.5 + 0.5 * jnp.log(2 * jnp.pi) + jnp.log(self.std)


class Buffer(nnx.Variable):
    """A stored number that no optimizer touches."""


class LatentHead(nnx.Module):
    """The Gaussian head, with the embedding scale it is calibrated to."""

    def __init__(self, hidden_size: int, config: LatentHeadConfig, *, rngs: nnx.Rngs):
        self.config = config
        # Names without a rule in `parallel.sharding`: the head is small, and the same on every device.
        D, I = hidden_size, config.intermediate_size  # noqa: E741 (the paper's letter)
        linear = functools.partial(Linear, bias=True, rngs=rngs)
        self.first = linear(D, I, ("latent_in", "latent"))
        self.second = linear(I, I, ("latent", "latent_out"))
        self.norm_scale = parameter(rngs, (I,), ("norm",), fill=1.0)
        self.norm_bias = parameter(rngs, (I,), ("norm",))
        self.mean = linear(I, D, ("latent", "latent_in"))
        self.log_std = linear(I, D, ("latent", "latent_in"))
        self.embed_std = Buffer(jnp.float32(1.0))

    def __call__(self, hidden) -> Gaussian:
        """The distribution of the next compressed embedding, for hidden states `[..., D]`."""
        with jax.named_scope("latent_head"):
            return self._distribution(hidden)

    def _distribution(self, hidden) -> Gaussian:
        x = self.second(gelu(self.first(hidden)))
        x = layer_norm(x, self.norm_scale[...], self.norm_bias[...])
        mean = self.mean(x).astype(jnp.float32)
        if self.config.deterministic:
            return Gaussian(mean, jnp.zeros_like(mean))
        log_std = jnp.clip(self.log_std(x).astype(jnp.float32), self.config.min_log_std, self.config.max_log_std)
        return Gaussian(mean, jnp.exp(log_std))
