"""The speed's embedding as a file: safetensors, and a small JSON with its sizes; linear weights are `[out, in]`."""

import dataclasses
from pathlib import Path
from typing import Any

from colar_jax.errors import UserError
from colar_jax.model.speed_embedding import SpeedEmbeddingConfig, num_speed_features
from colar_jax.parallel.sharding import Tree
from colar_jax.weights.array_file import by_paths, other_arrays, other_shapes, read_arrays, save_named

SPEED_WEIGHTS_FILE = "speed_embedding.safetensors"

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
    save_named(embedding, _NAMES, dataclasses.asdict(config), folder, "speed_embedding")


def load_speed_embedding(config: SpeedEmbeddingConfig, folder: Path) -> Tree:
    """What `save_speed_embedding` wrote. UserError where it is not there, or not of these sizes."""
    arrays = read_arrays(folder / SPEED_WEIGHTS_FILE)
    wrong = other_arrays(arrays, _NAMES.values(), "it") or other_shapes(arrays, _shapes(config, arrays["auto"].size))
    if wrong:
        raise UserError(f"{folder} holds no embedding of a speed that fits: {'; '.join(wrong)}")
    return by_paths(arrays, _NAMES)


def _shapes(config: SpeedEmbeddingConfig, hidden: int) -> dict[str, tuple[int, ...]]:
    inner = config.inner_size
    return {
        "0.weight": (inner, num_speed_features(config)),
        "0.bias": (inner,),
        "2.weight": (hidden, inner),
        "2.bias": (hidden,),
        "auto": (hidden,),
    }
