"""The `config.json` of a Hugging Face Llama or Qwen2, read into a `LlamaConfig` and written from one.

Two layouts are read: the classic one (`rope_theta`, `rope_scaling`, `torch_dtype`) and that of transformers 5
(`rope_parameters`, `dtype`). Written is the classic one, which both read.
"""

import json
from pathlib import Path
from typing import Any

from colar_jax.errors import UserError
from colar_jax.json_object import read_json_object
from colar_jax.model.presets import LlamaConfig, RopeScaling
from colar_jax.weights.hf_fields import field_faults, is_positive, is_whole, warn_of_unknown

HF_CONFIG_FILE = "config.json"
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}  # model_type -> class of transformers

# What they stand for where config.json does not say.
_DEFAULT_ROPE_THETA, _DEFAULT_NORM_EPS = 10_000.0, 1e-6
_DEFAULT_KV_HEADS = {"llama": None, "qwen2": 32}  # None, and null in the file, is as many as there are query heads
_SCALING = {  # of `rope_type: llama3`; ours -> theirs
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_positions": "original_max_position_embeddings",
}
# Facts of a config.json that say nothing about the computation, worth keeping from the base model to the export.
_CARRIED = ("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "max_position_embeddings")


def read_config(folder: Path) -> LlamaConfig:
    """The model that a Hugging Face folder holds.

    Raises:
        UserError: there is no `config.json`, or it asks for what we do not compute; lists all of it.
    """
    return from_hf(read_raw(folder), str(folder / HF_CONFIG_FILE))


def read_raw(folder: Path) -> dict[str, Any]:
    """`config.json` as it is; UserError where there is none, or it is no JSON object."""
    path = folder / HF_CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{folder} has no {HF_CONFIG_FILE}: it is no Hugging Face folder of a model")
    return read_json_object(path)


def from_hf(raw: dict[str, Any], where: str = HF_CONFIG_FILE) -> LlamaConfig:
    """A `LlamaConfig` from the settings of a `config.json` (either layout); `where` names it in the error.

    Raises:
        UserError: another architecture, or something that our forward pass does not have; lists all of it.
    """
    model_type = raw.get("model_type")
    if not _is_causal_lm(raw, model_type):
        known = ", ".join(f"{kind} ({name})" for kind, name in ARCHITECTURES.items())
        raise UserError(
            f"{where}: model_type={model_type!r} (architectures={raw.get('architectures')!r}) is not supported: "
            f"model.base takes {known}, that is Llama 2 / 3 / 3.1 / 3.2, Qwen2 / 2.5, and what is distilled into them"
        )
    faults = list(field_faults(raw))
    if not faults:
        faults = [*_size_faults(raw), *_unsupported(raw, model_type), *_rope_faults(raw)]
    if faults:
        raise UserError(f"{where} cannot be used:\n  " + "\n  ".join(faults))
    warn_of_unknown(raw, where)
    rope = _rope(raw)
    num_heads = raw["num_attention_heads"]
    try:
        return LlamaConfig(
            vocab_size=raw["vocab_size"],
            hidden_size=raw["hidden_size"],
            num_layers=raw["num_hidden_layers"],
            num_heads=num_heads,
            num_kv_heads=raw.get("num_key_value_heads", _DEFAULT_KV_HEADS[model_type]) or num_heads,
            head_dim=raw.get("head_dim") or raw["hidden_size"] // num_heads,
            intermediate_size=raw["intermediate_size"],
            rope_theta=float(rope["rope_theta"]),
            rope_scaling=_scaling(rope),
            norm_eps=float(raw.get("rms_norm_eps", _DEFAULT_NORM_EPS)),
            tied_head=bool(raw.get("tie_word_embeddings", False)),
            qkv_bias=model_type == "qwen2",
        )
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def to_hf(config: LlamaConfig, *, dtype: str = "float32", carried: dict[str, Any] | None = None) -> dict[str, Any]:
    """The settings of a `config.json` in the classic layout; `carried` are facts of the base model to hand on.

    A model with biases on q, k and v is a Qwen2, one without is a Llama.
    """
    model_type = "qwen2" if config.qkv_bias else "llama"
    scaling = config.rope_scaling
    # transformers builds no table of this size, but warns where the scaled context does not fit in it.
    longest = 4096 if scaling is None else int(scaling.original_max_positions * scaling.factor)
    written = {
        "architectures": [ARCHITECTURES[model_type]],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None
        if scaling is None
        else {"rope_type": "llama3"} | {theirs: getattr(scaling, ours) for ours, theirs in _SCALING.items()},
        "tie_word_embeddings": config.tied_head,
        "torch_dtype": dtype,
        "max_position_embeddings": longest,
        "use_cache": True,
    }
    written |= {"use_sliding_window": False} if config.qkv_bias else {"attention_bias": False, "mlp_bias": False}
    return written | (carried or {})


def carried_over(raw: dict[str, Any]) -> dict[str, Any]:
    """Those facts of a base model's `config.json` that `to_hf` should hand on: special tokens, context length."""
    return {name: raw[name] for name in _CARRIED if raw.get(name) is not None}


def write(raw: dict[str, Any], folder: Path) -> None:
    """`config.json` with these settings."""
    (folder / HF_CONFIG_FILE).write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")


def _is_causal_lm(raw, model_type) -> bool:
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        return False
    return raw.get("architectures") in (None, [], [ARCHITECTURES[model_type]])


def _size_faults(raw):
    """Sizes that do not go together."""
    hidden_size, num_heads = raw["hidden_size"], raw["num_attention_heads"]
    if raw.get("head_dim") is None and hidden_size % num_heads:
        yield f"hidden_size={hidden_size} is no multiple of num_attention_heads={num_heads}, and there is no head_dim"
    layer_types = raw.get("layer_types")
    if layer_types is not None and len(layer_types) != raw["num_hidden_layers"]:
        yield f"layer_types names {len(layer_types)} layers, num_hidden_layers={raw['num_hidden_layers']}"


def _unsupported(raw, model_type):
    """What the forward pass of `model.llama` does not have."""
    if raw.get("hidden_act", "silu") != "silu":
        yield f"hidden_act={raw['hidden_act']!r}: only silu is supported"
    if model_type == "llama" and raw.get("attention_bias"):
        yield "attention_bias=true: a Llama with biases (on the attention's output too) is not supported"
    if raw.get("mlp_bias"):
        yield "mlp_bias=true: biases in the feed-forward layers are not supported"
    sliding_layers = [kind for kind in raw.get("layer_types") or () if kind != "full_attention"]
    if raw.get("use_sliding_window") or sliding_layers:
        yield "use_sliding_window=true (or such layer_types): sliding-window attention is not supported"
    if raw.get("quantization_config"):
        yield "quantization_config: quantised weights are not supported; use the model they were made from"
    if raw.get("per_layer_config"):
        yield "per_layer_config: layers that differ from each other are not supported"


def _rope(raw) -> dict[str, Any]:
    """The rotary settings of either layout as one dict with `rope_theta` and `rope_type`."""
    rope = {"rope_theta": raw.get("rope_theta", _DEFAULT_ROPE_THETA)}
    rope |= (raw.get("rope_scaling") or {}) | (raw.get("rope_parameters") or {})
    return {"rope_type": rope.get("type", "default")} | rope  # `type` is the name of old configs


def _rope_faults(raw):
    """All that is wrong with the rotary settings. A setting that nothing reads is a fault: it was meant to be read."""
    scaling, parameters = raw.get("rope_scaling") or {}, raw.get("rope_parameters") or {}
    # Which of several bases transformers takes depends on its version and on what else is there.
    bases = {group["rope_theta"] for group in (raw, scaling, parameters) if is_positive(group.get("rope_theta"))}
    if len(bases) > 1:
        yield f"rope_theta is said more than once, as {' and '.join(map(str, sorted(bases)))}: keep one of them"
    for name in sorted(scaling.keys() & parameters.keys()):
        if scaling[name] != parameters[name]:
            yield f"rope_scaling and rope_parameters differ in {name}: {scaling[name]!r} and {parameters[name]!r}"
    if scaling and not {"rope_type", "type"} & scaling.keys():
        yield f"rope_scaling={scaling!r} has no rope_type: say which scaling it is, or remove it"
    rope = _rope(raw)
    kind = rope["rope_type"]
    if rope.get("type", kind) != kind:
        yield f"rope_type={kind!r} and type={rope['type']!r}: they name the same setting, and differ"
    if not is_positive(rope["rope_theta"]):
        yield f"rope_theta={rope['rope_theta']!r}: expected a number above 0"
    if kind not in ("default", "llama3"):
        yield f"rope_type={kind!r}: only default and llama3 are supported"
        return
    if kind == "llama3":
        yield from _llama3_faults(rope)
        of_all = raw.get("original_max_position_embeddings")
        if of_all is not None and of_all != rope.get(_SCALING["original_max_positions"]):
            yield f"original_max_position_embeddings={of_all} is another than that of the rotary scaling"
    of_all = raw.get("partial_rotary_factor")
    for factor in (rope.get("partial_rotary_factor", 1.0), 1.0 if of_all is None else of_all):
        if factor != 1.0:
            yield f"partial_rotary_factor={factor!r}: rotary embeddings turn all dimensions here"
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    known |= set(_SCALING.values()) if kind == "llama3" else set()
    for name in sorted(rope.keys() - known):
        yield f"{name}={rope[name]!r} means nothing to rope_type={kind!r}: name the scaling, or remove it"


def _llama3_faults(rope):
    numbers = ("factor", "low_freq_factor", "high_freq_factor")
    wrong = [name for name in numbers if not is_positive(rope.get(name))]
    positions = _SCALING["original_max_positions"]
    if not is_whole(rope.get(positions)):
        wrong.append(positions)
    for name in wrong:
        yield f"rope_type 'llama3' needs a number {name} above 0, not {rope.get(name)!r}"
    if not wrong and rope["factor"] < 1:
        yield f"factor={rope['factor']!r} of rope_type 'llama3' is below 1"
    if not wrong and rope["low_freq_factor"] >= rope["high_freq_factor"]:
        yield f"low_freq_factor={rope['low_freq_factor']!r} is not below high_freq_factor={rope['high_freq_factor']!r}"


def _scaling(rope) -> RopeScaling | None:
    if rope["rope_type"] == "default":
        return None
    return RopeScaling(**{ours: rope[theirs] for ours, theirs in _SCALING.items()})
