"""Reinforcement learning of a model that is told its speed as a number: rollouts and update are told the same."""

import jax
import numpy as np
import pytest
from cases import fast
from flax import nnx
from rl.pico_policy import COMPUTE, PROMPTS, RL, SAMPLING, SEPARATOR_ID, Ends, G, policy

from colar_jax.data.encoding import Prompt
from colar_jax.engine import Engine
from colar_jax.methods.colar import Colar
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.reasoner import abstract
from colar_jax.parallel.mesh import make_mesh
from colar_jax.rl.rescoring import rescore
from colar_jax.rl.rollout import Sampler, ways_to_sample
from colar_jax.rl.tree_batch import KINDS, assemble

NUMBERS = {"latents": (2.0, 1.5, 0.0, -1.0), "tokens": (2.0, 1.5, 3.7, 1.0)}  # with 0 "auto", with -1 nothing


def told_policy(method):
    """The pico policy with an embedding of the speed that makes a difference."""
    llama = nnx.merge(*policy()).llama.config
    graph, shapes = abstract(llama, LatentHeadConfig(llama.hidden_size), modules=method.modules)
    rng = np.random.default_rng(4)
    embedding = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes["speed"])
    return graph, policy()[1] | {"speed": embedding}


@pytest.mark.slow
@pytest.mark.parametrize("timeline", fast(["latents", "tokens"], "tokens"))
def test_rescored_log_probabilities_are_those_of_the_decoder(timeline):
    method = Colar(conditioning="number", timeline=timeline)
    graph, parameters = told_policy(method)
    engine = Engine(graph, make_mesh(jax.devices()[:1]), COMPUTE)
    ways = ways_to_sample(engine, method, SAMPLING, Ends(), num_generations=G)
    sampler = Sampler(engine, ways, batch_size=4, prompt_lengths=np.array([len(prompt) for prompt in PROMPTS]))
    prompts = [Prompt(ids, number) for ids, number in zip(PROMPTS, NUMBERS[timeline], strict=True)]
    ((_, sampled),) = sampler.run(parameters, prompts, jax.random.key(5))

    def gaps(prompts):
        rows = dict(num_rows=len(prompts), prompt_room=32, min_thoughts=SAMPLING.min_latents)
        batch = assemble(prompts, sampled, np.zeros((len(prompts), G)), RL, **rows)
        now = jax.jit(lambda tree: rescore(nnx.merge(graph, tree), batch, SEPARATOR_ID, SAMPLING, COMPUTE).log_probs)
        terms, log_probs = batch.terms, now(parameters)
        return [np.abs(log_probs[kind] - terms[kind].old_log_probs)[terms[kind].mask].max() for kind in KINDS]

    assert max(gaps(prompts)) < 1e-4
    assert max(gaps([Prompt(ids, -1.0) for ids in PROMPTS])) > 0.01
