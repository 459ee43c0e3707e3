"""The choice of a speed as a file: safetensors, and a small JSON with the grid; linear weights are `[out, in]`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from colar_jax.errors import UserError
from colar_jax.model.speed_choice import SpeedChoiceConfig
from colar_jax.parallel.sharding import Tree
from colar_jax.weights.array_file import read_arrays
from colar_jax.weights.safetensors_io import write_arrays

CHOICE_WEIGHTS_FILE = "speed_choice.safetensors"
CHOICE_CONFIG_FILE = "speed_choice.json"


def save_speed_choice(choice: dict[str, Any], config: SpeedChoiceConfig, folder: Path) -> None:
    """Write `speed_choice.safetensors` (float32) and `speed_choice.json` into `folder`."""
    arrays = {
        "0.weight": choice["first"]["kernel"],
        "0.bias": choice["first"]["bias"],
        "2.weight": choice["second_kernel"],
        "2.bias": choice["second_bias"],
    }
    arrays = {name: np.ascontiguousarray(np.asarray(value, np.float32).T) for name, value in arrays.items()}
    write_arrays(arrays, folder / CHOICE_WEIGHTS_FILE)
    text = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
    (folder / CHOICE_CONFIG_FILE).write_text(text, encoding="utf-8")


def load_speed_choice(config: SpeedChoiceConfig, folder: Path) -> Tree:
    """What `save_speed_choice` wrote. UserError where it is not there, or not of this grid."""
    arrays = read_arrays(folder / CHOICE_WEIGHTS_FILE)
    inner, num_speeds = config.inner_size, len(config.speeds) + config.mid_chain
    shapes = {"0.bias": (inner,), "2.weight": (num_speeds, inner), "2.bias": (num_speeds,)}
    wrong = [name for name, shape in shapes.items() if name not in arrays or arrays[name].shape != shape]
    if wrong or "0.weight" not in arrays:
        raise UserError(
            f"{folder} holds no choice among {num_speeds} speeds: {', '.join(wrong) or '0.weight'} is wrong"
        )
    ours = {name: np.ascontiguousarray(np.asarray(value, np.float32).T) for name, value in arrays.items()}
    return {
        "first": {"kernel": ours["0.weight"], "bias": ours["0.bias"]},
        "second_kernel": ours["2.weight"],
        "second_bias": ours["2.bias"],
    }
