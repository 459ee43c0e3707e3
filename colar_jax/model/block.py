"""One layer of a Llama: attention and SwiGLU, under whatever attention its caller gives it."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from colar_jax.model import rope
from colar_jax.model.linear import Axes, Linear, swiglu
from colar_jax.model.lora import LoraConfig, LowRank
from colar_jax.model.norm import RMSNorm
from colar_jax.model.presets import LlamaConfig

# (q_BTNH, k_BTKH, v_BTKH) -> (output_BTD', whatever the caller wants to keep of this layer)
Attend = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]


class Block(nnx.Module):
    """Attention and SwiGLU, each after a norm and added to the residual stream."""

    def __init__(self, config: LlamaConfig, lora: LoraConfig | None = None, *, rngs: nnx.Rngs):
        self.config = config
        D, F = config.hidden_size, config.intermediate_size
        query_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim

        def linear(name: str, in_size: int, out_size: int, axes: Axes, bias: bool = False) -> Linear:
            is_adapted = lora is not None and name in lora.targets
            adapter = LowRank(in_size, out_size, lora, name, rngs=rngs) if is_adapted else None
            return Linear(in_size, out_size, axes, bias=bias, adapter=adapter, rngs=rngs)

        self.attention_norm = RMSNorm(D, config.norm_eps, rngs=rngs)
        self.query = linear("query", D, query_size, ("embed", "heads"), bias=config.qkv_bias)
        self.key = linear("key", D, kv_size, ("embed", "kv_heads"), bias=config.qkv_bias)
        self.value = linear("value", D, kv_size, ("embed", "kv_heads"), bias=config.qkv_bias)
        self.out = linear("out", query_size, D, ("heads", "embed"))
        self.mlp_norm = RMSNorm(D, config.norm_eps, rngs=rngs)
        self.gate = linear("gate", D, F, ("embed", "mlp"))
        self.up = linear("up", D, F, ("embed", "mlp"))
        self.down = linear("down", F, D, ("mlp", "embed"))

    def __call__(self, x_BTD, cos_BTH, sin_BTH, attend: Attend, dropout_keys_B=None, pick=None):
        """The residual stream after this layer, where `pick` picks it, and what `attend` keeps."""
        keys_B = dropout_keys_B

        def by_head(x_BTA):
            return x_BTA.reshape(*x_BTA.shape[:2], -1, self.config.head_dim)

        with jax.named_scope("attention"):
            normed = self.attention_norm(x_BTD)
            k_BTKH = rope.rotate(by_head(self.key(normed, keys_B)), cos_BTH, sin_BTH)
            v_BTKH = by_head(self.value(normed, keys_B))
            if pick is not None:  # keys and values are everywhere; what follows is where it is asked for
                x_BTD, normed, cos_BTH, sin_BTH = map(pick, (x_BTD, normed, cos_BTH, sin_BTH))
            q_BTNH = rope.rotate(by_head(self.query(normed, keys_B)), cos_BTH, sin_BTH)
            attended, kept = attend(q_BTNH, k_BTKH, v_BTKH)
            x_BTD = x_BTD + self.out(attended, keys_B)
        with jax.named_scope("mlp"):
            normed = self.mlp_norm(x_BTD)
            x_BTD = x_BTD + self.down(swiglu(self.gate(normed, keys_B), self.up(normed, keys_B)), keys_B)
        return x_BTD, kept
