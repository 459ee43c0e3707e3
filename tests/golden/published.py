"""The published implementation's tiny model in our parameters, and our gradients back under its names (README.md).

torch keeps a linear layer as `[out, in]` and every layer by itself; ours are `[in, out]`, stacked over the layers.
"""

import functools
import json
import math
from pathlib import Path

import numpy as np
from flax import traverse_util

from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.presets import LlamaConfig, RopeScaling
from colar_jax.model.reasoner import build

SEPARATOR_ID, EOS_ID, PAD_ID = 297, 639, 640
EMBED_STD = 0.018

PREFIXES = {"llama": "llm.", "policy": "latent_policy."}  # weights.npz -> `parameter_names`
# Ours -> published, for what each layer has; `kernel` is transposed, and all are stacked over the layers.
LAYER_NAMES = {
    ("attention_norm", "scale"): "input_layernorm.weight",
    ("query", "kernel"): "self_attn.q_proj.weight",
    ("key", "kernel"): "self_attn.k_proj.weight",
    ("value", "kernel"): "self_attn.v_proj.weight",
    ("out", "kernel"): "self_attn.o_proj.weight",
    ("mlp_norm", "scale"): "post_attention_layernorm.weight",
    ("gate", "kernel"): "mlp.gate_proj.weight",
    ("up", "kernel"): "mlp.up_proj.weight",
    ("down", "kernel"): "mlp.down_proj.weight",
}
NAMES = {
    ("llama", "embedding"): "llm.model.embed_tokens.weight",  # tied: the gradient of the head is in it
    ("llama", "final_norm", "scale"): "llm.model.norm.weight",
    ("latent_head", "first", "kernel"): "latent_policy.fc.0.weight",
    ("latent_head", "first", "bias"): "latent_policy.fc.0.bias",
    ("latent_head", "second", "kernel"): "latent_policy.fc.2.weight",
    ("latent_head", "second", "bias"): "latent_policy.fc.2.bias",
    ("latent_head", "norm_scale"): "latent_policy.fc.3.weight",
    ("latent_head", "norm_bias"): "latent_policy.fc.3.bias",
    ("latent_head", "mean", "kernel"): "latent_policy.mean.weight",
    ("latent_head", "mean", "bias"): "latent_policy.mean.bias",
    ("latent_head", "log_std", "kernel"): "latent_policy.log_std.weight",
    ("latent_head", "log_std", "bias"): "latent_policy.log_std.bias",
}


@functools.cache
def recorded(name: str) -> dict[str, np.ndarray]:
    """The arrays of `<name>.npz`."""
    with np.load(Path(__file__).parent / f"{name}.npz") as arrays:
        return dict(arrays)


def llama_config(vocab_size: int) -> LlamaConfig:
    """The recorded model's shape."""
    config = json.loads(str(recorded("weights")["config_json"]))
    scaling = config["rope_scaling"]
    assert (scaling["rope_type"], config["hidden_act"]) == ("llama3", "silu")
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        intermediate_size=config["intermediate_size"],
        rope_theta=config["rope_theta"],
        rope_scaling=RopeScaling(
            factor=scaling["factor"],
            low_freq_factor=scaling["low_freq_factor"],
            high_freq_factor=scaling["high_freq_factor"],
            original_max_positions=scaling["original_max_position_embeddings"],
        ),
        norm_eps=config["rms_norm_eps"],
        tied_head=config["tie_word_embeddings"],
        qkv_bias=config["attention_bias"],
    )


@functools.cache
def published_model(*, pad_row: bool = True, deterministic: bool = False):
    """Graph and parameters of the recorded model; each array of weights.npz has one place, each place one array."""
    weights = dict(recorded("weights"))
    del weights["config_json"], weights["config_json_transformers5"]
    weights = {PREFIXES.get(name.split("/")[0], "") + name.split("/")[-1]: array for name, array in weights.items()}
    pad_row_D = weights.pop("embed_pad_row")
    embedding = NAMES["llama", "embedding"]
    if pad_row:
        weights[embedding] = np.concatenate([weights[embedding], pad_row_D[None]])
    config = llama_config(len(weights[embedding]))
    # The published log std is unbounded, and exceeds our default bound once: problem 3 at speed 1 predicts 2.04.
    head = LatentHeadConfig(
        weights["latent_policy.fc.0.bias"].size,
        deterministic=deterministic,
        min_log_std=-math.inf,
        max_log_std=math.inf,
    )
    graph, parameters = build(config, head, seed=0)

    flat = {}
    for path, array in traverse_util.flatten_dict(parameters).items():
        if path[-1] == "embed_std":
            flat[path] = np.float32(EMBED_STD)
            continue
        parts = [weights.pop(name) for name in published_names(path, config.num_layers)]
        parts = [part.T if path[-1] == "kernel" else part for part in parts]
        flat[path] = np.stack(parts) if path[1] == "blocks" else parts[0]
        assert flat[path].shape == array.shape, path
    assert not weights, sorted(weights)
    return graph, traverse_util.unflatten_dict(flat)


def published_names(path: tuple[str, ...], num_layers: int) -> list[str]:
    """What the published implementation calls one of our parameters: a name for each layer if it is stacked."""
    if path[:2] == ("llama", "blocks"):
        return [f"llm.model.layers.{layer}.{LAYER_NAMES[path[2:]]}" for layer in range(num_layers)]
    return [NAMES[path]]


def under_published_names(gradients: dict) -> dict[str, np.ndarray]:
    """Our gradients in torch's layout: name -> array, a stacked one split into its layers."""
    named = {}
    for path, array in traverse_util.flatten_dict(gradients).items():
        parts = np.asarray(array) if path[1] == "blocks" else np.asarray(array)[None]
        names = published_names(path, len(parts))
        named |= {name: part.T if path[-1] == "kernel" else part for name, part in zip(names, parts, strict=True)}
    return named


def largest_difference(actual, expected) -> float:
    """Largest absolute difference, relative to the largest expected value; NaN is infinitely far from anything."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    if not np.all(np.isfinite(actual)):
        return math.inf
    return float(np.max(np.abs(actual - expected)) / np.max(np.abs(expected)))
