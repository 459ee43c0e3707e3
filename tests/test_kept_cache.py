"""benchmarks/kept_cache.py: what share is explained, how many tokens a latent is to hold, the distance as trained."""

import importlib
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pico_thoughts import COMPUTE, PROJECTION_SIZE, merged, problems

from colar_jax.methods.kava import Kava
from colar_jax.methods.thinking import thought_chain
from colar_jax.methods.thinking.cache_distillation import Matched, cache_distance, matched_caches
from colar_jax.methods.thinking.cache_eviction import chains_of

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
IS_KEPT_NKM = np.array([[[True, True]], [[True, False]], [[True, True]]])


@pytest.fixture
def kept_cache(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("kept_cache")


def test_the_share_that_is_explained(kept_cache):
    teacher = np.random.default_rng(0).normal(size=(3, 1, 2, 4))
    constant = np.broadcast_to(kept_cache.mean_of(teacher, IS_KEPT_NKM), teacher.shape).copy()
    np.testing.assert_allclose(constant[0, 0, 1], teacher[[0, 2], 0, 1].mean(axis=0))  # of those that keep it
    assert kept_cache.explained(teacher, teacher, IS_KEPT_NKM) == 1
    assert abs(kept_cache.explained(teacher, constant, IS_KEPT_NKM)) < 1e-12
    halfway = (teacher + constant) / 2
    np.testing.assert_allclose(kept_cache.explained(teacher, halfway, IS_KEPT_NKM), 0.75)
    halfway[1, 0, 1] = 1e9  # nothing is kept there
    np.testing.assert_allclose(kept_cache.explained(teacher, halfway, IS_KEPT_NKM), 0.75)


def test_how_many_tokens_a_latent_is_to_hold(kept_cache):
    """Two layers: of the first latents one, two and two, of the second ones two and one."""

    def layer(places_NKM):
        return Matched(*[None] * 4, np.array(places_NKM), IS_KEPT_NKM)

    layers = [layer([[[3, 5]], [[4, 0]], [[3, 4]]]), layer([[[3, 6]], [[5, 0]], [[2, 4]]])]
    assert kept_cache.tokens_of_a_latent(layers) == (1 + 2 + 2 + 2 + 1) / 5


@pytest.mark.parametrize("normalise", [True, False])
def test_the_distance_is_the_one_that_is_trained(kept_cache, normalise):
    method = Kava(num_latents=4, num_sweeps=2, projection_size=PROJECTION_SIZE, cache_normalise=normalise)
    batch = method.make_loader(problems(12), seed=0, rows=2, row_positions=90).batch(0)

    @jax.jit
    def program(batch):
        model, chains = merged(), chains_of(batch)
        trunk = thought_chain.run_trunk(model, batch, COMPUTE, watched_BT=chains.places_BT)
        latents = method.think_in_training(model, trunk, batch, COMPUTE, None)
        given = trunk, latents, batch, chains, method.matching, model.llama.config
        return cache_distance(*given, COMPUTE), list(matched_caches(*given)), chains.is_chain_BEP.sum(axis=2)

    trained_BE, layers, tokens_BE = jax.device_get(program(jax.tree.map(jnp.asarray, batch)))
    is_real_BE = batch.question_lengths_BE > 0
    ours, constant = kept_cache.distances(kept_cache.by_problem(layers, is_real_BE), tokens_BE[is_real_BE], method)
    np.testing.assert_allclose(ours, trained_BE[is_real_BE].mean(), rtol=1e-5)
    assert constant < ours  # nothing was trained


@pytest.mark.slow
def test_the_table_of_a_run(tmp_path):
    """Both of its commands, on the smallest run."""
    train = ["-m", "colar_jax.train", "--config=configs/methods.py:smoke", "--config.run=cot,kava"]
    for command in ([*train, f"--config.workdir={tmp_path}"], [BENCHMARKS / "kept_cache.py", tmp_path]):
        done = subprocess.run(
            [sys.executable, *command], cwd=BENCHMARKS.parent, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    header, _, *lines, _, distance = done.stdout.splitlines()
    assert header.count("|") == 6 and [line.split("|")[1].strip() for line in lines] == ["7", "15", "23"]
    assert sum(int(line.split("|")[2]) for line in lines) == 200 and "the best constant" in distance
    other = [BENCHMARKS / "kept_cache.py", tmp_path, "--stage=cot"]
    done = subprocess.run([sys.executable, *other], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "--stage=cot is no stage of" in done.stderr
