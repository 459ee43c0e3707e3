"""A GGUF file as a base model: its `config.json`, and its tensors under Hugging Face's names, decoded as they are read.

Only rows that are asked for are decoded (by the `gguf` package), so a file is loaded piece by piece as safetensors are.
llama.cpp keeps the rows of q and k of a Llama in the order of its own rotary embeddings, pairs side by side; here they
come back in Hugging Face's, halves apart.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from colar_jax.errors import UserError
from colar_jax.gguf_header import GgufHeader, StoredBlocks, read_gguf_header
from colar_jax.model.rope import inverse_frequencies
from colar_jax.model.rope_scaling import RopeScaling
from colar_jax.weights.families import FAMILIES
from colar_jax.weights.safetensors_io import StoredTensor

ARCHITECTURES = ("llama", "qwen2", "qwen3")
_PLAIN = {0: "F32", 1: "F16", 30: "BF16"}  # ggml types that hold numbers, not blocks
_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_NAMES_OF_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROPE_FACTORS = "rope_freqs.weight"  # what Llama-3's scaling divides each frequency by
_ROPE_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class GgufTensor(StoredTensor):
    """A tensor of a GGUF file; `dtype` is what its rows come as, and `num_bytes` are those of the file.

    `heads` is above 0 where rows are in llama.cpp's order: so many parts, each reordered by itself.
    """

    type_number: int = 0
    heads: int = 0

    def read_rows(self, first: int, last: int) -> np.ndarray:
        """Entries `first` to `last` of the leading axis, decoded and in Hugging Face's order."""
        if not self.heads:
            return self._decoded(first, last)
        size = self.shape[0] // self.heads  # rows of a head, which are reordered among themselves
        start, stop = first // size, -(-last // size)
        rows = self._decoded(start * size, stop * size)
        halves = rows.reshape(stop - start, size // 2, 2, *rows.shape[1:]).swapaxes(1, 2)
        return halves.reshape(rows.shape)[first - start * size : last - start * size]

    def _decoded(self, first: int, last: int) -> np.ndarray:
        if self.type_number in _PLAIN:
            return StoredTensor.read_rows(self, first, last)
        if last == first:
            return np.empty((0, *self.shape[1:]), np.float32)
        import gguf  # an optional dependency

        row_bytes = self.num_bytes // self.shape[0]
        blocks = np.empty((last - first, row_bytes), np.uint8)
        with open(self.file, "rb") as file:
            file.seek(self.start + first * row_bytes)
            if file.readinto(memoryview(blocks.reshape(-1))) != blocks.size:
                raise UserError(f"{self.file} ended while it was being read: it was changed meanwhile")
        decoded = gguf.dequantize(blocks, gguf.GGMLQuantizationType(self.type_number))
        return decoded.reshape(last - first, *self.shape[1:])


def find_gguf_tensors(path: Path) -> tuple[dict[str, StoredTensor], list[str]]:
    """Every tensor of a GGUF file by its name in a Hugging Face folder, and what is wrong with them, a line each."""
    header = read_gguf_header(path)
    raw = gguf_config(path)
    stored: dict[str, StoredTensor] = {}
    faults = []
    for name, blocks in header.tensors.items():
        if name == _ROPE_FACTORS:  # in the config
            continue
        try:
            tensor = _stored(header, name, blocks, raw)
        except UserError as error:
            faults.append(str(error))
            continue
        stored[_name_of(name)] = tensor
    return stored, faults


def _name_of(name: str) -> str:
    """Hugging Face's name of a tensor; one that nobody knows keeps its own, and is unexpected."""
    parts = name.split(".")
    if parts[0] == "blk" and len(parts) == 4 and parts[2] in _NAMES_OF_LAYER:
        return f"model.layers.{parts[1]}.{_NAMES_OF_LAYER[parts[2]]}.{parts[3]}"
    return _NAMES.get(name, name)


def _stored(header: GgufHeader, name: str, blocks: StoredBlocks, raw: dict[str, Any]) -> GgufTensor:
    """Where a tensor lies; UserError, one line, where it does not lie in the file or cannot be decoded."""
    block_size, block_bytes = _block(name, blocks.type_number)
    if len(blocks.shape) == 1 and block_size > 1:
        raise UserError(f"wrong dtype: {name} is a vector in blocks (ggml type {blocks.type_number})")
    if blocks.shape[-1] % block_size:
        raise UserError(f"damaged: {name} has rows of {blocks.shape[-1]}, no multiple of its blocks of {block_size}")
    num_bytes = math.prod(blocks.shape) // block_size * block_bytes
    if blocks.start + num_bytes > header.num_bytes:
        raise UserError(f"truncated: {name} ends at byte {blocks.start + num_bytes} of {header.num_bytes}")
    dtype, heads = _PLAIN.get(blocks.type_number, "F32"), 0
    if header.architecture == "llama" and name.endswith((".attn_q.weight", ".attn_k.weight")):
        heads = raw["num_attention_heads" if ".attn_q." in name else "num_key_value_heads"]
        if blocks.shape[0] % (2 * heads):
            raise UserError(f"damaged: {name} has {blocks.shape[0]} rows, which are no pairs of {heads} heads")
    return GgufTensor(header.path, dtype, blocks.shape, blocks.start, num_bytes, blocks.type_number, heads)


def _block(name: str, type_number: int) -> tuple[int, int]:
    """How many numbers a block has, and its bytes; UserError for a type that nobody decodes."""
    try:
        import gguf
    except ImportError:
        raise UserError(
            "a GGUF file needs the package gguf: pip install gguf (or this package with the extra [gguf])"
        ) from None
    try:
        kind = gguf.GGMLQuantizationType(type_number)
        size, num_bytes = gguf.GGML_QUANT_SIZES[kind]
        if type_number not in _PLAIN:
            gguf.dequantize(np.zeros((1, num_bytes), np.uint8), kind)
    except (ValueError, KeyError, NotImplementedError):
        raise UserError(
            f"wrong dtype: {name} is of ggml type {type_number}, which the gguf package does not decode"
        ) from None
    return size, num_bytes


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


_TOKENS = {"bos": "bos", "eos": "eos", "pad": "padding"}


class _Settings:
    """The metadata of a file's architecture, with what each value must be."""

    def __init__(self, header: GgufHeader):
        self._header = header

    def optional(self, name: str, otherwise: Any) -> Any:
        """A value, or `otherwise`."""
        return self._header.metadata.get(f"{self._header.architecture}.{name}", otherwise)

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
    kind, path = settings.optional("rope.scaling.type", "none"), header.path
    if _ROPE_FACTORS in header.tensors:
        return _llama3_scaling(header, theta, head_dim)
    if kind == "none" or settings.optional("rope.scaling.factor", 1.0) in (0.0, 1.0):
        return None
    scaling = {"rope_type": kind, "factor": settings.optional("rope.scaling.factor", None)}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = settings.optional("rope.scaling.original_context_length", None)
    elif kind != "linear":
        raise UserError(f"{path}: rope.scaling.type={kind!r} is none of none, linear, yarn")
    return scaling


def _llama3_scaling(header: GgufHeader, theta: Any, head_dim: Any) -> dict[str, Any]:
    """Llama-3's scaling from the factors that llama.cpp keeps of it."""
    blocks = header.tensors[_ROPE_FACTORS]
    factors = StoredTensor(header.path, "F32", blocks.shape, blocks.start, 4 * math.prod(blocks.shape))
    if blocks.type_number == 0 and blocks.start + factors.num_bytes <= header.num_bytes and _is_theta(theta, head_dim):
        factors_H = factors.read_rows(0, blocks.shape[0]).reshape(-1)
        scaling = RopeScaling(factor=float(np.round(factors_H.max(), 3)))
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
    raise UserError(f"{header.path}: {_ROPE_FACTORS} is not of Llama 3's scaling: no other is read from a GGUF file")


def _is_theta(theta: Any, head_dim: Any) -> bool:
    return isinstance(theta, float) and theta > 0 and type(head_dim) is int and 0 < head_dim < 1 << 20
