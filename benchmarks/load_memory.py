"""How much host memory loading a base model takes, against its size: a made-up folder, loaded in a process of its own.

python benchmarks/load_memory.py                        # about 1 GB, bfloat16 file and parameters
python benchmarks/load_memory.py --model=llama-3.2-1b --file=bfloat16 --parameters=float32

On a CPU the parameters themselves lie in host memory, so the least there can be is their size. The bound that we hold
is their size plus the largest tensor. Prints one JSON object; exit status 1 where the bound is exceeded.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from colar_jax.model.presets import PRESETS, LlamaConfig
from colar_jax.weights import hf_config
from colar_jax.weights.safetensors_io import TensorToWrite, write_tensors
from colar_jax.weights.table import llama_weights

DTYPES = ("float32", "bfloat16")
CONFIGS = PRESETS | {
    # A Llama-3.2-1B of fewer layers and words: the embedding is its largest tensor, as there.
    "1gb": LlamaConfig(
        vocab_size=64_000,
        hidden_size=2048,
        num_layers=6,
        num_heads=32,
        num_kv_heads=8,
        head_dim=64,
        intermediate_size=8192,
    )
}


def make_folder(folder: Path, config: LlamaConfig, dtype: str) -> None:
    """Random weights, in shards of at most 400 MB."""
    import jax.numpy as jnp

    stored = np.dtype(jnp.dtype(dtype))
    rng = np.random.default_rng(0)

    def random(shape):
        return lambda: (0.02 * rng.standard_normal(shape, np.float32)).astype(stored)

    tensors = [
        TensorToWrite(name, weight.shape, stored, random(weight.shape))
        for weight in llama_weights(config)
        for name in weight.names
    ]
    write_tensors(tensors, folder, 400_000_000)
    hf_config.write(hf_config.to_hf(config, dtype=dtype), folder)


def load(folder: Path, dtype: str) -> None:
    """Load, and print what it took."""
    import jax
    import jax.numpy as jnp

    from colar_jax.weights.loading import load_llama

    jax.block_until_ready(jax.jit(jnp.zeros, static_argnums=0)(8))  # the backend is part of the baseline
    config = hf_config.read_config(folder)
    baseline, start, cpu_start = peak_bytes(), time.perf_counter(), time.process_time()
    parameters = jax.block_until_ready(load_llama(folder, config, dtype=jnp.dtype(dtype)))
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(parameters)]
    itemsize = jnp.dtype(dtype).itemsize
    largest = max(int(np.prod(weight.shape)) for weight in llama_weights(config)) * itemsize
    figures = {"peak": peak_bytes() - baseline, "model": sum(sizes), "largest": largest}
    print(json.dumps(figures | {"seconds": seconds, "cpu_seconds": cpu_seconds}))


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: its ru_maxrss begins with that of the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> int:
    """Make the folder, load it, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(CONFIGS), default="1gb")
    parser.add_argument("--file", choices=DTYPES, default="bfloat16")
    parser.add_argument("--parameters", choices=DTYPES, default="bfloat16")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)  # what the process of its own is asked
    arguments = parser.parse_args()
    if arguments.load:
        load(arguments.load, arguments.parameters)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder), CONFIGS[arguments.model], arguments.file)
        command = [sys.executable, __file__, f"--load={folder}", f"--parameters={arguments.parameters}"]
        figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    megabytes = {name: round(figures[name] / 1e6, 1) for name in ("peak", "model", "largest")}
    is_below = figures["peak"] < figures["model"] + figures["largest"]
    seconds = {name: round(figures[name], 2) for name in ("seconds", "cpu_seconds")}
    print(json.dumps({"MB": megabytes, **seconds, "below_bound": is_below}))
    return 0 if is_below else 1


if __name__ == "__main__":
    sys.exit(main())
