"""The tensors of a GGUF file under Hugging Face's names, decoded as they are read.

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
from colar_jax.weights.gguf_config import ROPE_FACTORS, gguf_config
from colar_jax.weights.safetensors_io import StoredTensor

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
    """Every tensor of a GGUF file by its name in a Hugging Face folder, and what is wrong with them, a line each.

    Raises:
        UserError: the file ends before its tensors do.
    """
    header = read_gguf_header(path)
    raw = gguf_config(path)
    stored: dict[str, StoredTensor] = {}
    faults = []
    for name, blocks in header.tensors.items():
        if name == ROPE_FACTORS:  # in the config
            continue
        try:
            tensor = _stored(header, name, blocks, raw)
        except UserError as error:
            faults.append(str(error))
            continue
        stored[_name_of(name)] = tensor
    end = max((tensor.start + tensor.num_bytes for tensor in stored.values()), default=0)
    if end > header.num_bytes:
        raise UserError(
            f"{path} is cut short: its tensors end at byte {end}, and it has {header.num_bytes}; fetch it again"
        )
    return stored, faults


def _name_of(name: str) -> str:
    """Hugging Face's name of a tensor; one that nobody knows keeps its own, and is unexpected."""
    parts = name.split(".")
    if parts[0] == "blk" and len(parts) == 4 and parts[2] in _NAMES_OF_LAYER:
        return f"model.layers.{parts[1]}.{_NAMES_OF_LAYER[parts[2]]}.{parts[3]}"
    return _NAMES.get(name, name)


def _stored(header: GgufHeader, name: str, blocks: StoredBlocks, raw: dict[str, Any]) -> GgufTensor:
    """Where a tensor lies; UserError, one line, where it cannot be decoded."""
    block_size, block_bytes = _block(name, blocks.type_number)
    if len(blocks.shape) == 1 and block_size > 1:
        raise UserError(f"wrong dtype: {name} is a vector in blocks (ggml type {blocks.type_number})")
    if blocks.shape[-1] % block_size:
        raise UserError(f"damaged: {name} has rows of {blocks.shape[-1]}, no multiple of its blocks of {block_size}")
    num_bytes = math.prod(blocks.shape) // block_size * block_bytes
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
        raise UserError("a GGUF file needs the package gguf: pip install gguf (or pip install -e '.[gguf]')") from None
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
