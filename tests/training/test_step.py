"""One optimizer step: what it is equal to, what it computes, and who sees whom in it.

As a script (`python test_step.py step.npz`) it writes the numbers of one step on all devices that there are.
"""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import fast
from flax import nnx, traverse_util
from jax.extend import core
from pico_model import (
    ALL_TERMS,
    ALONE,
    EXAMPLES,
    HIDDEN,
    NLL,
    ROWS,
    SEPARATOR,
    SHAPE,
    UNEVEN,
    VOCABULARY,
    assert_close,
    batch_of,
    count_of,
    evaluated,
    example,
    loss_of,
    model,
    objective,
    packed_rows,
    parts,
)

from colar_jax.config import OptimizerConfig, StageConfig
from colar_jax.data.packing import fill
from colar_jax.engine import Engine
from colar_jax.methods.colar import Colar
from colar_jax.metrics import divide
from colar_jax.model.execution import Execution
from colar_jax.model.visibility import packed
from colar_jax.parallel.mesh import make_mesh, put_rows, replicate
from colar_jax.training.optimizer import make_optimizer
from colar_jax.training.state import initial_state
from colar_jax.training.step import make_train_step

TESTS = Path(__file__).parents[1]
OPTIMIZER = OptimizerConfig(learning_rate=1e-4, clip_norm=0.5, weight_decay=0.1)


# The objective is equal to


@pytest.mark.parametrize("latent", [ALL_TERMS, NLL], ids=["all terms", "nll"])
def test_packed_is_unpacked(latent):
    loss, metrics, gradients = evaluated(packed_rows(), latent=latent)
    expected, expected_metrics, expected_gradients = evaluated(ALONE, latent=latent)
    assert_close(loss, expected)
    assert divide(metrics) == pytest.approx(divide(expected_metrics), rel=1e-5)
    assert_close(gradients, expected_gradients)


def test_a_mix_of_speeds_is_each_alone_weighted_by_counts():
    """As published a whole batch has one speed; here a mean is over labels and latents, whatever their speed."""
    loss, metrics, gradients = evaluated(ALONE, latent=ALL_TERMS)
    whole = count_of(batch_of(ALONE)[0])
    total, sum_of_gradients, sums = 0.0, jax.tree.map(np.zeros_like, gradients), {}
    for number in range(ROWS):
        _, of_one, _ = evaluated([[number]], latent=ALL_TERMS)
        for name, metric in of_one.items():
            mean, weight = metric.sum / metric.count, metric.count
            sums[name] = np.add(sums.get(name, (0, 0)), (mean * weight, weight))
        part, _, part_gradients = evaluated([[number]], latent=ALL_TERMS, counts=whole)
        total += part
        sum_of_gradients = jax.tree.map(np.add, sum_of_gradients, part_gradients)
    assert divide(metrics) == pytest.approx({name: value / weight for name, (value, weight) in sums.items()}, rel=1e-5)
    means = divide(metrics)
    terms = (
        means["cross_entropy"],
        0.7 * means["latent_loss"],
        -0.05 * means["latent_entropy"],
        0.5 * means["predicted_pass"],
    )
    assert_close(loss, sum(terms))
    assert_close(total, loss)
    assert_close(sum_of_gradients, gradients)


@pytest.mark.parametrize(
    "compute",
    [
        Execution(scan_layers=False),
        Execution(remat="dots"),
        Execution(remat="full"),
        Execution(logits_chunk=48),
    ],
    ids=["loop", "dots", "full", "chunked"],
)
def test_how_it_is_computed_does_not_matter(compute):
    """Layers in a loop, activations computed again, logits in chunks: loss and gradients of the plain computation."""
    loss, metrics, gradients = evaluated(packed_rows(), compute=compute)
    expected, expected_metrics, expected_gradients = evaluated(packed_rows())
    assert_close(loss, expected)
    assert divide(metrics) == pytest.approx(divide(expected_metrics), rel=1e-5)
    assert_close(gradients, expected_gradients)


def inner_jaxprs(jaxpr):
    yield jaxpr
    kinds = (core.Jaxpr, core.ClosedJaxpr)
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: isinstance(x, kinds)):
            if isinstance(value, kinds):
                yield from inner_jaxprs(value.jaxpr if isinstance(value, core.ClosedJaxpr) else value)


@pytest.mark.parametrize("chunk", [48, 8192])
def test_logits_exist_a_chunk_at_a_time(chunk):
    batch, noise_BMD = batch_of(packed_rows())
    step = jax.value_and_grad(loss_of(ALL_TERMS, Execution(logits_chunk=chunk)), has_aux=True)
    jaxpr = jax.make_jaxpr(step)(parts()[0], batch, noise_BMD, count_of(batch)).jaxpr
    shapes = {v.aval.shape for inner in inner_jaxprs(jaxpr) for equation in inner.eqns for v in equation.outvars}
    logits = {
        shape for shape in shapes if VOCABULARY in shape and shape not in ((VOCABULARY, HIDDEN), (HIDDEN, VOCABULARY))
    }
    largest = max(int(np.prod(shape)) for shape in logits)
    assert largest == min(chunk, ROWS * SHAPE.supervised) * VOCABULARY, logits


