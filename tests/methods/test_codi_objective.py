"""CODI's distance, and where its gradients go."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from pico_thoughts import COMPUTE, PROJECTION_SIZE, model, problems

from colar_jax.methods.codi import Codi, distance
from colar_jax.training.state import partition

CODI = Codi(projection_size=PROJECTION_SIZE)
LOADER = CODI.make_loader(problems(12), seed=0, rows=2, row_positions=90)
BATCH = jax.tree.map(jnp.asarray, LOADER.batch(0))


def test_distance_is_smooth_l1_in_units_of_the_teachers_spread():
    rng = np.random.default_rng(0)
    student, teacher = (scale * rng.normal(size=(3, 2, 4, 8)).astype(np.float32) for scale in (2.0, 1.0))
    error = np.abs(student - teacher)
    smooth = np.where(error < 1, error**2 / 2, error - 0.5).mean(-1)
    assert (error < 1).any() and (error > 1).any()
    plain = distance(student, teacher, normalise=False)
    np.testing.assert_allclose(plain, smooth.mean(0), rtol=1e-5)
    normalised = distance(student, teacher, normalise=True)
    np.testing.assert_allclose(normalised, (smooth / teacher.std(-1, ddof=1)).mean(0), rtol=1e-5)
    gradient = jax.grad(lambda t: jnp.sum(distance(student, t, normalise=True)))(teacher)
    np.testing.assert_array_equal(gradient, 0)  # the teacher is not drawn to the student


@functools.cache
def gradients_of(part: str):
    """The gradient of one of the three losses alone."""
    weights = {f"{name}_weight": float(name == part) for name in ("teacher", "student", "distill")}
    method = Codi(**weights, projection_size=PROJECTION_SIZE)
    graph, parameters = model()

    @jax.jit
    def program(parameters):
        def loss(parameters):
            keys = jax.random.split(jax.random.key(0), 2)
            return method.objective(nnx.merge(graph, parameters), BATCH, keys, method.count(BATCH), COMPUTE)[0]

        return jax.grad(loss)(parameters)

    return program(jax.tree.map(jnp.asarray, parameters))


@pytest.mark.parametrize(("part", "reaches"), [("teacher", False), ("student", True), ("distill", True)])
def test_what_reaches_the_projection(part, reaches):
    gradients = gradients_of(part)
    assert all(bool(jnp.any(leaf != 0)) == reaches for leaf in jax.tree.leaves(gradients["projection"]))
    assert all(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(gradients["llama"]["blocks"]))


def test_the_partition_trains_the_projection():
    parameters = model()[1]
    trainable, frozen = partition(parameters, CODI.trains)
    assert trainable.keys() == {"llama", "projection"} and frozen.keys() == {"latent_head"}
    trainable, frozen = partition(parameters, ("llama",))
    assert trainable.keys() == {"llama"} and frozen.keys() == {"latent_head", "projection"}


def test_rows_do_not_know_each_other():
    """The mean over a batch is that over its rows, weighted by what they supervise: nothing leaks between examples."""
    graph, parameters = model()

    @jax.jit
    def metrics_of(part):
        keys = jax.random.split(jax.random.key(0), len(part.row_ids_B))
        own = nnx.merge(graph, jax.tree.map(jnp.asarray, parameters))
        return CODI.objective(own, part, keys, CODI.count(part), COMPUTE)[1]

    whole = metrics_of(BATCH)
    rows = [jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], BATCH) for row in range(2)]
    parts = [metrics_of(row) for row in rows]
    for name, metric in whole.items():
        assert float(metric.count) == sum(float(part[name].count) for part in parts)
        assert float(metric.sum) == pytest.approx(sum(float(part[name].sum) for part in parts), rel=1e-5)


SETTINGS = [{"remat": "full"}, {"scan_layers": False}, {"remat": "dots", "scan_layers": False}]


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS)
def test_how_it_is_computed_does_not_matter(settings):
    graph, parameters = model()

    def gradients(compute):
        @jax.jit
        def program(parameters):
            def loss(parameters):
                own, keys = nnx.merge(graph, parameters), jax.random.split(jax.random.key(0), 2)
                return CODI.objective(own, BATCH, keys, CODI.count(BATCH), compute)[0]

            return jax.value_and_grad(loss)(parameters)

        return program(jax.tree.map(jnp.asarray, parameters))

    loss, expected = gradients(COMPUTE)
    other_loss, actual = gradients(dataclasses.replace(COMPUTE, **settings))
    assert float(other_loss) == pytest.approx(float(loss), rel=1e-5)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.max(jnp.abs(b))) + 1e-7)
