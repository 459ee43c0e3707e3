"""The weights of a Hugging Face folder or a GGUF file into our parameter tree.

What is in a file is compared with what the model needs before anything is read, and all differences are one error.
"""

import dataclasses
import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Sharding, SingleDeviceSharding

from colar_jax.errors import UserError
from colar_jax.gguf_header import is_gguf
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.parallel.sharding import Tree
from colar_jax.weights.gguf_tensors import find_gguf_tensors
from colar_jax.weights.hf_config import read_config
from colar_jax.weights.safetensors_io import DTYPES, INDEX_FILE, SINGLE_FILE, StoredTensor, find_tensors
from colar_jax.weights.table import EMBEDDING_NAME, HEAD_NAME, Weight, llama_weights

logger = logging.getLogger(__name__)

# A tensor goes to its devices in pieces of this size, so that what the host holds besides the model is small.
PIECE_BYTES = 64 << 20
# Stored by old Llama-2 folders; they follow from the config.
_COMPUTED_SUFFIX = ".self_attn.rotary_emb.inv_freq"


def stored_config(folder: Path) -> LlamaConfig:
    """The shape of what is in a folder: its `config.json`, and whether it has a head of its own.

    A `config.json` may tie a head that is in the files and differs from the embedding. Then it is not tied, as in
    transformers 5.

    Raises:
        UserError: `config.json` is missing or not supported, or there are no safetensors.
    """
    config, (stored, _) = read_config(folder), stored_tensors(folder)
    if config.tied_head and _has_own_head(stored):
        logger.warning(
            "%s ties the head to the embedding, and its %s is another matrix: taken as a head of its own",
            folder,
            HEAD_NAME,
        )
        return dataclasses.replace(config, tied_head=False)
    return config


def has_weights(folder: Path) -> bool:
    """Whether there is more than a config: a GGUF file, or safetensors."""
    return is_gguf(folder) or any((folder / name).is_file() for name in (SINGLE_FILE, INDEX_FILE))


def stored_tensors(folder: Path) -> tuple[dict[str, StoredTensor], list[str]]:
    """Every tensor of a base by Hugging Face's name, none of them read, and what is wrong with its files."""
    return find_gguf_tensors(folder) if is_gguf(folder) else find_tensors(folder)


