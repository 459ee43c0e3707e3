"""The choice to go on or to stop as a file: safetensors with its two rows, `continue` and `stop`."""

from pathlib import Path
from typing import Any

import numpy as np

from colar_jax.errors import UserError
from colar_jax.model.stop_choice import GO_ON, STOP, StopChoiceConfig
from colar_jax.parallel.sharding import Tree
from colar_jax.weights.array_file import read_arrays
from colar_jax.weights.safetensors_io import write_arrays

STOP_WEIGHTS_FILE = "stop_choice.safetensors"
_NAMES = {"continue": GO_ON, "stop": STOP}


def save_stop_choice(choice: dict[str, Any], config: StopChoiceConfig, folder: Path) -> None:
    """Write `stop_choice.safetensors` (float32) into `folder`."""
    rows = np.asarray(choice["rows"], np.float32)
    write_arrays({name: np.ascontiguousarray(rows[row]) for name, row in _NAMES.items()}, folder / STOP_WEIGHTS_FILE)


def load_stop_choice(config: StopChoiceConfig, folder: Path) -> Tree:
    """What `save_stop_choice` wrote. UserError where it is not there."""
    arrays = read_arrays(folder / STOP_WEIGHTS_FILE)
    if arrays.keys() != _NAMES.keys() or len({array.shape for array in arrays.values()}) != 1:
        raise UserError(
            f"{folder / STOP_WEIGHTS_FILE} has {', '.join(arrays)}: two rows, continue and stop, are wanted"
        )
    return {"rows": np.stack([arrays[name] for name in _NAMES]).astype(np.float32)}
