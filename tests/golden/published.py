"""The published implementation's tiny model in our parameters, and our gradients back under its names (README.md).

torch keeps a linear layer as `[out, in]` and every layer by itself; ours are `[in, out]`, stacked over the layers.
"""

import functools
import json
import math
from pathlib import Path

import numpy as np
from flax import traverse_util
from safetensors.numpy import load_file

from colar_jax.config import parse_targets
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.model.lora import LoraConfig
from colar_jax.model.reasoner import build
from colar_jax.model.rope_scaling import Llama3Scaling

SEPARATOR_ID, EOS_ID, PAD_ID = 297, 639, 640
EMBED_STD = {"llama": 0.018, "qwen2": 0.03}

QWEN2 = Path(__file__).parent / "qwen2_tiny"
PREFIXES = {"llama": "llm.", "policy": "latent_policy."}  # weights.npz -> `parameter_names`
TRANSPOSED = ("kernel", "a", "b")
# Ours -> published, for what each layer has; matrices are transposed, and all are stacked over the layers.
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
    **{(ours, "bias"): f"self_attn.{ours[0]}_proj.bias" for ours in ("query", "key", "value")},
}
ADAPTER_NAMES = {
    (ours, "adapter", leaf): f"self_attn.{ours[0]}_proj.lora_{leaf.upper()}.default.weight"
    for ours in ("query", "value")
    for leaf in ("a", "b")
}
NAMES = {
    ("llama", "embedding"): "llm.model.embed_tokens.weight",  # tied: the gradient of the head is in it
    ("llama", "final_norm", "scale"): "llm.model.norm.weight",
    ("llama", "head"): "llm.lm_head.weight",
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


@functools.cache
def weights_of(family: str) -> dict[str, np.ndarray]:
    """The weights of `llama` or `qwen2`, and of its latent policy, under the published names, without `[PAD]` rows."""
    if family == "llama":
        weights = dict(recorded("weights"))
        del weights["config_json"], weights["config_json_transformers5"]
    else:
        model = load_file(QWEN2 / "model.safetensors")
        weights = recorded("weights_qwen2") | {f"llama/{name}": array for name, array in model.items()}
    return {PREFIXES.get(name.split("/")[0], "") + name.split("/")[-1]: array for name, array in weights.items()}


@functools.cache
def lora_config(family: str = "llama") -> LoraConfig:
    """The recorded adapter's description."""
    config = json.loads(str(recorded("adapters")[f"{family}_config_json"]))
    targets = parse_targets(",".join(config["target_modules"]))
    return LoraConfig(config["r"], config["lora_alpha"], targets, config["lora_dropout"])


def llama_config(vocab_size: int, family: str = "llama") -> LlamaConfig:
    """The recorded model's shape."""
    if family == "llama":
        config = json.loads(str(recorded("weights")["config_json"]))
    else:
        config = json.loads((QWEN2 / "config.json").read_text()) | {"attention_bias": True, "head_dim": 16}
    scaling = config["rope_scaling"]
    assert config["hidden_act"] == "silu" and (scaling is None or scaling["rope_type"] == "llama3")
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        intermediate_size=config["intermediate_size"],
        rope_theta=config["rope_theta"],
        rope_scaling=scaling
        and Llama3Scaling(
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
def published_model(*, pad_row: bool = True, deterministic: bool = False, family: str = "llama", adapter: bool = False):
    """Graph and parameters of a recorded model; each recorded array has one place, each place one array."""
    weights = dict(weights_of(family))
    for name, pad_name in ((("embedding",), "embed_pad_row"), (("head",), "lm_head_pad_row")):
        pad_row_D = weights.pop(pad_name, None)
        if pad_row and pad_row_D is not None:
            name = NAMES["llama", *name]
            weights[name] = np.concatenate([weights[name], pad_row_D[None]])
    if adapter:
        ours = {name.removeprefix(f"{family}/"): array for name, array in recorded("adapters").items()}
        weights |= {
            f"llm.{name.replace('.weight', '.default.weight')}": array
            for name, array in ours.items()
            if name.startswith("base_model.")
        }
    config = llama_config(len(weights[NAMES["llama", "embedding"]]), family)
    # The published log std is unbounded, and exceeds our default bound once: problem 3 at speed 1 predicts 2.04.
    head = LatentHeadConfig(
        weights["latent_policy.fc.0.bias"].size,
        deterministic=deterministic,
        min_log_std=-math.inf,
        max_log_std=math.inf,
    )
    graph, parameters = build(config, head, 0, lora_config(family) if adapter else None)

    flat = {}
    for path, array in traverse_util.flatten_dict(parameters).items():
        if path[-1] == "embed_std":
            flat[path] = np.float32(EMBED_STD[family])
            continue
        parts = [weights.pop(name) for name in published_names(path, config.num_layers)]
        parts = [part.T if path[-1] in TRANSPOSED else part for part in parts]
        flat[path] = np.stack(parts) if path[1] == "blocks" else parts[0]
        assert flat[path].shape == array.shape, path
    assert not weights, sorted(weights)
    return graph, traverse_util.unflatten_dict(flat)


def published_names(path: tuple[str, ...], num_layers: int) -> list[str]:
    """What the published implementation calls one of our parameters: a name for each layer if it is stacked."""
    if path[2:] in ADAPTER_NAMES:
        return [f"llm.base_model.model.model.layers.{layer}.{ADAPTER_NAMES[path[2:]]}" for layer in range(num_layers)]
    if path[:2] == ("llama", "blocks"):
        return [f"llm.model.layers.{layer}.{LAYER_NAMES[path[2:]]}" for layer in range(num_layers)]
    return [NAMES[path]]


def under_published_names(gradients: dict) -> dict[str, np.ndarray]:
    """Our gradients in torch's layout: name -> array, a stacked one split into its layers."""
    named = {}
    for path, array in traverse_util.flatten_dict(gradients).items():
        parts = np.asarray(array) if path[1] == "blocks" else np.asarray(array)[None]
        names = published_names(path, len(parts))
        named |= {name: part.T if path[-1] in TRANSPOSED else part for name, part in zip(names, parts, strict=True)}
    return named


def largest_difference(actual, expected) -> float:
    """Largest absolute difference, relative to the largest expected value; NaN is infinitely far from anything."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    if not np.all(np.isfinite(actual)):
        return math.inf
    return float(np.max(np.abs(actual - expected)) / np.max(np.abs(expected)))
