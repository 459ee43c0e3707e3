"""What holds for every test: float32, no silent broadcast of a vector against a matrix, and a quick compiler.

This file also makes `tests/` importable (`from golden.published import ...`), which `--import-mode=importlib` does not.
"""

import atexit
import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path

import hypothesis
import pytest

# What one file compiles others need not: all processes of a run of tests share a folder, which goes with the run, and
# does without what users' commands keep in ~/.cache/colar_jax. Yours, if the variable names one (CONTRIBUTING.md).
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="colar_jax_tests_")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax

# What is compiled runs for milliseconds. The mathematics is the same, the order of sums may differ. XLA_FLAGS='' (or
# your own) compiles as a user's run does; CI does both.
_QUICKLY = "--xla_backend_optimization_level=0"
if jax.__version_info__ < (0, 11):  # XLA ends a process that names a flag it does not know
    _QUICKLY += " --xla_cpu_use_fusion_emitters=false --xla_llvm_disable_expensive_passes=true"
    _QUICKLY += " --xla_cpu_parallel_codegen_split_count=1"
os.environ.setdefault("XLA_FLAGS", _QUICKLY)

sys.path.insert(0, str(Path(__file__).parent))

# The suite draws the same examples each time; a fuzz by hand, with more of them, draws new ones.
hypothesis.settings.register_profile("same", derandomize=True, database=None)
if "COLAR_FUZZ_EXAMPLES" not in os.environ:
    hypothesis.settings.load_profile("same")

jax.config.update("jax_enable_x64", False)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def kept_out_of_garbage_collection():
    """What a file leaves in jax's caches stays: looking through it again and again takes longer than many tests."""
    yield
    gc.collect()
    gc.freeze()
