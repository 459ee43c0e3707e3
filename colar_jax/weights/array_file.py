"""Small safetensors files of what stands beside a language model: heads, projections.

A leaf is known by its path in our parameters and by a name in the file. Leaves are matrices and vectors; files keep
linear weights `[out, in]`, as PyTorch does, and we `[in, out]`.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file

from colar_jax.errors import UserError
from colar_jax.parallel.sharding import Tree
from colar_jax.weights.safetensors_io import write_arrays

# Paths in our parameters -> names in the file.
Names = Mapping[tuple[str, ...], str]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays that `safetensors_io.write_arrays` wrote; UserError where the file is missing or damaged."""
    if not path.is_file():
        raise UserError(f"{path} is missing: copy the folder again, whole")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): copy it again") from error


def by_names(tree: Tree, names: Names) -> dict[str, np.ndarray]:
    """The leaves of a tree that have names, float32, as the file keeps them."""
    flat = traverse_util.flatten_dict(tree)
    return {name: _turned(flat[path]) for path, name in names.items()}


def save_named(tree: Tree, names: Names, sizes: Mapping[str, Any], folder: Path, stem: str) -> None:
    """Write the leaves that have names into `<stem>.safetensors`, and their sizes into `<stem>.json`."""
    write_arrays(by_names(tree, names), folder / f"{stem}.safetensors")
    (folder / f"{stem}.json").write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")


def by_paths(arrays: Mapping[str, np.ndarray], names: Names) -> Tree:
    """The inverse of `by_names`."""
    return traverse_util.unflatten_dict({path: _turned(arrays[name]) for path, name in names.items()})


def _turned(array) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(array, np.float32).T)


def other_arrays(arrays: Mapping[str, np.ndarray], names: Iterable[str], what: str) -> list[str]:
    """One line for each array that is missing, and for each that is none of `what`."""
    names = list(names)
    missing = [f"{name} is missing" for name in names if name not in arrays]
    return missing + [f"{name} is not part of {what}" for name in arrays if name not in names]


def other_shapes(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """One line for each array that is not of its shape."""
    return [
        f"{name} has shape {arrays[name].shape}, expected {shape}"
        for name, shape in shapes.items()
        if arrays[name].shape != shape
    ]
