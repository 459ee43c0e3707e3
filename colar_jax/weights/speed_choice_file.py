"""The choice of a speed as a file: safetensors, and a small JSON with the grid; linear weights are `[out, in]`."""

import dataclasses
from pathlib import Path
from typing import Any

from colar_jax.errors import UserError
from colar_jax.model.speed_choice import SpeedChoiceConfig
from colar_jax.parallel.sharding import Tree
from colar_jax.weights.array_file import by_paths, other_arrays, other_shapes, read_arrays, save_named

CHOICE_WEIGHTS_FILE = "speed_choice.safetensors"

# Path in our parameters -> name in the file.
_NAMES = {
    ("first", "kernel"): "0.weight",
    ("first", "bias"): "0.bias",
    ("second_kernel",): "2.weight",
    ("second_bias",): "2.bias",
}


def save_speed_choice(choice: dict[str, Any], config: SpeedChoiceConfig, folder: Path) -> None:
    """Write `speed_choice.safetensors` (float32) and `speed_choice.json` into `folder`."""
    save_named(choice, _NAMES, dataclasses.asdict(config), folder, "speed_choice")


def load_speed_choice(config: SpeedChoiceConfig, folder: Path) -> Tree:
    """What `save_speed_choice` wrote. UserError where it is not there, or not of this grid."""
    arrays = read_arrays(folder / CHOICE_WEIGHTS_FILE)
    inner, num_speeds = config.inner_size, len(config.speeds) + config.mid_chain
    wrong = other_arrays(arrays, _NAMES.values(), "it") or other_shapes(
        arrays, {"0.bias": (inner,), "2.weight": (num_speeds, inner), "2.bias": (num_speeds,)}
    )
    if wrong:
        raise UserError(f"{folder} holds no choice among {num_speeds} speeds: {'; '.join(wrong)}")
    return by_paths(arrays, _NAMES)