def _has_own_head(stored: dict[str, StoredTensor]) -> bool:
    """Whether there are both a head and an embedding, with other values."""
    head, embedding = stored.get(HEAD_NAME), stored.get(EMBEDDING_NAME)
    if head is None or embedding is None:
        return False
    if head.shape != embedding.shape or len(head.shape) != 2 or not {head.dtype, embedding.dtype} <= DTYPES.keys():
        return True
    step = max(1, PIECE_BYTES // (4 * max(head.shape[1], 1)))
    starts = range(0, head.shape[0], step)
    parts = (
        [tensor.read_rows(first, min(first + step, head.shape[0])) for tensor in (head, embedding)] for first in starts
    )
    return any(not np.array_equal(ours.astype(np.float32), theirs.astype(np.float32)) for ours, theirs in parts)


def load_llama(
    folder: Path, config: LlamaConfig, shardings: Any = None, dtype=jnp.float32, *, added_rows: int = 0
) -> Tree:
    """The parameters of a Llama (`parameters["llama"]`) from a folder or a GGUF file, piece by piece into their shards.

    Besides the model itself the host holds a few pieces of `PIECE_BYTES`, never a second copy of a large tensor. Every
    process reads only what its own devices hold.

    Args:
        folder: a Hugging Face folder, or a GGUF file.
        config: the shape of what is in it (`stored_config`).
        shardings: where the leaves go: one sharding for all, or a tree of them like the result; None is the first
            device.
        dtype: of the result, whichever float is in the file: float32, or bfloat16 for weights that are not trained.
        added_rows: rows to append to the embedding (and to an untied head), each the mean of all others. Such a row is
            as likely as the average word, so it disturbs no prediction, and it needs no random key.

    Raises:
        UserError: the files are damaged, or do not hold exactly the weights of `config`; lists all that is wrong.
    """
    weights, stored = llama_weights(config), check_weights(folder, config)
    if shardings is None:
        shardings = SingleDeviceSharding(jax.local_devices()[0])
    if isinstance(shardings, Sharding):
        sharding_of = dict.fromkeys((weight.path for weight in weights), shardings)
    else:
        sharding_of = traverse_util.flatten_dict(shardings)
    flat = {}
    # The largest first: what is read later, with its pieces besides, is small.
    for weight in sorted(weights, key=lambda weight: -np.prod(weight.shape)):
        sources = [stored[name] for name in weight.names]
        rows = added_rows if weight.path in (("embedding",), ("head",)) else 0
        flat[weight.path] = _load_leaf(weight, sources, sharding_of[weight.path], jnp.dtype(dtype), rows)
    return traverse_util.unflatten_dict({weight.path: flat[weight.path] for weight in weights})


def check_weights(folder: Path, config: LlamaConfig) -> dict[str, StoredTensor]:
    """The tensors of a folder by name, none of them read; UserError where they are not exactly those of `config`."""
    stored, faults = stored_tensors(folder)
    if config.tied_head and EMBEDDING_NAME not in stored and HEAD_NAME in stored:
        stored[EMBEDDING_NAME] = stored.pop(HEAD_NAME)  # either may be stored for both
    faults += _differences(llama_weights(config), stored, config)
    if faults:
        raise UserError(f"{folder} does not hold the weights that its config.json describes:\n  " + "\n  ".join(faults))
    return stored


def _differences(weights: list[Weight], stored: dict[str, StoredTensor], config: LlamaConfig) -> list[str]:
    """One line for each tensor that is missing, unexpected, of a wrong shape, or of a dtype that we cannot read."""
    faults, wanted = [], {name: weight.shape for weight in weights for name in weight.names}
    for name, shape in wanted.items():
        if name not in stored:
            faults.append(f"missing: {name} {list(shape)}")
            continue
        found = stored[name]
        if found.shape != shape:
            faults.append(f"wrong shape: {name} is {list(found.shape)}, config.json says {list(shape)}")
        if found.dtype not in DTYPES:
            faults.append(f"wrong dtype: {name} is {found.dtype}, which is none of {', '.join(DTYPES)}")
    if config.tied_head and _has_own_head(stored):
        faults.append(f"not tied: {HEAD_NAME} is another matrix than {EMBEDDING_NAME} (see `stored_config`)")
    for name in sorted(stored.keys() - wanted.keys() - ({HEAD_NAME} if config.tied_head else set())):
        if not name.endswith(_COMPUTED_SUFFIX):
            faults.append(f"unexpected: {name} {list(stored[name].shape)}")
    return faults


def _load_leaf(weight: Weight, sources: list[StoredTensor], sharding, dtype, added_rows: int) -> jax.Array:
    shape = weight.leaf_shape
    if added_rows:
        shape = (shape[0] + added_rows, *shape[1:])
    devices_of_part: dict[tuple, list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        part = tuple(
            entry.indices(size)[:2] for entry, size in zip(index or (slice(None),) * len(shape), shape, strict=True)
        )
        devices_of_part.setdefault(part, []).append(device)
    extra_row = _mean_row(sources[0]) if added_rows else None
    buffers = []
    for part, devices in devices_of_part.items():
        sizes = tuple(last - first for first, last in part)
        of_devices = [_zeros(sizes, dtype, device) for device in devices]
        for start, piece in _pieces(weight, sources, part, extra_row):
            jax.block_until_ready(of_devices)  # one piece under way, not a queue of them
            for number, device in enumerate(devices):
                of_devices[number] = _write(
                    of_devices[number], jax.device_put(piece, device), start, transpose=weight.is_kernel
                )
        buffers += of_devices
    return jax.make_array_from_single_device_arrays(shape, sharding, buffers)


def _pieces(weight: Weight, sources, part, extra_row_D) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What a part of a leaf (first and last of each axis) is made of: where it begins in that part, and the piece.

    A piece is as it lies in the file, with an axis of size 1 in front where the leaf is stacked.
    """
    layers = range(*part[0]) if weight.is_stacked else range(1)
    axes = part[1:] if weight.is_stacked else part
    axes = axes[::-1] if weight.is_kernel else axes  # as in the file
    (first_row, last_row), rest = axes[0], tuple(slice(*axis) for axis in axes[1:])
    for layer in layers:
        source = sources[layer]
        num_stored = source.shape[0]
        row_bytes = int(np.prod(source.shape[1:], dtype=int)) * DTYPES[source.dtype].itemsize
        step = max(1, PIECE_BYTES // row_bytes)
        for first in range(first_row, min(last_row, num_stored), step):
            piece = source.read_rows(first, min(first + step, last_row, num_stored))[(slice(None), *rest)]
            start = [first - first_row] + [0] * len(rest)
            if weight.is_kernel:
                start = start[::-1]
            if weight.is_stacked:
                piece, start = piece[None], [layer - layers.start, *start]
            yield np.array(start, np.int32), piece
        for added in range(max(first_row, num_stored), last_row):
            yield np.array([added - first_row, 0], np.int32), extra_row_D[None, *rest]


def _mean_row(source: StoredTensor) -> np.ndarray:
    """The mean of all rows of a matrix: float32 `[D]`."""
    num_rows, size = source.shape
    total_D, step = np.zeros(size, np.float64), max(1, PIECE_BYTES // (8 * size))
    for first in range(0, num_rows, step):
        total_D += source.read_rows(first, min(first + step, num_rows)).sum(axis=0, dtype=np.float64)
    return (total_D / num_rows).astype(np.float32)


def _zeros(shape, dtype, device) -> jax.Array:
    """A buffer of jax's own on a device: memory borrowed from NumPy could not be written in place."""
    return jax.jit(functools.partial(jnp.zeros, shape, dtype), out_shardings=SingleDeviceSharding(device))()


@functools.partial(jax.jit, donate_argnums=0, static_argnames="transpose")
def _write(buffer, piece, start, *, transpose: bool):
    """`buffer` with a piece, in its dtype and layout, at `start`; in place, as `buffer` is donated."""
    if transpose:
        piece = jnp.swapaxes(piece, -1, -2)
    return jax.lax.dynamic_update_slice(buffer, piece.astype(buffer.dtype), tuple(start))
