"""The latent head as a file: safetensors under the published names, and a small JSON with its sizes and scale.

`fc.0`, `fc.2` (linear) and `fc.3` (LayerNorm) are the published code's `latent_policy.fc`, then `mean` and `log_std`;
linear weights are `[out, in]`, as in PyTorch.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from colar_jax.errors import UserError
from colar_jax.json_object import read_json_object
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.parallel.sharding import Tree
from colar_jax.weights.array_file import by_names, by_paths, other_arrays, other_shapes, read_arrays, save_named
from colar_jax.weights.hf_fields import FLAG, POSITIVE, SIZE, Kind

HEAD_WEIGHTS_FILE = "latent_head.safetensors"
HEAD_CONFIG_FILE = "latent_head.json"
# Perhaps infinite: the published head has no bounds.
_NUMBER: Kind = (lambda value: type(value) in (int, float) and not math.isnan(value), "a number")
_KINDS = {"intermediate_size": SIZE, "deterministic": FLAG, "min_log_std": _NUMBER, "max_log_std": _NUMBER}
_KINDS |= {"embed_std": POSITIVE}

# Path in our parameters -> published name.
_NAMES = {
    ("first", "kernel"): "fc.0.weight",
    ("first", "bias"): "fc.0.bias",
    ("second", "kernel"): "fc.2.weight",
    ("second", "bias"): "fc.2.bias",
    ("norm_scale",): "fc.3.weight",
    ("norm_bias",): "fc.3.bias",
    ("mean", "kernel"): "mean.weight",
    ("mean", "bias"): "mean.bias",
    ("log_std", "kernel"): "log_std.weight",
    ("log_std", "bias"): "log_std.bias",
}


def to_published(latent_head: Tree) -> dict[str, np.ndarray]:
    """The head's arrays, float32, by their published names."""
    return by_names(latent_head, _NAMES)


def from_published(arrays: dict[str, np.ndarray], embed_std: float, *, source: str) -> Tree:
    """The head's parameters from arrays under their published names.

    Raises:
        UserError: arrays are missing, unknown, or do not fit each other; names them all and `source`.
    """
    problems = other_arrays(arrays, _NAMES.values(), "a latent head")
    if not problems:
        hidden, inner = arrays["mean.weight"].shape[0], arrays["fc.0.weight"].shape[0]
        problems = other_shapes(arrays, _shapes(hidden, inner))
    if problems:
        raise UserError(f"{source} holds no latent head that fits: {'; '.join(problems)}")
    return by_paths(arrays, _NAMES) | {"embed_std": np.float32(embed_std)}


def save_latent_head(latent_head: Tree, config: LatentHeadConfig, folder: Path) -> None:
    """Write `latent_head.safetensors` and `latent_head.json` (sizes, bounds, `embed_std`) into `folder`."""
    settings = dataclasses.asdict(config) | {"embed_std": float(latent_head["embed_std"])}
    save_named(latent_head, _NAMES, settings, folder, "latent_head")


def load_latent_head(folder: Path) -> tuple[Tree, LatentHeadConfig]:
    """What `save_latent_head` wrote. UserError where it is not there or does not fit."""
    if not (folder / HEAD_WEIGHTS_FILE).is_file():
        raise UserError(f"{folder} has no {HEAD_WEIGHTS_FILE}: it is no exported latent reasoner")
    config, embed_std = read_head_config(folder), read_embed_std(folder)
    return from_published(read_arrays(folder / HEAD_WEIGHTS_FILE), embed_std, source=str(folder)), config


def read_head_config(folder: Path) -> LatentHeadConfig:
    """The sizes and bounds that `save_latent_head` wrote. UserError where one is missing."""
    settings = _settings(folder)
    return LatentHeadConfig(**{field.name: settings[field.name] for field in dataclasses.fields(LatentHeadConfig)})


def read_embed_std(folder: Path) -> float:
    """The scale of embeddings that `save_latent_head` wrote. UserError where it is missing, or is none."""
    return float(_settings(folder)["embed_std"])


def _settings(folder: Path) -> dict[str, Any]:
    """All of `latent_head.json`, each value of its kind."""
    path = folder / HEAD_CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{folder} has no {HEAD_CONFIG_FILE}: it is no exported latent reasoner")
    settings = read_json_object(path)
    for name, (matches, what) in _KINDS.items():
        if name not in settings:
            raise UserError(f"{path} has no {name!r}: it is no exported latent reasoner")
        if not matches(settings[name]):
            raise UserError(f"{path}: {name}={settings[name]!r}: expected {what}; export the model again")
    return settings


def _shapes(hidden: int, inner: int) -> dict[str, tuple[int, ...]]:
    return {
        "fc.0.weight": (inner, hidden),
        "fc.0.bias": (inner,),
        "fc.2.weight": (inner, inner),
        "fc.2.bias": (inner,),
        "fc.3.weight": (inner,),
        "fc.3.bias": (inner,),
        "mean.weight": (hidden, inner),
        "mean.bias": (hidden,),
        "log_std.weight": (hidden, inner),
        "log_std.bias": (hidden,),
    }
