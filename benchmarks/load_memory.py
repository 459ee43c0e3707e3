"""How much memory it takes to load a base model, or a stage of a run that trains everything, against its size.

python benchmarks/load_memory.py                        # a base of about 1 GB, bfloat16 file and parameters
python benchmarks/load_memory.py --model=llama-3.2-1b --file=bfloat16 --parameters=float32
python benchmarks/load_memory.py --run                  # a run of 50M parameters: evaluate, export, resume a stage

Each measurement has a process of its own, and prints one JSON object. On a CPU the parameters themselves lie in host
memory, so the least there can be is their size.

Of a base: the bound that we hold is its size plus the largest tensor; exit status 1 where it is exceeded.

Of a run: `device` is the most that live arrays held, `host` the most that the process held besides what it had when
the package was imported (with what compiling takes), both in MB and in copies of the parameters. Evaluating and
exporting read a finished stage. Resuming ends before the first step, with parameters and two moments: three copies.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from peak_memory import peak_bytes

from colar_jax.model.llama_config import LlamaConfig
from colar_jax.model.presets import PRESETS
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
OF_A_RUN = ("evaluate", "export", "resume")
# The run's model; its vocabulary is the tokenizer's.
LLAMA_OF_RUN = LlamaConfig(
    vocab_size=256, hidden_size=768, num_layers=7, num_heads=12, num_kv_heads=12, head_dim=64, intermediate_size=2048
)


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


def run_config(workdir: Path):
    """Two stages that train everything; little to decode."""
    from colar_jax.config import defaults, resolve, stage_defaults

    PRESETS["of-load-memory"] = LLAMA_OF_RUN
    config = defaults()
    config.update(workdir=str(workdir), run="cot,colar")
    config.data.update(train="arithmetic:max_steps=3", train_limit=64, num_val=2, num_test=2)
    config.model.update(preset="of-load-memory")
    for name in ("cot", "colar"):
        config.stages[name] = stage_defaults(method=name, steps=1, rows=1, row_positions=128)
    config.decode.update(max_step_tokens=4, max_latents=2, max_answer_tokens=2)
    config.eval.update(seeds=0, speeds="2", latent_words=0, batch_size=2)
    return resolve(config)


def make_run(workdir: Path) -> None:
    """Both stages with a checkpoint of step 0, as an imported model has it."""
    from colar_jax.runs.run import prepare
    from colar_jax.runs.starts import adopt

    run = prepare(run_config(workdir))
    for name in run.config.stage_names:
        adopt(run, name, run.initial_parameters())


class LivePeak:
    """The most bytes that live arrays held, looked at every few milliseconds."""

    def __init__(self):
        self.num_bytes, self._is_over = 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "LivePeak":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        import jax

        while not self._is_over.wait(0.002):
            held = {}
            for array in jax.live_arrays():
                try:
                    held |= {
                        shard.data.unsafe_buffer_pointer(): shard.data.nbytes for shard in array.addressable_shards
                    }
                except Exception:  # deleted, or donated, between the two
                    continue
            self.num_bytes = max(self.num_bytes, sum(held.values()))


def use_run(workdir: Path, what: str) -> None:
    """Evaluate, export or resume, and print what it took."""
    import jax

    from colar_jax.exchange.folder import export_stage
    from colar_jax.runs import pipeline
    from colar_jax.runs.run import prepare
    from colar_jax.runs.sweep.sweep import sweep
    from colar_jax.training.trainer import SftTrainer

    class FirstStep(Exception):
        """Where resuming ends."""

    def steps(*arguments):
        raise FirstStep

    SftTrainer.steps = steps
    jax.block_until_ready(jax.jit(jax.numpy.zeros, static_argnums=0)(8))
    config = run_config(workdir)
    baseline, start = peak_bytes(), time.perf_counter()
    with LivePeak() as live:
        if what == "evaluate":
            sweep([config], workdir / "report")
        elif what == "export":
            export_stage(prepare(config, sets="none"), "colar", workdir / "exported")
        else:
            try:
                pipeline.train_stage(prepare(config), "colar")
            except FirstStep:
                time.sleep(0.1)
    sizes = {"host": peak_bytes() - baseline, "device": live.num_bytes}
    print(json.dumps(sizes | {"seconds": time.perf_counter() - start}))


def measure_run() -> None:
    """Make a run, use it in every way, and print a line for each."""
    llama = LLAMA_OF_RUN
    attention = 2 * (llama.num_heads + llama.num_kv_heads) * llama.head_dim
    of_layer = llama.hidden_size * (attention + 3 * llama.intermediate_size)
    model = 4 * llama.num_layers * of_layer
    with tempfile.TemporaryDirectory() as folder:
        for what in ("make", *OF_A_RUN):
            command = [sys.executable, __file__, f"--use={what}", f"--load={folder}"]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            if what != "make":
                figures = json.loads(output.splitlines()[-1])
                took = {
                    name: {"MB": round(figures[name] / 1e6, 1), "copies": round(figures[name] / model, 2)}
                    for name in ("host", "device")
                }
                print(json.dumps({"what": what, **took, "seconds": round(figures["seconds"], 1)}), flush=True)


def main() -> int:
    """Make the folder, load it, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(CONFIGS), default="1gb")
    parser.add_argument("--file", choices=DTYPES, default="bfloat16")
    parser.add_argument("--parameters", choices=DTYPES, default="bfloat16")
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--use", choices=("make", *OF_A_RUN), help=argparse.SUPPRESS)  # of a run in the folder `load`
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)  # what the process of its own is asked
    arguments = parser.parse_args()
    if arguments.use:
        make_run(arguments.load) if arguments.use == "make" else use_run(arguments.load, arguments.use)
        return 0
    if arguments.run:
        measure_run()
        return 0
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
