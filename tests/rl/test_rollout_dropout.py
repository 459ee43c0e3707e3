"""Adapters that drop out in rollouts: one mask a rollout, at all of its positions, and the same in its updates."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import fast
from flax import nnx
from rl.pico_policy import PROMPTS, SAMPLING, SEPARATOR_ID, VOCABULARY, Ends, G, batch_of, policy

from colar_jax.config import defaults, resolve, stage_defaults
from colar_jax.decoding.decoder import dropout_keys
from colar_jax.engine import Engine
from colar_jax.methods import METHODS
from colar_jax.model.execution import Execution
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.lora import BranchKeys, LoraConfig, dropped_out, joined
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import build
from colar_jax.parallel.mesh import make_mesh
from colar_jax.rl.rescoring import rescore
from colar_jax.rl.rollout import Sampler, ways_to_sample
from colar_jax.rl.tree_batch import KINDS

LORA = LoraConfig(rank=4, alpha=4.0, targets=("query", "value", "down"), dropout=0.3)


@functools.cache
def adapted():
    """The pico policy with adapters that do something."""
    config = dataclasses.replace(PRESETS["pico"], vocab_size=VOCABULARY)
    graph, parameters = build(config, LatentHeadConfig(config.hidden_size), seed=0, lora=LORA)
    rng = np.random.default_rng(7)
    large = jax.tree.map(lambda leaf: (0.3 * rng.normal(size=leaf.shape)).astype(np.float32), parameters)
    return graph, joined(large, policy()[1])


@functools.cache
def rollouts():
    graph, parameters = adapted()
    engine = Engine(graph, make_mesh(jax.devices()[:1]), Execution())
    ways = ways_to_sample(engine, METHODS["colar"](), SAMPLING, Ends(), num_generations=G, drops_out=True)
    lengths = np.array([len(prompt) for prompt in PROMPTS])
    ((_, sampled),) = Sampler(engine, ways, batch_size=4, prompt_lengths=lengths).run(
        parameters, PROMPTS, jax.random.key(5)
    )
    return sampled


@pytest.mark.slow
@pytest.mark.parametrize("scan", fast([True, False], True))
def test_an_update_drops_what_the_rollout_dropped(scan):
    graph, parameters = adapted()
    batch = batch_of(rollouts())

    @jax.jit
    def log_probs(parameters, batch):
        compute = Execution(scan_layers=scan)
        return rescore(nnx.merge(graph, parameters), batch, SEPARATOR_ID, SAMPLING, compute).log_probs

    same, without = (log_probs(parameters, of) for of in (batch, dataclasses.replace(batch, key_data_BGK=None)))
    for kind in KINDS:
        terms = batch.terms[kind]
        assert np.abs(same[kind] - terms.old_log_probs)[terms.mask].max() < 1e-4, kind
        assert np.abs(without[kind] - terms.old_log_probs)[terms.mask].max() > 1e-2, kind


def test_a_branch_has_one_mask_and_its_trunk_none():
    keys_BG = dropout_keys(jax.random.split(jax.random.key(0), (2, 3)))
    trunk, size, branch = 4, 50, 5
    x = jnp.ones((2, trunk + 3 * branch, size))
    dropped = dropped_out(x, BranchKeys(keys_BG, branch), LORA)
    np.testing.assert_array_equal(dropped[:, :trunk], 1)
    branches = np.asarray(dropped[:, trunk:]).reshape(6, branch, size)
    assert (branches == branches[:, :1]).all() and len({row.tobytes() for row in branches[:, 0]}) == 6
    a_position_each = dropped_out(jnp.ones((6, 1, size)), keys_BG.reshape(-1), LORA)
    np.testing.assert_array_equal(branches[:, :1], a_position_each)


def test_dropout_that_is_not_there_is_one_error():
    config = defaults()
    config.run = "rl"
    config.stages.rl = stage_defaults(method="colar", trainer="grpo", rl=dict(rollout_dropout=True))
    with pytest.raises(ValueError, match="stages.rl.rl.rollout_dropout=True without dropout: set model.lora.rank and"):
        resolve(config)
