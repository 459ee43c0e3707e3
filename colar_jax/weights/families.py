"""The families of models that `model.base` takes, one entry a `model_type` of a Hugging Face `config.json`.

An entry says which class of transformers it is, which features our layers need for it, what its `config.json` means by
leaving a field out, which fields it alone has, and which layers are of another kind than the others. A family that is
made of features that are there is one more entry. One with a layer of its own also needs a field in
`model.llama_config` and the layer in `model.block`; its entry names the weights.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from colar_jax.model.llama_config import FULL, NO_ROPE, SLIDING, LlamaConfig
from colar_jax.weights.hf_fields import COUNT, FLAG, POSITIVE, SIZE, TEXT, WHOLES, Kind, or_null
from colar_jax.weights.layer_kinds import (
    Raw,
    kinds_of_layer_types,
    layer_type_faults,
    layer_types_of,
    no_window_faults,
    sliding,
    some_window,
)


@dataclasses.dataclass(frozen=True)
class Family:
    """One `model_type`."""

    architecture: str  # its class in transformers
    features: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # fields of LlamaConfig, for all its models
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of fields that config.json leaves out
    fields: Mapping[str, Kind] = dataclasses.field(default_factory=dict)  # that config.json has besides the usual ones
    own: Callable[[Raw], Raw] = lambda raw: {}  # fields of config.json, with defaults -> fields of LlamaConfig
    written: Callable[[LlamaConfig], Raw] = lambda config: {}  # fields besides the usual ones
    faults: Callable[[Raw], Iterator[str]] = lambda raw: iter(())  # of the fields, with defaults
    rope_types: tuple[str, ...] = ("default", "llama3", "linear", "dynamic", "yarn")
    # Of each layer, besides the usual ones: path in our block -> (name in its files, shape there).
    weights: Callable[[LlamaConfig], Mapping[tuple[str, str], tuple[str, tuple[int, ...]]]] = lambda config: {}


# Qwen: the layers from `max_window_layers` on slide, where `use_sliding_window` says so.
def _qwen_own(raw: Raw) -> Raw:
    window = raw["sliding_window"] if raw["use_sliding_window"] else None
    first, num_layers = raw["max_window_layers"], raw["num_hidden_layers"]
    usual = tuple(FULL if window is None or layer < first else SLIDING for layer in range(num_layers))
    return sliding(kinds_of_layer_types(raw, usual), window)


def _qwen_written(config: LlamaConfig) -> Raw:
    if config.window is None:
        return {"use_sliding_window": False}
    return {"use_sliding_window": True, "sliding_window": config.window, "layer_types": layer_types_of(config)}


_QWEN_DEFAULTS = {"num_key_value_heads": 32, "use_sliding_window": False, "sliding_window": 4096}
_QWEN_DEFAULTS |= {"max_window_layers": 28}
_QWEN_FIELDS = {"use_sliding_window": FLAG, "max_window_layers": COUNT, "sliding_window": or_null(SIZE)}


# Mistral: all layers slide, unless `sliding_window` is null.
def _mistral_own(raw: Raw) -> Raw:
    return sliding((SLIDING,) * raw["num_hidden_layers"], raw["sliding_window"])


def _mistral_faults(raw: Raw) -> Iterator[str]:
    if raw.get("layer_types") is not None:
        yield "layer_types: a mistral has none, and transformers does not read them: call it a ministral, or remove it"


def _ministral_own(raw: Raw) -> Raw:
    usual = (FULL if raw["sliding_window"] is None else SLIDING,) * raw["num_hidden_layers"]
    return sliding(kinds_of_layer_types(raw, usual), raw["sliding_window"])


def _ministral_written(config: LlamaConfig) -> Raw:
    return {"sliding_window": some_window(config), "layer_types": layer_types_of(config)}


_MISTRAL_DEFAULTS = {"num_key_value_heads": 8, "sliding_window": 4096}


# SmolLM3: some layers have no rotary embeddings (0 in `no_rope_layers`); windows, if any, are theirs alone.
def _smollm3_own(raw: Raw) -> Raw:
    marks = raw.get("no_rope_layers")
    if marks is None:
        interval = raw["no_rope_layer_interval"]
        marks = [int((layer + 1) % interval != 0) for layer in range(raw["num_hidden_layers"])]
    kinds = tuple(FULL if mark else NO_ROPE for mark in marks[: raw["num_hidden_layers"]])
    return {"layers": kinds} if NO_ROPE in kinds else {}


def _smollm3_faults(raw: Raw) -> Iterator[str]:
    yield from no_window_faults(raw)
    marks = raw.get("no_rope_layers")
    if marks is not None and (len(marks) < raw["num_hidden_layers"] or not set(marks) <= {0, 1}):
        yield f"no_rope_layers={marks!r}: expected 0 (no rotary embeddings) or 1 for each layer"


# Gemma 3: five sliding layers, whose rotary embeddings have a base of their own, and a full one, and so on.
def _gemma3_own(raw: Raw) -> Raw:
    pattern, num_layers = raw["sliding_window_pattern"], raw["num_hidden_layers"]
    usual = tuple(SLIDING if (layer + 1) % pattern else FULL for layer in range(num_layers))
    local = (raw.get("rope_parameters") or {}).get("sliding_attention") or {}
    theta = float(local.get("rope_theta", raw["rope_local_base_freq"]))
    besides = sliding(kinds_of_layer_types(raw, usual), raw["sliding_window"], sliding_rope_theta=theta)
    return {"query_scalar": raw["query_pre_attn_scalar"], **besides}


def _gemma3_written(config: LlamaConfig) -> Raw:
    return {
        "query_pre_attn_scalar": config.query_scalar,
        "rope_local_base_freq": 10_000.0 if config.sliding_rope_theta is None else config.sliding_rope_theta,
        "sliding_window": some_window(config),
        "layer_types": layer_types_of(config),
    }


def _gemma3_faults(raw: Raw) -> Iterator[str]:
    yield from layer_type_faults(raw)
    if raw.get("sliding_window") is None and "full_attention" not in (raw.get("layer_types") or ()):
        yield "sliding_window=null: the sliding layers of a gemma3_text need one"
    for name in ("final_logit_softcapping", "attn_logit_softcapping"):
        if raw.get(name) is not None:
            yield f"{name}={raw[name]!r}: soft caps of logits and scores are not supported"
    if raw.get("use_bidirectional_attention"):
        yield "use_bidirectional_attention=true: attention is causal here"
    scaling = raw.get("rope_scaling") or {}
    if "type" in scaling and "rope_type" not in scaling:
        yield "rope_scaling has a type and no rope_type, which transformers does not read of a gemma3_text: name it so"


FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM", faults=no_window_faults),
    "qwen2": Family(
        "Qwen2ForCausalLM",
        features={"qkv_bias": True},
        defaults=_QWEN_DEFAULTS,
        fields=_QWEN_FIELDS,
        own=_qwen_own,
        written=_qwen_written,
        faults=layer_type_faults,
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        features={"qk_norm": "head"},
        defaults=_QWEN_DEFAULTS | {"head_dim": 128},
        fields=_QWEN_FIELDS,
        own=_qwen_own,
        written=_qwen_written,
        faults=layer_type_faults,
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        defaults={
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
            "rope_theta": 2_000_000.0,
            "use_sliding_window": False,
            "no_rope_layer_interval": 4,
        },
        fields={
            "use_sliding_window": FLAG,
            "sliding_window": or_null(SIZE),
            "no_rope_layers": or_null(WHOLES),
            "no_rope_layer_interval": SIZE,
        },
        own=_smollm3_own,
        written=lambda config: {"no_rope_layers": [int(kind != NO_ROPE) for kind in config.kinds]},
        faults=_smollm3_faults,
    ),
    "mistral": Family(
        "MistralForCausalLM",
        defaults=_MISTRAL_DEFAULTS,
        fields={"sliding_window": or_null(SIZE)},
        own=_mistral_own,
        written=lambda config: {"sliding_window": config.window},
        faults=_mistral_faults,
    ),
    "ministral": Family(
        "MinistralForCausalLM",
        defaults=_MISTRAL_DEFAULTS,
        fields={"sliding_window": or_null(SIZE)},
        own=_ministral_own,
        written=_ministral_written,
        faults=layer_type_faults,
    ),
    "olmo2": Family(
        "Olmo2ForCausalLM",
        features={"qk_norm": "whole", "norms": "after"},
        defaults={"rms_norm_eps": 1e-5},
        faults=no_window_faults,
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        features={
            "qk_norm": "head",
            "norms": "around",
            "norm_offset": 1.0,
            "activation": "gelu_tanh",
            "scales_embeddings": True,
        },
        defaults={
            "num_key_value_heads": 4,
            "head_dim": 256,
            "tie_word_embeddings": True,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "sliding_window_pattern": 6,
        },
        fields={
            "hidden_activation": TEXT,
            "query_pre_attn_scalar": POSITIVE,
            "sliding_window": or_null(SIZE),
            "sliding_window_pattern": SIZE,
            "rope_local_base_freq": POSITIVE,
            "final_logit_softcapping": or_null(POSITIVE),
            "attn_logit_softcapping": or_null(POSITIVE),
            "use_bidirectional_attention": or_null(FLAG),
        },
        own=_gemma3_own,
        written=_gemma3_written,
        faults=_gemma3_faults,
        rope_types=("default", "linear"),
    ),
}
