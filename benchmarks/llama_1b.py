"""Everything once with a model of the Llama-3.2-1B shape and random weights: load, train adapters, think, export.

    python benchmarks/llama_1b.py --tokenizer=<folder of a Llama-3 tokenizer> [--folder=<where the models go>]

Prints for each step its wall time and the process's peak memory so far. The weights are made in bfloat16 (2.5 GB) and
the base is held in bfloat16; computation is in float32, which two CPU cores do faster.
"""

import argparse
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from peak_memory import peak_bytes

from colar_jax.config import defaults, resolve, stage_defaults
from colar_jax.data.loader import Loader
from colar_jax.data.tokenizers import load_tokenizer
from colar_jax.exchange.folder import export_stage
from colar_jax.model.presets import PRESETS
from colar_jax.parallel.mesh import put_rows, replicate
from colar_jax.runs.run import prepare
from colar_jax.runs.starts import adopt
from colar_jax.training.optimizer import make_optimizer
from colar_jax.training.state import initial_state, join, partition
from colar_jax.training.step import make_train_step
from colar_jax.weights.hf_folder import save_llama
from colar_jax.weights.table import llama_weights

STAGE = "colar"


class Clock:
    """Prints what a step took."""

    def __init__(self):
        self._start = time.perf_counter()

    def tell(self, what: str) -> None:
        """The time since the last call, and the peak so far."""
        now = time.perf_counter()
        peak = peak_bytes() / 1e9
        print(f"{what:<58} {now - self._start:7.1f} s   peak {peak:5.2f} GB", flush=True)
        self._start = time.perf_counter()


def random_llama(config) -> dict:
    """Random bfloat16 weights, leaf by leaf."""
    rng, tree = np.random.default_rng(0), {}
    for weight in llama_weights(config):
        node = tree
        for name in weight.path[:-1]:
            node = node.setdefault(name, {})
        leaf = np.ones(weight.leaf_shape, ml_dtypes.bfloat16)
        if weight.path[-1] != "scale":
            for part in leaf.reshape(-1, leaf.shape[-1]) if leaf.ndim < 3 else leaf:
                part[...] = 0.02 * rng.standard_normal(part.shape, np.float32)
        node[weight.path[-1]] = leaf
    return tree


def run_config(base: Path, workdir: Path):
    """The paper's adapters on the base; one row of 128 positions."""
    config = defaults()
    config.update(workdir=str(workdir), run=STAGE)
    config.data.update(train="arithmetic:max_steps=3", train_limit=64, num_val=1, num_test=1)
    config.model.update(base=str(base), base_dtype="bfloat16", remat="full")
    config.model.lora.update(rank=128, alpha=32.0, targets="query,value")
    config.stages[STAGE] = stage_defaults(method="colar", steps=1, rows=1, row_positions=128)
    config.decode.update(max_latents=8, min_latents=8, max_answer_tokens=4)
    return resolve(config)


def main() -> None:
    """One pass."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--preset", default="llama-3.2-1b", help="another size, to try this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder, clock = Path(name), Clock()
        llama = PRESETS[arguments.preset]
        save_llama(random_llama(llama), llama, folder / "base", dtype=jnp.bfloat16)
        load_tokenizer(arguments.tokenizer).save(folder / "base")
        clock.tell(f"make a {arguments.preset} of random weights, on disk")
        run = prepare(run_config(folder / "base", folder / "run"))
        parameters = jax.block_until_ready(run.initial_parameters())
        clock.tell("load it in bfloat16, with adapters and latent head")

        stage, method = run.config.stages[STAGE], run.method(STAGE)
        optimizer = make_optimizer(stage.optimizer, 1, run.logical_axes)
        trainable, frozen = partition(parameters, ("llama", "latent_head"))
        state = replicate(initial_state(trainable, optimizer), run.mesh)
        loader = Loader(run.train, method.recipe, seed=0, rows=1, row_positions=stage.row_positions)
        step = make_train_step(run.engine, method, stage, optimizer)
        for what in ("first training step (compiling)", "second training step"):
            state, metrics = step(state, frozen, put_rows(loader.batch(0), run.mesh), jax.random.key(0))
            jax.block_until_ready(state)
            clock.tell(f"{what}, loss {float(metrics['loss'].sum):.3f}")

        parameters = join(state.trainable, frozen)
        evaluator = run.evaluator(STAGE, [run.val], (2.0,))
        for what in ("think 8 latents and answer (compiling)", "think 8 latents and answer"):
            outcome = evaluator.run(parameters, run.val, 2.0, seed=None)
            assert outcome.lengths_N.tolist() == [8]
            clock.tell(what)
        adopt(run, STAGE, parameters)
        clock.tell("save a checkpoint (adapters and latent head)")
        export_stage(run, STAGE, folder / "merged", dtype="bfloat16")
        clock.tell("export, merged, bfloat16")
        export_stage(run, STAGE, folder / "adapter", form="adapter")
        clock.tell("export the adapter alone")


if __name__ == "__main__":
    main()
