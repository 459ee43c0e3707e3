"""What holds for every test: float32, and no silent broadcast of a vector against a matrix.

This file also makes `tests/` importable (`from golden.published import ...`), which `--import-mode=importlib` does not.
"""

import sys
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).parent))

jax.config.update("jax_enable_x64", False)
jax.config.update("jax_numpy_rank_promotion", "raise")
