"""CODI's projection as a file: safetensors under the names of CODI's own code, and a small JSON with its sizes.

`1` and `3` are linear layers, `ln` the LayerNorm, as in its `prj`; linear weights are `[out, in]`, as in PyTorch.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from colar_jax.model.projection import ProjectionConfig
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
