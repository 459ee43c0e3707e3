"""What holds for every test: float32, no silent broadcast of a vector against a matrix, and a quick compiler.

This file also makes `tests/` importable (`from golden.published import ...`), which `--import-mode=importlib` does not.
"""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import hypothesis

# What is compiled is kept for this run of the tests, for its processes and the commands that they start: many compile
# the same programs. A folder of your own is used where the variable names one; "" keeps nothing.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.mkdtemp(prefix="colar_jax_compiled_")
    atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import jax

# Nearly all the time of these tests is XLA's on the CPU, compiling what then runs for milliseconds. The mathematics is
# the same, the order of sums may differ. XLA_FLAGS='' (or your own) compiles as a user's run does; CI does both.
_QUICKLY = "--xla_backend_optimization_level=0"
if jax.__version_info__ < (0, 11):  # where it is the default; XLA ends a process that names a flag it does not know
    _QUICKLY += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _QUICKLY)

sys.path.insert(0, str(Path(__file__).parent))

# The suite draws the same examples each time; a fuzz by hand, with more of them, draws new ones.
hypothesis.settings.register_profile("same", derandomize=True, database=None)
if "COLAR_FUZZ_EXAMPLES" not in os.environ:
    hypothesis.settings.load_profile("same")

jax.config.update("jax_enable_x64", False)
jax.config.update("jax_numpy_rank_promotion", "raise")
