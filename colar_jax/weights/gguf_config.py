"""The `config.json` that a GGUF file's metadata amount to, as llama.cpp reads them."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from colar_jax.errors import UserError
from colar_jax.gguf_header import GgufHeader, read_gguf_header
from colar_jax.model.rope import inverse_frequencies
from colar_jax.model.rope_scaling import Llama3Scaling
from colar_jax.weights.families import FAMILIES
from colar_jax.weights.safetensors_io import StoredTensor

ARCHITECTURES = ("llama", "qwen2", "qwen3")
ROPE_FACTORS = "rope_freqs.weight"  # a tensor: what Llama-3's scaling divides each frequency by
_ROPE_TOLERANCE = 1e-3
# What is read of `rope.scaling`; whether a model was tuned with it changes nothing.
_OF_SCALING = ("type", "factor", "original_context_length", "finetuned")
_TOKENS = {"bos": "bos", "eos": "eos", "pad": "padding"}


def gguf_config(path: Path) -> dict[str, Any]:
    """What the `config.json` of the same model says.

    Raises:
        UserError: the file is damaged, or of an architecture or with settings that are not supported.
    """
    header = read_gguf_header(path)
    if header.architecture not in ARCHITECTURES:
        raise UserError(
            f"{path} holds a model of general.architecture={header.architecture!r}: a GGUF file may be "
            f"{', '.join(ARCHITECTURES)}; of other models name a Hugging Face folder"
        )
    settings = _Settings(header)
    if experts := settings.optional("expert_count", 0):
        raise UserError(f"{path} has {experts} experts in a layer: mixtures of experts are not supported")
    heads, hidden_size = settings.whole("attention.head_count"), settings.whole("embedding_length")
    head_dim = settings.optional("attention.key_length", hidden_size // heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if settings.optional(name, head_dim) != head_dim:
            raise UserError(f"{path}: {name}={settings.optional(name, None)} is not head_dim={head_dim}")
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None:
        raise UserError(f"{path} has no token_embd.weight: it is no whole model")
    theta = settings.optional("rope.freq_base", 10_000.0)
    config = {
        "architectures": [FAMILIES[header.architecture].architecture],
        "model_type": header.architecture,
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden_size,
        "num_hidden_layers": settings.whole("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": settings.whole("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": settings.whole("feed_forward_length"),
        "rms_norm_eps": settings.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": theta,
        "rope_scaling": _rope_scaling(header, settings, theta, head_dim),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "max_position_embeddings": settings.whole("context_length"),
    }
    if settings.optional("attention.sliding_window", 0) != 0:
        raise UserError(f"{path}: attention.sliding_window is set: windows of a GGUF file are not supported")
    ids = {f"{name}_token_id": settings.token_id(theirs) for name, theirs in _TOKENS.items()}
    return config | {name: number for name, number in ids.items() if number is not None}


class _Settings:
    """The metadata of a file's architecture, with what each value must be."""

    def __init__(self, header: GgufHeader):
        self._header = header

    def optional(self, name: str, otherwise: Any) -> Any:
        """A value, or `otherwise`."""
        return self._header.metadata.get(f"{self._header.architecture}.{name}", otherwise)

    def names(self, group: str) -> list[str]:
        """What is there of a group of values, without the group's name."""
        group = f"{self._header.architecture}.{group}"
        return [name.removeprefix(group) for name in self._header.metadata if name.startswith(group)]

    def whole(self, name: str, otherwise: int | None = None) -> int:
        """A whole number above 0."""
        value = self.optional(name, otherwise)
        if type(value) is not int or value < 1:
            raise UserError(f"{self._header.path}: {self._header.architecture}.{name}={value!r} is no size")
        return value

    def number(self, name: str) -> float:
        """A number."""
        value = self.optional(name, None)
        if not isinstance(value, float):
            raise UserError(f"{self._header.path}: {self._header.architecture}.{name}={value!r} is no number")
        return value

    def token_id(self, name: str) -> int | None:
        """The id of a special token."""
        return self._header.metadata.get(f"tokenizer.ggml.{name}_token_id")


def _rope_scaling(header: GgufHeader, settings: _Settings, theta: Any, head_dim: Any) -> dict[str, Any] | None:
    """The rotary scaling as a `config.json` says it; UserError for one that it cannot."""
    path = header.path
    if ROPE_FACTORS in header.tensors:
        return _llama3_scaling(header, theta, head_dim)
    # A factor without a type is a linear one, and an old name of it was another.
    kind = settings.optional("rope.scaling.type", "linear")
    factor = settings.optional("rope.scaling.factor", settings.optional("rope.scale_linear", 1.0))
    if kind == "none" or factor in (0.0, 1.0):
        return None
    if unread := [name for name in settings.names("rope.scaling.") if name not in _OF_SCALING]:
        raise UserError(f"{path}: rope.scaling.{unread[0]} is set, and a scaling with it is not supported")
    scaling = {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = settings.optional("rope.scaling.original_context_length", None)
    elif kind != "linear":
        raise UserError(f"{path}: rope.scaling.type={kind!r} is none of none, linear, yarn")
    return scaling


def _llama3_scaling(header: GgufHeader, theta: Any, head_dim: Any) -> dict[str, Any]:
    """Llama-3's scaling from the factors that llama.cpp keeps of it."""
    blocks = header.tensors[ROPE_FACTORS]
    factors = StoredTensor(header.path, "F32", blocks.shape, blocks.start, 4 * math.prod(blocks.shape))
    if blocks.type_number == 0 and blocks.start + factors.num_bytes <= header.num_bytes and _is_theta(theta, head_dim):
        factors_H = factors.read_rows(0, blocks.shape[0]).reshape(-1)
        scaling = Llama3Scaling(factor=float(np.round(factors_H.max(), 3)))
        plain_H = inverse_frequencies(head_dim, theta, None)
        if factors_H.shape == plain_H.shape and np.allclose(
            plain_H / inverse_frequencies(head_dim, theta, scaling), factors_H, rtol=_ROPE_TOLERANCE
        ):
            return {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_max_positions,
            }
    raise UserError(f"{header.path}: {ROPE_FACTORS} is not of Llama 3's scaling: no other is read from a GGUF file")


def _is_theta(theta: Any, head_dim: Any) -> bool:
    return isinstance(theta, float) and theta > 0 and type(head_dim) is int and 0 < head_dim < 1 << 20
