"""Our Llama parameters as a Hugging Face folder that `transformers.AutoModelForCausalLM` loads."""

import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from colar_jax.errors import UserError
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.weights import hf_config
from colar_jax.weights.loading import Tree
from colar_jax.weights.safetensors_io import TensorToWrite, write_tensors
from colar_jax.weights.table import llama_weights

MAX_SHARD_BYTES = 5 * 10**9  # as transformers


def save_llama(
    llama: Tree,
    config: LlamaConfig,
    folder: Path,
    *,
    dtype=jnp.float32,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    carried: dict[str, Any] | None = None,
) -> None:
    """A new Hugging Face folder (`config.json`, safetensors) that `transformers.AutoModelForCausalLM` loads.

    It appears under its name when it is complete, or not at all.

    Args:
        llama: `parameters["llama"]`, with all rows that `config.vocab_size` says.
        config: the model's shape.
        folder: must not exist, or be empty.
        dtype: of the files.
        max_shard_bytes: above it there are several files and an index.
        carried: facts for `config.json` that the model's shape does not say (`hf_config.carried_over`).

    Raises:
        UserError: there is something in `folder`, or `llama` is not of this shape, or holds more (adapters).
    """
    with new_folder(folder) as unfinished:
        write_llama(llama, config, unfinished, dtype=dtype, max_shard_bytes=max_shard_bytes, carried=carried)


def write_llama(
    llama: Tree, config: LlamaConfig, folder: Path, *, dtype=jnp.float32, max_shard_bytes=MAX_SHARD_BYTES, carried=None
) -> None:
    """As `save_llama`, straight into a folder that exists: for use inside `new_folder`, with other files beside it."""
    flat, dtype = traverse_util.flatten_dict(llama), np.dtype(dtype)
    tensors, weights = [], llama_weights(config)
    if unknown := flat.keys() - {weight.path for weight in weights}:
        named = ", ".join(sorted("/".join(path) for path in unknown))
        raise UserError(f"a Hugging Face folder has no place for {named}: merge adapters into the weights first")
    for weight in weights:
        leaf = flat[weight.path]
        if leaf.shape != weight.leaf_shape:
            raise UserError(f"{'/'.join(weight.path)} is {leaf.shape}, the model's config says {weight.leaf_shape}")
        for layer, name in enumerate(weight.names):
            make = functools.partial(_from_leaf, leaf, layer if weight.is_stacked else None, weight.is_kernel)
            tensors.append(TensorToWrite(name, weight.shape, dtype, make))
    tensors.sort(key=lambda tensor: tensor.name)
    write_tensors(tensors, folder, max_shard_bytes)
    hf_config.write(hf_config.to_hf(config, dtype=dtype.name, carried=carried), folder)


def _from_leaf(leaf, layer: int | None, is_kernel: bool) -> np.ndarray:
    part = np.asarray(leaf if layer is None else leaf[layer])
    return part.T if is_kernel else part


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the name `folder` at the end; it is removed if that is not reached.

    Raises:
        UserError: `folder` exists and is not empty, or is a file.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty: choose a new folder, or remove that one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.unfinished.", dir=folder.parent))
    try:
        yield unfinished
        unfinished.chmod(0o777 & ~_umask())  # mkdtemp's are private
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
