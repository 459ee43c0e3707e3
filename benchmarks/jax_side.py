"""Our side of the speed comparisons: the package's own training step and decoder, on given token ids."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from colar_jax.config import Compute, OptimizerConfig, StageConfig
from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.loader import Loader
from colar_jax.data.prompts import speed_text
from colar_jax.decoding.decoder import DecodeLimits, decode
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.decoding.thinking import latent_thinker
from colar_jax.engine import Engine
from colar_jax.methods.colar import Colar
from colar_jax.model import presets, reasoner
from colar_jax.model.execution import Execution
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.parallel.mesh import make_mesh, put_rows, replicate
from colar_jax.training.state import initial_state, make_optimizer, partition
from colar_jax.training.step import make_train_step

SEPARATOR, EOS = 0, 1
COMPUTE = Compute(scan_layers=False)


def build(latent_intermediate: int):
    """The benchmark's model: graph and parameters."""
    return reasoner.build(presets.PRESETS["micro"], LatentHeadConfig(latent_intermediate), seed=0)


def encode(problems: list[tuple[list[int], list[int], list[int]]], speeds: tuple[float, ...]) -> EncodedProblems:
    """Problems that are token ids already; their prompts do not depend on the speed."""

    def arrays(column: int) -> tuple[np.ndarray, ...]:
        return tuple(np.array(problem[column], np.int32) for problem in problems)

    tails = {speed_text(speed): np.zeros(0, np.int32) for speed in speeds}
    return EncodedProblems((None,) * len(problems), arrays(0), tails, arrays(1), arrays(2), SEPARATOR, EOS)


def training(
    problems, speeds: tuple[float, ...], rows: int, row_positions: int, latent_intermediate: int
) -> Callable[[], int]:
    """A function that takes one CoLaR training step (host work included) and returns the number of its examples."""
    stage = StageConfig(
        method="colar",
        rows=rows,
        row_positions=row_positions,
        bound_method=Colar(speeds=",".join(speed_text(speed) for speed in speeds)),
    )
    method = stage.bound_method
    loader = Loader(encode(problems, speeds), method.recipe, seed=0, rows=rows, row_positions=row_positions)
    graph, parameters = build(latent_intermediate)
    trainable, frozen = partition(parameters, ("llama", "latent_head"))
    mesh = make_mesh()
    optimizer = make_optimizer(OptimizerConfig(schedule="constant"), 1)
    step = make_train_step(Engine(graph, mesh, COMPUTE), method, stage, optimizer)
    state = replicate(initial_state(trainable, optimizer), mesh)
    key, count = jax.random.key(0), 0

    def run() -> int:
        nonlocal state, count
        batch = loader.batch(count)
        state, metrics = step(state, frozen, put_rows(batch, mesh), key)
        jax.block_until_ready(metrics)
        count += 1
        return int(batch.segment_ids_BS.max(axis=1).sum())

    return run


def generation(
    prompts: list[list[int]], max_latents: int, answer_tokens: int, latent_intermediate: int
) -> Callable[[], int]:
    """A function that decodes all prompts to the limits (no early end) and returns how many there are."""
    graph, parameters = build(latent_intermediate)
    thinker = latent_thinker(SEPARATOR, greedy=False, latent_temperature=1.0, stop_temperature=1.0)

    def think(model, hidden_BD, keys_B):
        thought = thinker(model, hidden_BD, keys_B)  # the decision is drawn, and ignored
        return dataclasses.replace(thought, stop_B=jnp.zeros_like(thought.stop_B))

    limits = DecodeLimits(
        max_thoughts=max_latents, min_thoughts=1, max_answer_tokens=answer_tokens, greedy=False,
        answer_temperature=1.0, answer_top_p=0.9, separator_id=SEPARATOR, eos_id=-1,
    )  # fmt: skip
    prompts = [np.array([*prompt, SEPARATOR], np.int32) for prompt in prompts]
    packed = pack_prompts(prompts, shape_for([np.array([len(prompt) for prompt in prompts])]))

    @jax.jit
    def program(parameters, packed, keys_B):
        return decode(nnx.merge(graph, parameters), packed, keys_B, think, limits, Execution())

    count = 0

    def run() -> int:
        nonlocal count
        count += 1
        decoded = program(parameters, packed, jax.random.split(jax.random.key(count), len(prompts)))
        assert int(decoded.num_thoughts_B.min()) == max_latents
        return len(prompts)

    return run
