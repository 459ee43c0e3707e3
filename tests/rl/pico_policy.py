"""A pico model whose rollouts differ: chains of every length, some cut at the limit, some answers that never end."""

import dataclasses
import functools

import jax
import numpy as np
from flax import nnx

from colar_jax.config import DecodeConfig, RlConfig
from colar_jax.decoding.decoder import Decoded
from colar_jax.engine import Engine
from colar_jax.methods import METHODS
from colar_jax.model.execution import Execution
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import build, calibrate
from colar_jax.parallel.mesh import make_mesh
from colar_jax.rl.rescoring import rescore
from colar_jax.rl.rollout import Sampler, ways_to_sample
from colar_jax.rl.tree_batch import TreeBatch, assemble

SEPARATOR_ID, EOS_ID, VOCABULARY = 60, 61, 64
SAMPLING = DecodeConfig(
    max_latents=9, min_latents=2, max_answer_tokens=5, latent_temperature=0.8, min_latent_std=0.7, stop_temperature=2.0,
    answer_temperature=1.5, top_p=0.8,
)  # fmt: skip
PROMPTS = [
    np.append(np.random.default_rng(length).integers(0, SEPARATOR_ID, length), SEPARATOR_ID).astype(np.int32)
    for length in (3, 9, 5, 17)
]
G = 4
COMPUTE = Execution()
COLAR = METHODS["colar"]()


class Ends:
    separator_id, eos_id = SEPARATOR_ID, EOS_ID


RL = RlConfig()


@functools.cache
def policy(seed: int = 2):
    """Graph and parameters. `###` and eos have large embeddings, which makes each the likeliest word now and then."""
    config = dataclasses.replace(PRESETS["pico"], vocab_size=VOCABULARY)
    graph, parameters = build(config, LatentHeadConfig(config.hidden_size), seed=0)
    rng = np.random.default_rng(seed)

    def large(path, leaf):
        values = rng.normal(size=leaf.shape).astype(np.float32)
        if path[1].key == "log_std":
            return 0.05 * values  # standard deviations near 1: the floor of 0.7 binds sometimes
        match path[-1].key:
            case "scale" | "norm_scale":
                return 1 + 0.3 * values
            case "embedding":
                return 0.4 * values * np.where(np.isin(np.arange(VOCABULARY), (SEPARATOR_ID, EOS_ID)), 2.5, 1)[:, None]
        return 0.2 * values

    parameters = jax.tree_util.tree_map_with_path(large, parameters)
    return graph, calibrate(jax.tree.map(np.float32, parameters), config)


def engine_of(compute=COMPUTE) -> Engine:
    """The pico policy on one device."""
    return Engine(policy()[0], make_mesh(jax.devices()[:1]), compute)


def sampler(sampling=SAMPLING, *, engine=None, batch_size=4, num_generations=G, prompts=PROMPTS, method=COLAR):
    """A sampler of rollouts of the pico policy."""
    engine = engine or engine_of()
    return Sampler(
        engine,
        ways_to_sample(engine, method, sampling, Ends(), num_generations=num_generations),
        batch_size=batch_size,
        prompt_lengths=np.array([len(prompt) for prompt in prompts]),
    )


@functools.cache
def rollouts(sampling=SAMPLING, dtype="float32", method=COLAR) -> Decoded:
    """One batch of rollouts."""
    ((place, sampled),) = sampler(sampling, engine=engine_of(Execution(dtype=dtype)), method=method).run(
        policy()[1], PROMPTS, jax.random.key(5)
    )
    assert place == slice(0, len(PROMPTS))
    return sampled


def batch_of(sampled: Decoded, advantages=None, *, sampling=SAMPLING, rl=RL, num_rows=None) -> TreeBatch:
    """The minibatch of all of them; advantages are random unless given."""
    shape = len(PROMPTS), len(sampled.num_thoughts_B) // len(PROMPTS)
    if advantages is None:
        advantages = np.random.default_rng(3).normal(size=shape)
    rows = dict(num_rows=num_rows or len(PROMPTS), prompt_room=32, min_thoughts=sampling.min_latents)
    return assemble(PROMPTS, sampled, advantages, rl, **rows)


@functools.partial(jax.jit, static_argnames=("sampling", "compute"))
def rescored(parameters, batch: TreeBatch, sampling=SAMPLING, compute=COMPUTE):
    """Log-probabilities under these parameters, by kind."""
    now = rescore(nnx.merge(policy()[0], parameters), batch, SEPARATOR_ID, sampling, compute)
    return now.log_probs