# Who sees whom


def test_nothing_leaks_backwards_or_between_segments():
    """The gradient of a hidden state by each input: exactly 0 but for what stands before it in its example."""
    batch, _ = batch_of(packed_rows())
    graph, parameters = model()
    row = slice(0, 1)
    weights_D = np.random.default_rng(1).normal(size=HIDDEN).astype(np.float32)
    embeds_BSD = np.random.default_rng(2).normal(size=(1, SHAPE.positions, HIDDEN)).astype(np.float32)

    def read_out(embeds_BSD):
        llama = nnx.merge(graph, parameters).llama
        sees = packed(batch.segment_ids_BS[row], Execution())
        return llama.run(embeds_BSD, batch.position_ids_BS[row], sees, Execution())[0][0] @ weights_D

    gradient_SSD = jax.jit(jax.jacrev(read_out))(embeds_BSD)[:, 0]
    segments_S = batch.segment_ids_BS[0]
    is_real_S = segments_S > 0
    assert segments_S.max() >= 2 and not is_real_S.all()
    is_before_SS = (segments_S[:, None] == segments_S) & np.tri(SHAPE.positions, dtype=bool)
    np.testing.assert_array_equal(np.any(gradient_SSD != 0, axis=-1)[is_real_S], is_before_SS[is_real_S])


def test_answers_do_not_leak_into_questions():
    """Another answer is another loss after the reasoning, and changes nothing that a latent is predicted from."""
    layout = EXAMPLES[0]
    closing = len(layout.tokens_in_position_S) - np.flatnonzero(layout.label_ids_M[::-1] == SEPARATOR)[0]
    in_answer_T = layout.token_positions_T > closing
    assert in_answer_T.any()
    other = dataclasses.replace(layout, token_ids_T=np.where(in_answer_T, layout.token_ids_T + 1, layout.token_ids_T))
    _, metrics, _ = evaluated([[0]], layouts=(layout,))
    _, other_metrics, _ = evaluated([[0]], layouts=(other,))
    assert metrics["latent_loss"].sum == other_metrics["latent_loss"].sum
    assert metrics["cross_entropy"].sum != other_metrics["cross_entropy"].sum


# A step


class TracedOnce(Colar):
    objective = chex.assert_max_traces(Colar.objective, n=1)


@functools.cache
def step_of(accumulation: int):
    """The step; without microbatches it may be traced once, for all tests together."""
    method = TracedOnce() if accumulation == 1 else Colar()
    stage = StageConfig(method="colar", rows=ROWS, accumulation=accumulation)
    return make_train_step(Engine(model()[0], make_mesh()), method, stage, make_optimizer(OPTIMIZER, 100))


def take_step(batch=None, *, accumulation=1, step=0):
    """The state after one step, and the step's metrics."""
    batch = batch_of(UNEVEN)[0] if batch is None else batch
    trainable, frozen = parts()
    state = dataclasses.replace(initial_state(trainable, make_optimizer(OPTIMIZER, 100)), step=jnp.int32(step))
    state, frozen = replicate((state, frozen), make_mesh())
    state, metrics = step_of(accumulation)(state, frozen, put_rows(batch, make_mesh()), jax.random.key(5))
    assert state.step == step + 1
    return state, divide(metrics)


def moments_of(state):
    """AdamW's first moment: a tenth of the clipped gradient after one step, whose update is little but its sign."""
    return optax.tree.get(state.optimizer, "mu")


def test_a_step_is_the_objectives_gradient_through_the_optimizer():
    trainable, _ = parts()
    batch, _ = batch_of(UNEVEN)
    key = jax.random.fold_in(jax.random.key(5), 3)
    row_keys = [jax.random.fold_in(key, row) for row in range(ROWS)]
    noise_BMD = np.stack([jax.random.normal(row_key, (SHAPE.supervised, HIDDEN)) for row_key in row_keys])
    (loss, expected_metrics), gradients = objective()(trainable, batch, noise_BMD, count_of(batch))
    optimizer = make_optimizer(OPTIMIZER, 100)
    updates, _ = jax.jit(optimizer.update)(gradients, optimizer.init(trainable), trainable)

    state, metrics = take_step(step=3)
    norm = np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(gradients)))
    assert norm > 2 * OPTIMIZER.clip_norm
    expected = divide(expected_metrics) | {"loss": float(loss), "gradient_norm": norm}
    assert metrics == pytest.approx(expected, rel=1e-5)
    clipped = OPTIMIZER.clip_norm / norm
    assert_close(moments_of(state), jax.tree.map(lambda g: 0.1 * clipped * g, gradients))
    assert_close(state.trainable, jax.tree.map(np.add, trainable, updates))
    moved = jax.tree.map(lambda new, old: bool(np.any(new != old)), state.trainable, trainable)
    assert all(jax.tree.leaves(moved))


