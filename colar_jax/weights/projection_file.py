"""CODI's projection as a file: safetensors under the names of CODI's own code, and a small JSON with its sizes.

`1` and `3` are linear layers, `ln` the LayerNorm, as in its `prj`; linear weights are `[out, in]`, as in PyTorch.
"""

import dataclasses
from pathlib import Path
from typing import Any

from colar_jax.errors import UserError
from colar_jax.json_object import read_json_object
from colar_jax.model.projection import ProjectionConfig
from colar_jax.parallel.sharding import Tree
from colar_jax.weights.array_file import by_paths, read_arrays, save_named

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
    save_named(projection, _names(config), dataclasses.asdict(config), folder, "projection")


def load_projection(config: ProjectionConfig, folder: Path) -> Tree:
    """The parameters that `save_projection` wrote. UserError where they are not there, or not of these sizes."""
    path, names = folder / PROJECTION_WEIGHTS_FILE, _names(config)
    arrays = read_arrays(path)
    for name in names.values():
        if name not in arrays:
            raise UserError(f"{path} has no {name!r}: it is no projection of CODI, or not with these settings")
    projection = by_paths(arrays, names)
    if (size := projection["first"]["kernel"].shape[1]) != config.intermediate_size:
        raise UserError(f"{path} has {size} hidden units, and thinking.json says {config.intermediate_size}")
    return projection


def _names(config: ProjectionConfig) -> dict[tuple[str, ...], str]:
    return {path: name for path, name in _NAMES.items() if config.layer_norm or not path[0].startswith("norm")}


def projection_sizes(folder: Path) -> ProjectionConfig:
    """The sizes that `projection.json` says. UserError where it does not."""
    path = folder / PROJECTION_CONFIG_FILE
    found = read_json_object(path)
    size, has_norm = found.get("intermediate_size"), found.get("layer_norm")
    if type(size) is not int or size < 1 or type(has_norm) is not bool:
        raise UserError(f"{path} does not say the projection's intermediate_size and layer_norm: export it again")
    return ProjectionConfig(size, has_norm)
