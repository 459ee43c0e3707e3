"""CODI's distance, and where its gradients go."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import fast
from flax import nnx
from pico_thoughts import COMPUTE, PROJECTION_SIZE, model, problems

from colar_jax.methods.codi import Codi
from colar_jax.methods.thinking import thought_rows
from colar_jax.methods.thinking.hidden_distillation import distance, spread_of_batch, spread_of_example
from colar_jax.methods.thinking.thought_rows import ThoughtExample, ThoughtShape
from colar_jax.model.presets import PRESETS
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
    plain = distance(student, teacher)
    np.testing.assert_allclose(plain, smooth.mean(0), rtol=1e-5)
    is_real = np.array([[True, True, False, True], [True, False, False, False]])
    of_example = distance(student, teacher, spread_of_example(teacher, is_real, COMPUTE))
    np.testing.assert_allclose(of_example, (smooth / teacher.std(-1, ddof=1)).mean(0), rtol=1e-5)
    of_batch = distance(student, teacher, spread_of_batch(teacher, is_real, COMPUTE))
    spread_L = np.array([layer[is_real].std(ddof=1) for layer in teacher])
    np.testing.assert_allclose(of_batch, (smooth / spread_L[:, None, None]).mean(0), rtol=1e-5)
    gradient = jax.grad(lambda t: jnp.sum(distance(student, t, spread_of_batch(t, is_real, COMPUTE))))(teacher)
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


@pytest.mark.parametrize(
    ("part", "reaches"), fast([("teacher", False), ("student", True), ("distill", True)], ("teacher", False))
)
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


def metrics_of(method: Codi, batch):
    """What a batch comes to, without gradients."""
    graph, parameters = model()

    @jax.jit
    def program(batch):
        keys = jax.random.split(jax.random.key(0), len(batch.row_ids_B))
        own = nnx.merge(graph, jax.tree.map(jnp.asarray, parameters))
        return method.objective(own, batch, keys, method.count(batch), COMPUTE)[1]

    return {name: float(metric.sum / metric.count) for name, metric in program(batch).items()}


def test_a_teacher_that_knows_no_more_is_no_teacher():
    """Where both read the same, the question and `###` twice, their states are the same: there is nothing to distil."""
    question, answer = np.array([20, 21, 9], np.int32), np.array([9, 5, 6, 40, 8], np.int32)
    shape = ThoughtShape(trunk=12, supervised=8, tail=8, examples=1)

    def batch_of(teacher):
        example = ThoughtExample(question, np.append(teacher, answer), answer, before_answer=2, num_answer=4)
        return thought_rows.fill_thought_rows([[example]], shape)

    nothing, something = np.zeros(0, np.int32), np.array([30, 31], np.int32)
    assert metrics_of(CODI, batch_of(nothing))["distill_loss"] < 1e-9
    assert metrics_of(CODI, batch_of(something))["distill_loss"] > 0.01


def test_the_embedding_entry_adds_nothing_where_the_same_token_is_fed():
    """With rotary positions an embedding is that of the token alone, so of L + 1 entries L are left."""
    without, with_it = (
        metrics_of(Codi(projection_size=PROJECTION_SIZE, spread="example", distill_embedding=embedding), BATCH)
        for embedding in (False, True)
    )
    num_layers = PRESETS["pico"].num_layers
    assert with_it["distill_loss"] == pytest.approx(without["distill_loss"] * num_layers / (num_layers + 1), rel=1e-5)


def test_the_teacher_has_no_last_step():
    encoded = problems(12)
    chains = {}
    for last_step in (True, False):
        loader = Codi(teacher_last_step=last_step).make_loader(encoded, seed=0, rows=1, row_positions=900)
        batch, (order,) = loader.batch(0), loader._plan(0)[0]
        for slot, example in enumerate(order[order >= 0]):
            ids = batch.trunk_ids_BP[0][batch.trunk_segments_BP[0] == slot + 1][batch.question_lengths_BE[0, slot] :]
            chains[last_step, int(example)] = ids[: len(ids) - len(encoded.answers[example])].tolist()
    starts = [starts[-1] for starts in encoded.step_starts]
    assert any(start == 0 for start in starts) and any(start > 0 for start in starts)  # one step is none then
    for example, start in enumerate(starts):
        assert chains[True, example] == encoded.steps[example].tolist()
        assert chains[False, example] == encoded.steps[example][:start].tolist()


def test_rows_do_not_know_each_other():
    """The mean over a batch is that over its rows, weighted by what they supervise: nothing leaks between examples.

    But for the spread over a batch, which is the batch's.
    """
    graph, parameters = model()
    method = dataclasses.replace(CODI, spread="example")

    @jax.jit
    def metrics_of(part):
        keys = jax.random.split(jax.random.key(0), len(part.row_ids_B))
        own = nnx.merge(graph, jax.tree.map(jnp.asarray, parameters))
        return method.objective(own, part, keys, method.count(part), COMPUTE)[1]

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
