"""Small safetensors files of what stands beside a language model: heads, projections."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from colar_jax.errors import UserError


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays that `safetensors_io.write_arrays` wrote; UserError where the file is missing or damaged."""
    if not path.is_file():
        raise UserError(f"{path} is missing: copy the folder again, whole")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): copy it again") from error
