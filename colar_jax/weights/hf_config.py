"""The `config.json` of a Hugging Face model, read into a `LlamaConfig` and written from one.

Which fields there are, and what they mean, is the family's (`weights.families`). Two layouts are read: the classic one
(`rope_theta`, `rope_scaling`, `torch_dtype`) and that of transformers 5 (`rope_parameters`, `dtype`). Written is the
classic one, which both read.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from colar_jax.errors import UserError
from colar_jax.gguf_header import SUFFIX, is_gguf
from colar_jax.json_object import read_json_object
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.weights import hf_rope
from colar_jax.weights.families import FAMILIES, Family
from colar_jax.weights.gguf_config import gguf_config
from colar_jax.weights.hf_fields import field_faults, warn_of_unknown

HF_CONFIG_FILE = "config.json"
ADAPTER_CONFIG_FILE = "adapter_config.json"  # instead of it, in a folder of adapters (`weights.peft`)
_DEFAULT_NORM_EPS = 1e-6  # where neither config.json nor the family says
_ACTIVATIONS = {"silu": "silu", "gelu_tanh": "gelu_pytorch_tanh"}  # ours -> theirs
# Facts of a config.json that say nothing about the computation, worth keeping from the base model to the export.
_CARRIED = ("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "max_position_embeddings")

# Of a LlamaConfig: what a family has, or what its config.json says in fields of its own.
_FEATURES = ("qkv_bias", "qk_norm", "norms", "norm_offset", "activation", "scales_embeddings", "query_scalar")
_FEATURES += ("layers", "window", "sliding_rope_theta")


def read_config(folder: Path) -> LlamaConfig:
    """The model that a Hugging Face folder or a GGUF file holds.

    Raises:
        UserError: there is no `config.json`, or it asks for what we do not compute; lists all of it.
    """
    return from_hf(read_raw(folder), str(folder if is_gguf(folder) else folder / HF_CONFIG_FILE))


def read_raw(folder: Path) -> dict[str, Any]:
    """`config.json` as it is, or would be of a GGUF file; UserError where there is none, or it is no JSON object."""
    if is_gguf(folder):
        return gguf_config(folder)
    refuse_without_config(folder)
    return read_json_object(folder / HF_CONFIG_FILE)


def refuse_without_config(folder: Path) -> None:
    """UserError where a folder has no `config.json`, and so no model: says what it is instead, and where that goes."""
    if is_gguf(folder) or (folder / HF_CONFIG_FILE).is_file():
        return
    if (folder / ADAPTER_CONFIG_FILE).is_file():
        base = read_json_object(folder / ADAPTER_CONFIG_FILE).get("base_model_name_or_path")
        named = f" ({base!r})" if isinstance(base, str) and base else ""
        raise UserError(
            f"{folder} is a PEFT adapter, and no whole model: name its base{named} in model.base, and this folder in "
            "model.lora.init_from"
        )
    files = sorted(file.name for file in folder.glob(f"*{SUFFIX}"))
    hint = f", but {files[0]}: name that file" if files else ": it is no Hugging Face folder of a model"
    raise UserError(f"{folder} has no {HF_CONFIG_FILE}{hint}")


def from_hf(raw: dict[str, Any], where: str = HF_CONFIG_FILE) -> LlamaConfig:
    """A `LlamaConfig` from the settings of a `config.json` (either layout); `where` names it in the error.

    Raises:
        UserError: another architecture, or something that our forward pass does not have; lists all of it.
    """
    family = _family(raw, where)
    faults = list(field_faults(raw, family.fields))
    if not faults:
        faults = [*_size_faults(raw, family), *_unsupported(raw, family), *hf_rope.rope_faults(raw, family)]
    if not faults:
        faults = list(family.faults({**family.defaults, **raw}))
    if faults:
        raise UserError(f"{where} cannot be used:\n  " + "\n  ".join(faults))
    warn_of_unknown(raw, where, family.fields)
    theta, scaling = hf_rope.rope_of(raw, family)
    filled = {**family.defaults, **raw}
    num_heads = raw["num_attention_heads"]
    try:
        return LlamaConfig(
            vocab_size=raw["vocab_size"],
            hidden_size=raw["hidden_size"],
            num_layers=raw["num_hidden_layers"],
            num_heads=num_heads,
            num_kv_heads=filled.get("num_key_value_heads") or num_heads,
            head_dim=filled.get("head_dim") or raw["hidden_size"] // num_heads,
            intermediate_size=raw["intermediate_size"],
            rope_theta=theta,
            rope_scaling=scaling,
            norm_eps=float(filled.get("rms_norm_eps", _DEFAULT_NORM_EPS)),
            tied_head=bool(filled.get("tie_word_embeddings", False)),
            family=raw["model_type"],
            **family.features,
            **family.own(filled),
        )
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def to_hf(config: LlamaConfig, *, dtype: str = "float32", carried: dict[str, Any] | None = None) -> dict[str, Any]:
    """The settings of a `config.json` in the classic layout; `carried` are facts of the base model to hand on.

    Raises:
        UserError: its family has other features than it: no `config.json` could say what it is.
    """
    family = FAMILIES[config.family]
    usual = LlamaConfig(1, 2, 1, 1, 1, 2, 1, **family.features)
    own = family.own({**family.defaults, **family.written(config), "num_hidden_layers": config.num_layers})
    for name in _FEATURES:
        if getattr(config, name) != own.get(name, getattr(usual, name)):
            raise UserError(f"no config.json of a {config.family} says {name}={getattr(config, name)!r}")
    activation = "hidden_activation" if "hidden_activation" in family.fields else "hidden_act"
    return {
        "architectures": [family.architecture],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        activation: _ACTIVATIONS[config.activation],
        "rms_norm_eps": config.norm_eps,
        **hf_rope.written(config.rope_theta, config.rope_scaling),
        "tie_word_embeddings": config.tied_head,
        "torch_dtype": dtype,
        "max_position_embeddings": hf_rope.longest_context(config.rope_scaling),
        "use_cache": True,
        "pad_token_id": None,  # a default of transformers may lie outside the vocabulary
        **({} if config.qkv_bias else {"attention_bias": False, "mlp_bias": False}),
        **family.written(config),
        **(carried or {}),
    }


def carried_over(raw: dict[str, Any]) -> dict[str, Any]:
    """Those facts of a base model's `config.json` that `to_hf` should hand on: special tokens, context length."""
    return {name: raw[name] for name in _CARRIED if raw.get(name) is not None}