def test_products_in_bfloat16_are_nearly_those_in_float32():
    def gradients(precision):
        stage = StageConfig(method="colar", rows=ROWS, matmul_precision=precision)
        step = make_train_step(Engine(model()[0], make_mesh()), Colar(), stage, make_optimizer(OPTIMIZER, 100))
        state, frozen = replicate((initial_state(parts()[0], make_optimizer(OPTIMIZER, 100)), parts()[1]), make_mesh())
        state, _ = step(state, frozen, put_rows(batch_of(UNEVEN)[0], make_mesh()), jax.random.key(5))
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(moments_of(state))])

    exact, rounded = gradients("default"), gradients("bfloat16")
    assert 1e-4 < np.linalg.norm(rounded - exact) / np.linalg.norm(exact) < 0.02
    # A CPU has one precision for the rest.
    np.testing.assert_array_equal(gradients("float32"), exact)


@pytest.mark.parametrize("accumulation", fast([2, 4], 4))
def test_microbatches_are_one_batch(accumulation):
    """They differ in how much they supervise (one is empty): a mean of their means would be another number."""
    state, metrics = take_step(accumulation=accumulation)
    expected, expected_metrics = take_step()
    assert metrics == pytest.approx(expected_metrics, rel=1e-5)
    assert_close(moments_of(state), moments_of(expected))
    assert_close(state.trainable, expected.trainable)


@pytest.mark.slow
def test_eight_devices_are_one(tmp_path):
    """A row each, of two examples or one or none: a mean of the devices' means would be another number."""
    flags = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}",
    }
    file = tmp_path / "step.npz"
    subprocess.run([sys.executable, __file__, str(file)], env=os.environ | flags, check=True)
    with np.load(file) as arrays:
        on_eight = dict(arrays)
    assert on_eight.pop("num_devices") == 8
    for name, expected in numbers_of_a_step().items():
        assert_close(on_eight.pop(name), expected)
    assert not on_eight


def numbers_of_a_step() -> dict[str, np.ndarray]:
    """Parameters, moments and metrics after one step, by name."""
    state, metrics = take_step()
    trees = {"parameters": state.trainable, "moments": moments_of(state), "metrics": metrics}
    return traverse_util.flatten_dict(jax.device_get(trees), sep="/")


def test_one_compilation_for_every_mix_of_speeds():
    losses = []
    for speeds in ([1], [5], [2, 1.5], [1, 2, 1.5, 5, 3.5]):
        layouts = tuple(example(number, speed=speeds[number % len(speeds)]) for number in range(ROWS))
        losses.append(take_step(batch_of(ALONE, layouts)[0])[1]["loss"])
    assert np.isfinite(losses).all() and len(set(losses)) == 4
    assert step_of(1)._cache_size() == 1


def test_a_step_follows_a_step_without_another_compilation():
    """What a step returns is placed as it wants it."""
    state, _ = take_step()
    frozen = replicate(parts()[1], make_mesh())
    state, _ = step_of(1)(state, frozen, put_rows(batch_of(ALONE)[0], make_mesh()), jax.random.key(5))
    assert (state.step, step_of(1)._cache_size()) == (2, 1)


def test_noise_belongs_to_the_step_and_to_the_row():
    """So that a resumed run draws what the whole run drew, and 8 devices what 1 does."""
    batch = batch_of(packed_rows())[0]
    _, metrics = take_step(batch)
    _, again = take_step(batch)
    assert metrics == again
    turned = jax.tree.map(lambda leaf: np.roll(leaf, 1, axis=0), batch)
    _, of_turned = take_step(turned)
    assert of_turned["latent_loss"] == pytest.approx(metrics["latent_loss"], rel=1e-5)
    _, renumbered = take_step(dataclasses.replace(turned, row_ids_B=batch.row_ids_B))
    _, later = take_step(batch, step=1)
    for other in (renumbered, later):
        assert other["latent_loss"] != pytest.approx(metrics["latent_loss"], rel=1e-4)
        assert other["cross_entropy"] == pytest.approx(metrics["cross_entropy"], rel=1e-5)


def test_an_empty_batch_is_a_loss_of_zero():
    state, metrics = take_step(fill([[]] * ROWS, SHAPE))
    assert metrics == {"loss": 0.0, "gradient_norm": 0.0}
    decayed = 1 - OPTIMIZER.learning_rate * OPTIMIZER.weight_decay
    assert_close(state.trainable, jax.tree.map(lambda leaf: decayed * leaf, parts()[0]), tolerance=1e-6)


if __name__ == "__main__":
    np.savez(sys.argv[1], num_devices=jax.device_count(), **numbers_of_a_step())
