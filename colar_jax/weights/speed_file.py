"""The speed's embedding as a file: safetensors, and a small JSON with its sizes; linear weights are `[out, in]`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from colar_jax.errors import UserError
from colar_jax.model.speed_embedding import SpeedEmbeddingConfig, num_speed_features
from colar_jax.parallel.sharding import Tree
from colar_jax.weights.array_file import read_arrays
from colar_jax.weights.safetensors_io import write_arrays

SPEED_WEIGHTS_FILE = "speed_embedding.safetensors"
SPEED_CONFIG_FILE = "speed_embedding.json"

# Path in our parameters -> name in the file.
_NAMES = {
    ("first", "kernel"): "0.weight",
    ("first", "bias"): "0.bias",
    ("second_kernel",): "2.weight",
    ("second_bias",): "2.bias",
    ("auto",): "auto",
}


def save_speed_embedding(embedding: dict[str, Any], config: SpeedEmbeddingConfig, folder: Path) -> None:
    """Write `speed_embedding.safetensors` (float32) and `speed_embedding.json` into `folder`."""
    arrays = {}
    for path, name in _NAMES.items():
        node: Any = embedding
        for part in path:
            node = node[part]
        value = np.asarray(node, np.float32)
        arrays[name] = np.ascontiguousarray(value.T)
    write_arrays(arrays, folder / SPEED_WEIGHTS_FILE)
    text = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
    (folder / SPEED_CONFIG_FILE).write_text(text, encoding="utf-8")


def load_speed_embedding(config: SpeedEmbeddingConfig, folder: Path) -> Tree:
    """What `save_speed_embedding` wrote. UserError where it is not there, or not of these sizes."""
    arrays = read_arrays(folder / SPEED_WEIGHTS_FILE)
    shapes = _shapes(config, arrays["auto"].size if "auto" in arrays else 0)
    wrong = [
        f"{name} has shape {arrays[name].shape if name in arrays else None}, expected {shape}"
        for name, shape in shapes.items()
        if name not in arrays or arrays[name].shape != shape
    ]
    if wrong:
        raise UserError(f"{folder} holds no embedding of a speed that fits: {'; '.join(wrong)}")
    tree: Tree = {}
    for path, name in _NAMES.items():
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = np.ascontiguousarray(np.asarray(arrays[name], np.float32).T)
    return tree


def _shapes(config: SpeedEmbeddingConfig, hidden: int) -> dict[str, tuple[int, ...]]:
    inner = config.inner_size
    return {
        "0.weight": (inner, num_speed_features(config)),
        "0.bias": (inner,),
        "2.weight": (hidden, inner),
        "2.bias": (hidden,),
        "auto": (hidden,),
    }