def write(raw: dict[str, Any], folder: Path) -> None:
    """`config.json` with these settings."""
    (folder / HF_CONFIG_FILE).write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")


# Of types that people try: what `model.llama` lacks for them.
_NOT_COMPUTED = {
    "gemma2": "soft caps of scores and logits",
    "gemma3": "a text model inside one of images (save the text model by itself: gemma3_text)",
    "mistral3": "a text model inside one of images, and queries scaled by their position",
    "ministral3": "queries scaled by their position",
    "olmo3": "OLMo 3's rotary embeddings of full and sliding layers",
    "phi3": "products that are stored as one, rotary embeddings of a part of a head, longrope",
}


def _family(raw: dict[str, Any], where: str) -> Family:
    """Its family; UserError where it is none that we have, or no language model."""
    model_type = raw.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is not None and raw.get("architectures") in (None, [], [family.architecture]):
        return family
    known = ", ".join(f"{kind} ({one.architecture})" for kind, one in FAMILIES.items())
    lacks = _NOT_COMPUTED.get(model_type) if isinstance(model_type, str) else None
    raise UserError(
        f"{where}: model_type={model_type!r} (architectures={raw.get('architectures')!r}) is not supported"
        f"{f' (not computed: {lacks})' if lacks else ''}: model.base takes {known}, and what is distilled into them"
    )


def _size_faults(raw: dict[str, Any], family: Family) -> Iterator[str]:
    """Sizes that do not go together."""
    hidden_size, num_heads = raw["hidden_size"], raw["num_attention_heads"]
    if "head_dim" in family.defaults and raw.get("head_dim", 0) is None:
        own = family.defaults["head_dim"]
        yield f"head_dim=null: a {raw['model_type']} has a size of its own, {own} where it is left out"
    elif {**family.defaults, **raw}.get("head_dim") is None and hidden_size % num_heads:
        yield f"hidden_size={hidden_size} is no multiple of num_attention_heads={num_heads}, and there is no head_dim"
    layer_types = raw.get("layer_types")
    if layer_types is not None and len(layer_types) != raw["num_hidden_layers"]:
        yield f"layer_types names {len(layer_types)} layers, num_hidden_layers={raw['num_hidden_layers']}"


def _unsupported(raw: dict[str, Any], family: Family) -> Iterator[str]:
    """What the forward pass of `model.llama` has in no family, or not in this one."""
    activation = _ACTIVATIONS[family.features.get("activation", "silu")]
    for name in ("hidden_act", "hidden_activation"):
        if raw.get(name, activation) != activation:
            yield f"{name}={raw[name]!r}: only {activation} is supported in a {raw['model_type']}"
    if raw.get("attention_bias") and not family.features.get("qkv_bias"):  # which such a family always has
        yield f"attention_bias=true: a {raw['model_type']} with biases in its attention is not supported"
    if raw.get("mlp_bias"):
        yield "mlp_bias=true: biases in the feed-forward layers are not supported"
    if raw.get("quantization_config"):
        yield "quantization_config: quantised weights are not supported; use the model they were made from"
    if raw.get("per_layer_config"):
        yield "per_layer_config: layers that differ from each other are not supported"
