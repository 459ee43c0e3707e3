"""CODI's projection as a file: safetensors under the names of CODI's own code, and a small JSON with its sizes.

`1` and `3` are linear layers, `ln` the LayerNorm, as in its `prj`; linear weights are `[out, in]`, as in PyTorch.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from colar_jax.errors import UserError
from colar_jax.json_object import read_json_object
from colar_jax.model.projection import ProjectionConfig
from colar_jax.weights.array_file import read_arrays
from colar_jax.weights.safetensors_io import write_arrays

PROJECTION_WEIGHTS_FILE = "projection.safetensors"
PROJECTION_CONFIG_FILE = "projection.json"

# Path in our parameters -> name in the file.
_NAMES = {
    ("first", "kernel"): "1.weight",
    ("first", "bias"): "1.bias",
    ("second", "kernel"): "3.weight",
    ("second", "bias"): "3.bias",
    ("norm_scale",): "ln.weight",
    ("norm_bias",): "ln.bias",
}


def save_projection(projection: dict[str, Any], config: ProjectionConfig, folder: Path) -> None:
    """Write `projection.safetensors` (float32) and `projection.json` into `folder`."""
    arrays = {}
    for path, name in _NAMES.items():
        if path[0].startswith("norm") and not config.layer_norm:
            continue
        node: Any = projection
        for part in path:
            node = node[part]
        value = np.asarray(node, np.float32)
        arrays[name] = np.ascontiguousarray(value.T) if path[-1] == "kernel" else value
    write_arrays(arrays, folder / PROJECTION_WEIGHTS_FILE)
    (folder / PROJECTION_CONFIG_FILE).write_text(
        json.dumps(dataclasses.asdict(config), indent=2) + "\n", encoding="utf-8"
    )


def load_projection(config: ProjectionConfig, folder: Path) -> dict[str, Any]:
    """The parameters that `save_projection` wrote. UserError where they are not there, or not of these sizes."""
    path = folder / PROJECTION_WEIGHTS_FILE
    arrays, projection = read_arrays(path), {}
    for place, name in _NAMES.items():
        if place[0].startswith("norm") and not config.layer_norm:
            continue
        if name not in arrays:
            raise UserError(f"{path} has no {name!r}: it is no projection of CODI, or not with these settings")
        node = projection
        for part in place[:-1]:
            node = node.setdefault(part, {})
        value = arrays[name].astype(np.float32)
        node[place[-1]] = np.ascontiguousarray(value.T) if place[-1] == "kernel" else value
    if (size := projection["first"]["kernel"].shape[1]) != config.intermediate_size:
        raise UserError(f"{path} has {size} hidden units, and thinking.json says {config.intermediate_size}")
    return projection


def projection_sizes(folder: Path) -> ProjectionConfig:
    """The sizes that `projection.json` says. UserError where it does not."""
    path = folder / PROJECTION_CONFIG_FILE
    found = read_json_object(path)
    size, has_norm = found.get("intermediate_size"), found.get("layer_norm")
    if type(size) is not int or size < 1 or type(has_norm) is not bool:
        raise UserError(f"{path} does not say the projection's intermediate_size and layer_norm: export it again")
    return ProjectionConfig(size, has_norm)
