"""One layer of a Llama-type model: attention and a gated feed-forward, under whatever attention its caller gives it."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from colar_jax.model import rope
from colar_jax.model.linear import GATED, Axes, Linear
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.model.lora import LoraConfig, LowRank
from colar_jax.model.norm import RMSNorm

# (q_BTNH, k_BTKH, v_BTKH) -> (output_BTD', whatever the caller wants to keep of this layer)
Attend = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]


class Block(nnx.Module):
    """Attention and a gated feed-forward, each with its norms and added to the residual stream."""

    def __init__(self, config: LlamaConfig, lora: LoraConfig | None = None, *, rngs: nnx.Rngs):
        self.config = config
        D, F = config.hidden_size, config.intermediate_size
        query_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim

        def linear(name: str, in_size: int, out_size: int, axes: Axes, bias: bool = False) -> Linear:
            is_adapted = lora is not None and name in lora.targets
            adapter = LowRank(in_size, out_size, lora, name, rngs=rngs) if is_adapted else None
            return Linear(in_size, out_size, axes, bias=bias, adapter=adapter, rngs=rngs)

        def norm(is_there: bool, size: int = D) -> RMSNorm | None:
            return RMSNorm(size, config.norm_eps, config.norm_offset, rngs=rngs) if is_there else None

        is_before, is_after = config.norms != "after", config.norms != "before"
        query_part, key_part = (query_size, kv_size) if config.qk_norm == "whole" else (config.head_dim,) * 2
        self.attention_norm, self.attention_out_norm = norm(is_before), norm(is_after)
        self.query = linear("query", D, query_size, ("embed", "heads"), bias=config.qkv_bias)
        self.key = linear("key", D, kv_size, ("embed", "kv_heads"), bias=config.qkv_bias)
        self.query_norm, self.key_norm = norm(bool(config.qk_norm), query_part), norm(bool(config.qk_norm), key_part)
        self.value = linear("value", D, kv_size, ("embed", "kv_heads"), bias=config.qkv_bias)
        self.out = linear("out", query_size, D, ("heads", "embed"))
        self.mlp_norm, self.mlp_out_norm = norm(is_before), norm(is_after)
        self.gate = linear("gate", D, F, ("embed", "mlp"))
        self.up = linear("up", D, F, ("embed", "mlp"))
        self.down = linear("down", F, D, ("mlp", "embed"))

    def __call__(self, x_BTD, cos_BTH, sin_BTH, attend: Attend, dropout_keys_B=None, pick=None):
        """The residual stream after this layer, where `pick` picks it, and what `attend` keeps."""
        keys_B = dropout_keys_B
        with jax.named_scope("attention"):
            normed = _maybe(self.attention_norm, x_BTD)
            k_BTKH = rope.rotate(self._by_head(self.key(normed, keys_B), self.key_norm), cos_BTH, sin_BTH)
            v_BTKH = self._by_head(self.value(normed, keys_B))
            if pick is not None:  # keys and values are everywhere; what follows is where it is asked for
                x_BTD, normed, cos_BTH, sin_BTH = map(pick, (x_BTD, normed, cos_BTH, sin_BTH))
            q_BTNH = rope.rotate(self._by_head(self.query(normed, keys_B), self.query_norm), cos_BTH, sin_BTH)
            if self.config.query_scalar not in (None, self.config.head_dim):  # attention itself divides by sqrt(H)
                q_BTNH = q_BTNH * (self.config.head_dim / self.config.query_scalar) ** 0.5
            with jax.named_scope("attend"):
                attended, kept = attend(q_BTNH, k_BTKH, v_BTKH)
            x_BTD = x_BTD + _maybe(self.attention_out_norm, self.out(attended, keys_B))
        with jax.named_scope("mlp"):
            normed = _maybe(self.mlp_norm, x_BTD)
            gated = GATED[self.config.activation](self.gate(normed, keys_B), self.up(normed, keys_B))
            x_BTD = x_BTD + _maybe(self.mlp_out_norm, self.down(gated, keys_B))
        return x_BTD, kept

    def _by_head(self, x_BTA, norm: RMSNorm | None = None):
        """`[B, T, heads * H]` to `[B, T, heads, H]`, through a norm of the whole or of each head."""
        if self.config.qk_norm == "whole":
            x_BTA, norm = _maybe(norm, x_BTA), None
        return _maybe(norm, x_BTA.reshape(*x_BTA.shape[:2], -1, self.config.head_dim))


def _maybe(norm: RMSNorm | None, x):
    return x if norm is None else norm(x)
