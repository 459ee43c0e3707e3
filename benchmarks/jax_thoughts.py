"""Our side of the Coconut and CODI training steps: the package's own loader and step, 6 latents, on given token ids."""

import dataclasses
import time
from collections.abc import Callable

import jax
import jax_side
import numpy as np

from colar_jax.config import OptimizerConfig, StageConfig
from colar_jax.data.prompts import AUTO_SPEED
from colar_jax.engine import Engine
from colar_jax.methods.coconut import Coconut
from colar_jax.methods.codi import Codi
from colar_jax.parallel.mesh import make_mesh, put_rows, replicate
from colar_jax.training.optimizer import make_optimizer
from colar_jax.training.state import initial_state, partition
from colar_jax.training.step import make_train_step

# Neither has a latent head: it is as small as can be.
MICRO = dataclasses.replace(jax_side.MICRO, latent_intermediate=8)


def method_of(name: str, subject: jax_side.Subject):
    """Coconut in its last stage, or CODI with a projection as wide as the model; both as the PyTorch side has them."""
    if name == "coconut":
        return Coconut(epochs_per_stage=1e-6)
    # Random ids have no steps and no digits, and the PyTorch side distils as CoLaR's authors do.
    as_theirs = dict(teacher_last_step=True, matched="prefix", spread="example", distill_embedding=False)
    return Codi(num_latents=6, projection_size=subject.llama.hidden_size, **as_theirs)


def training(
    name: str,
    problems,
    rows: int,
    row_positions: int,
    subject: jax_side.Subject = MICRO,
    *,
    remat: str = "none",
    scan: bool = False,
) -> Callable[[], int]:
    """A function that takes one step of the method's last phase, and returns the number of its examples.

    Its `facts`: the memory that the compiled step needs besides its arguments, and what of the rows is real.
    """
    method, mesh = method_of(name, subject), make_mesh()
    stage = StageConfig(method=name, rows=rows, row_positions=row_positions, bound_method=method)
    graph, parameters = jax_side.build(subject, method.modules)
    encoded = jax_side.encode(problems, (AUTO_SPEED,))
    loader = method.make_loader(encoded, seed=0, rows=rows, row_positions=row_positions)
    trainable, frozen = partition(parameters, method.trains)
    optimizer = make_optimizer(OptimizerConfig(schedule="constant"), 1)
    compute = dataclasses.replace(subject.compute, remat=remat, scan_layers=scan)
    step = make_train_step(Engine(graph, mesh, compute), method, stage, optimizer)
    state = replicate(initial_state(trainable, optimizer), mesh)
    key, count = jax.random.key(0), loader.first_final_step
    first, begin = loader.batch(count), time.perf_counter()
    step = step.lower(state, frozen, put_rows(first, mesh), key).compile()  # all batches are of one shape
    compile_seconds = time.perf_counter() - begin

    def run() -> int:
        nonlocal state, count
        batch = loader.batch(count)
        state, metrics = step(state, frozen, put_rows(batch, mesh), key)
        jax.block_until_ready(metrics)
        count += 1
        return batch.num_examples

    run.compile_seconds = compile_seconds
    run.facts = {
        "GiB of temporaries": step.memory_analysis().temp_size_in_bytes / 2**30,
        "trunk positions that are real": np.mean(first.trunk_segments_BP > 0),
        "latents that are real": np.mean(first.question_lengths_BE > 0),
        "tail positions that are real": np.mean(first.tail_segments_BT > 0),
    }
    return run
