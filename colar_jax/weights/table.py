"""The weights of a Llama-type model: each leaf of our parameter tree, its names and its shape in a Hugging Face folder.

torch keeps a linear layer as `[out, in]` and every layer by itself; ours are `[in, out]`, stacked over the layers.
"""

import dataclasses

from colar_jax.model.llama_config import LlamaConfig
from colar_jax.weights.families import FAMILIES

EMBEDDING_NAME, HEAD_NAME = "model.embed_tokens.weight", "lm_head.weight"

# By `LlamaConfig.norms`. A Llama's norm before the feed-forward is called after what comes before it.
_NORMS = {
    "before": {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"},
    "after": {"attention_out_norm": "post_attention_layernorm", "mlp_out_norm": "post_feedforward_layernorm"},
    "around": {
        "attention_norm": "input_layernorm",
        "attention_out_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "mlp_out_norm": "post_feedforward_layernorm",
    },
}


@dataclasses.dataclass(frozen=True)
class Weight:
    """One leaf of our tree, and where Hugging Face has it: a name for each layer if it is stacked, else one."""

    path: tuple[str, ...]  # in the tree of the Llama
    names: tuple[str, ...]
    shape: tuple[int, ...]  # of each tensor in the file
    is_stacked: bool

    @property
    def is_kernel(self) -> bool:
        """Whether it is transposed on the way."""
        return self.path[-1] == "kernel"

    @property
    def leaf_shape(self) -> tuple[int, ...]:
        """The shape in our tree."""
        shape = self.shape[::-1] if self.is_kernel else self.shape
        return (len(self.names), *shape) if self.is_stacked else shape


def llama_weights(config: LlamaConfig) -> list[Weight]:
    """Every weight of a model of this shape."""
    V, D, F = config.vocab_size, config.hidden_size, config.intermediate_size
    query_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    projections = {
        "query": ("self_attn.q_proj", query_size, D),
        "key": ("self_attn.k_proj", kv_size, D),
        "value": ("self_attn.v_proj", kv_size, D),
        "out": ("self_attn.o_proj", D, query_size),
        "gate": ("mlp.gate_proj", F, D),
        "up": ("mlp.up_proj", F, D),
        "down": ("mlp.down_proj", D, F),
    }
    of_layer = {(ours, "kernel"): (f"{name}.weight", (out, in_)) for ours, (name, out, in_) in projections.items()}
    if config.qkv_bias:
        for ours in ("query", "key", "value"):
            name, out, _ = projections[ours]
            of_layer[ours, "bias"] = f"{name}.bias", (out,)
    if config.qk_norm:
        sizes = (query_size, kv_size) if config.qk_norm == "whole" else (config.head_dim,) * 2
        for ours, name, size in zip(("query_norm", "key_norm"), ("q_norm", "k_norm"), sizes, strict=True):
            of_layer[ours, "scale"] = f"self_attn.{name}.weight", (size,)
    for ours, name in _NORMS[config.norms].items():
        of_layer[ours, "scale"] = f"{name}.weight", (D,)
    of_layer |= FAMILIES[config.family].weights(config)

    weights = [
        Weight(("embedding",), (EMBEDDING_NAME,), (V, D), False),
        Weight(("final_norm", "scale"), ("model.norm.weight",), (D,), False),
    ]
    if not config.tied_head:
        weights.append(Weight(("head",), (HEAD_NAME,), (V, D), False))
    for path, (name, shape) in of_layer.items():
        names = tuple(f"model.layers.{layer}.{name}" for layer in range(config.num_layers))
        weights.append(Weight(("blocks", *path), names, shape, True))
    return weights
