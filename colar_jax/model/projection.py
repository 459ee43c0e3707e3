"""From hidden state to input, for CODI's latents: `Linear(D, I) GELU(erf) Linear(I, D)` and a LayerNorm."""

import dataclasses

from flax import nnx

from colar_jax.model.gelu import gelu
from colar_jax.model.linear import Linear, parameter
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.model.norm import layer_norm


@dataclasses.dataclass(frozen=True)
class ProjectionConfig:
    """Its hidden size, and whether a LayerNorm ends it."""

    intermediate_size: int
    layer_norm: bool = True


class Projection(nnx.Module):
    """An MLP from hidden states `[..., D]` to input embeddings `[..., D]`."""

    def __init__(self, llama: LlamaConfig, config: ProjectionConfig, *, rngs: nnx.Rngs):
        self.config, hidden_size = config, llama.hidden_size
        self.first = Linear(hidden_size, config.intermediate_size, ("embed", "latent"), bias=True, rngs=rngs)
        self.second = Linear(config.intermediate_size, hidden_size, ("latent", "embed"), bias=True, rngs=rngs)
        if config.layer_norm:
            self.norm_scale = parameter(rngs, (hidden_size,), ("norm",), fill=1.0)
            self.norm_bias = parameter(rngs, (hidden_size,), ("norm",))

    def __call__(self, hidden):
        x = self.second(gelu(self.first(hidden)))
        if not self.config.layer_norm:
            return x
        return layer_norm(x, self.norm_scale[...], self.norm_bias[...])
