"""One optimizer step, on the `pico` preset in float32: what it is equal to, what it computes, and what it leaves alone.

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
from flax import nnx, traverse_util
from jax.extend import core

from colar_jax.config import LatentConfig, ModelConfig, OptimizerConfig, StageConfig
from colar_jax.data.layout import Layout, Sizes, lay_out
from colar_jax.data.loader import Recipe
from colar_jax.data.packing import Batch, RowShape, fill, pack
from colar_jax.methods import METHODS
from colar_jax.methods.colar import objective_with_noise
from colar_jax.methods.method import count
from colar_jax.methods.method import embed as method_embed
from colar_jax.metrics import divide
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import build
from colar_jax.parallel.mesh import make_mesh, put_rows, replicate
from colar_jax.training.state import initial_state, join, learning_rate_schedule, make_optimizer, partition
from colar_jax.training.step import make_train_step

PROJECT = Path(__file__).parents[2]
VOCABULARY, HIDDEN, SEPARATOR = 101, 32, 9
EMBED_STD = np.float32(0.3)  # far from what an embedding has: a forgotten scale shows
SHAPE, ROWS = RowShape(positions=60, tokens=80, supervised=40), 8
SPEEDS = (1, 2, 1.5, 5)

PLAIN = LatentConfig()
ALL_TERMS = LatentConfig(weight=0.7, entropy_weight=-0.05, predicted_pass_weight=0.5)
NLL = LatentConfig(loss="nll", weight=0.7)
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, clip_norm=0.5, weight_decay=0.1)
COMPUTE = ModelConfig()
count_of = jax.jit(count)


@functools.cache
def model(*, deterministic: bool = False):
    """Graph and parameters, larger than initial ones, so that attention and the latent head look at what they are given."""
    llama = dataclasses.replace(PRESETS["pico"], vocab_size=VOCABULARY)
    graph, parameters = build(llama, LatentHeadConfig(24, deterministic=deterministic), seed=0)
    rng = np.random.default_rng(0)

    def larger(path, leaf):
        kind, noise = path[-1], rng.normal(size=leaf.shape)
        if kind == "embed_std":
            return EMBED_STD
        fan_in = leaf.shape[-2] if kind == "kernel" else HIDDEN
        if "log_std" in path:
            fan_in *= 100  # a log std within its bounds
        shift = 1.0 if kind in ("scale", "norm_scale") else 0.0
        return (shift + noise / np.sqrt(fan_in)).astype(np.float32)

    flat = traverse_util.flatten_dict(parameters)
    return graph, traverse_util.unflatten_dict({path: larger(path, leaf) for path, leaf in sorted(flat.items())})


def parts(method="colar"):
    return partition(model()[1], trains_latent_head=METHODS[method].trains_latent_head)


def example(number: int, *, speed=None, **switches) -> Layout:
    rng = np.random.default_rng((7, number))
    lengths = rng.integers((3, 2, 2), (8, 13, 5))
    prompt, steps, answer = (rng.integers(10, VOCABULARY, n).astype(np.int32) for n in lengths)
    speed = SPEEDS[number % len(SPEEDS)] if speed is None else speed
    switches = {"supervise_latents": True} | switches
    return lay_out(prompt, steps, answer, SEPARATOR, speed, rng.random(len(steps)), **switches)


def noise_of(number: int, layout: Layout) -> np.ndarray:
    return np.random.default_rng((8, number)).normal(size=(len(layout.label_ids_M), HIDDEN)).astype(np.float32)


EXAMPLES = tuple(example(number) for number in range(ROWS))
ALONE = [[number] for number in range(ROWS)]


def packed_rows() -> list[list[int]]:
    kinds = ("tokens_in_position_S", "token_ids_T", "label_ids_M")
    sizes = Sizes(*(np.array([len(getattr(layout, kind)) for layout in EXAMPLES]) for kind in kinds))
    rows = pack(sizes, SHAPE)
    assert len(rows) <= 4 and sorted(sum(rows, [])) == list(range(ROWS))
    return rows


def batch_of(rows: list[list[int]], layouts=EXAMPLES, **options) -> tuple[Batch, np.ndarray]:
    """A batch of always as many rows, and each example's own noise; where there is no example it is large."""
    rows = rows + [[]] * (ROWS - len(rows))
    batch = fill([[layouts[number] for number in row] for row in rows], SHAPE, **options)
    noise_BMD = np.full((ROWS, SHAPE.supervised, HIDDEN), 100, np.float32)
    for of_row, row in zip(noise_BMD, rows, strict=True):
        drawn = [noise_of(number, layouts[number]) for number in row]
        if drawn:
            of_row[: sum(map(len, drawn))] = np.concatenate(drawn)
    return batch, noise_BMD


@functools.cache
def objective(latent=PLAIN, compute=COMPUTE, deterministic=False):
    """(trainable, batch, noise, counts) -> ((loss, metrics), gradients), compiled."""
    return jax.jit(jax.value_and_grad(_loss(latent, compute, deterministic), has_aux=True))


def _loss(latent, compute, deterministic=False):
    graph, parameters = model(deterministic=deterministic)
    _, frozen = partition(parameters, trains_latent_head=True)
    stage = StageConfig(method="colar", latent=latent)

    def loss(trainable, batch, noise_BMD, counts):
        return objective_with_noise(nnx.merge(graph, join(trainable, frozen)), batch, noise_BMD, counts, stage, compute)

    return loss


def evaluated(rows, *, latent=PLAIN, compute=COMPUTE, counts=None, layouts=EXAMPLES, **options):
    """Loss, metrics and gradients of a batch of these examples."""
    batch, noise_BMD = batch_of(rows, layouts, **options)
    counts = count_of(batch) if counts is None else counts
    (loss, metrics), gradients = objective(latent, compute)(parts()[0], batch, noise_BMD, counts)
    return loss, metrics, gradients


def assert_close(actual, expected, tolerance=1e-5):
    """Trees of arrays: leaf by leaf, relative to the largest number of the leaf."""
    chex.assert_trees_all_equal_structs(actual, expected)
    flat = traverse_util.flatten_dict({"": expected} if not isinstance(expected, dict) else expected)
    ours = traverse_util.flatten_dict({"": actual} if not isinstance(actual, dict) else actual)
    for path, leaf in flat.items():
        leaf = np.asarray(leaf, np.float64)
        error = np.max(np.abs(ours[path] - leaf))
        assert error <= tolerance * np.max(np.abs(leaf)), (path, error, np.max(np.abs(leaf)))


# The objective is equal to


@pytest.mark.parametrize("latent", [ALL_TERMS, NLL], ids=["all terms", "nll"])
def test_packed_is_unpacked(latent):
    loss, metrics, gradients = evaluated(packed_rows(), latent=latent)
    expected, expected_metrics, expected_gradients = evaluated(ALONE, latent=latent)
    assert_close(loss, expected)
    assert divide(metrics) == pytest.approx(divide(expected_metrics), rel=1e-5)
    assert_close(gradients, expected_gradients)


def test_a_mix_of_speeds_is_each_alone_weighted_by_counts():
    """The published code has one speed for a whole batch; here a mean is over labels and latents, whatever their speed."""
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
    terms = means["cross_entropy"], 0.7 * means["latent_loss"], -0.05 * means["latent_entropy"], 0.5 * means["predicted_pass"]
    assert_close(loss, sum(terms))
    assert_close(total, loss)
    assert_close(sum_of_gradients, gradients)


@pytest.mark.parametrize(
    "compute",
    [ModelConfig(scan_layers=False), ModelConfig(remat="dots"), ModelConfig(remat="full"), ModelConfig(logits_chunk=48)],
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
    is_jaxpr = functools.partial(lambda kinds, x: isinstance(x, kinds), (core.Jaxpr, core.ClosedJaxpr))
    for equation in jaxpr.eqns:
        for value in filter(is_jaxpr, jax.tree.leaves(list(equation.params.values()), is_leaf=is_jaxpr)):
            yield from inner_jaxprs(value.jaxpr if isinstance(value, core.ClosedJaxpr) else value)


@pytest.mark.parametrize("chunk", [48, 8192])
def test_logits_exist_a_chunk_at_a_time(chunk):
    batch, noise_BMD = batch_of(packed_rows())
    step = jax.value_and_grad(_loss(ALL_TERMS, ModelConfig(logits_chunk=chunk)), has_aux=True)
    jaxpr = jax.make_jaxpr(step)(parts()[0], batch, noise_BMD, count_of(batch)).jaxpr
    shapes = {v.aval.shape for inner in inner_jaxprs(jaxpr) for equation in inner.eqns for v in equation.outvars}
    logits = {shape for shape in shapes if VOCABULARY in shape and shape not in ((VOCABULARY, HIDDEN), (HIDDEN, VOCABULARY))}
    largest = max(int(np.prod(shape)) for shape in logits)
    assert largest == min(chunk, ROWS * SHAPE.supervised) * VOCABULARY, logits


# Who sees whom


def test_nothing_leaks_backwards_or_between_segments():
    """The gradient of a position's hidden state by every input: exactly 0 but for what stands before it in its example."""
    batch, _ = batch_of(packed_rows())
    graph, parameters = model()
    row = slice(0, 1)
    weights_D = np.random.default_rng(1).normal(size=HIDDEN).astype(np.float32)
    embeds_BSD = np.random.default_rng(2).normal(size=(1, SHAPE.positions, HIDDEN)).astype(np.float32)

    def read_out(embeds_BSD):
        llama = nnx.merge(graph, parameters).llama
        return llama.forward(embeds_BSD, batch.position_ids_BS[row], batch.segment_ids_BS[row])[0] @ weights_D

    gradient_SSD = jax.jit(jax.jacrev(read_out))(embeds_BSD)[:, 0]
    segments_S = batch.segment_ids_BS[0]
    is_real_S = segments_S > 0
    assert segments_S.max() >= 2 and not is_real_S.all()
    is_before_SS = (segments_S[:, None] == segments_S) & np.tri(SHAPE.positions, dtype=bool)
    np.testing.assert_array_equal(np.any(gradient_SSD != 0, axis=-1)[is_real_S], is_before_SS[is_real_S])


def test_answers_do_not_leak_into_questions():
    """Another answer changes what is asked for after the reasoning, and no hidden state before it: not the latent loss."""
    layout = EXAMPLES[0]
    closing = len(layout.tokens_in_position_S) - np.flatnonzero(layout.label_ids_M[::-1] == SEPARATOR)[0]
    in_answer_T = layout.token_positions_T > closing
    assert in_answer_T.any()
    other = dataclasses.replace(layout, token_ids_T=np.where(in_answer_T, layout.token_ids_T + 1, layout.token_ids_T))
    _, metrics, _ = evaluated([[0]], layouts=(layout,))
    _, other_metrics, _ = evaluated([[0]], layouts=(other,))
    assert metrics["latent_loss"].sum == other_metrics["latent_loss"].sum
    assert metrics["cross_entropy"].sum != other_metrics["cross_entropy"].sum


# What the objective supervises


def test_ablation_oc_takes_the_steps_out_of_the_cross_entropy_alone():
    oc = tuple(example(number, supervise_steps=False) for number in range(ROWS))
    _, plain, _ = evaluated(ALONE, latent=ALL_TERMS)
    _, without, _ = evaluated(ALONE, latent=ALL_TERMS, layouts=oc)
    num_drawn = sum(int(layout.latent_mask_M.sum()) - 1 for layout in EXAMPLES)
    assert without["cross_entropy"].count == plain["cross_entropy"].count - num_drawn
    assert without["cross_entropy"].sum < plain["cross_entropy"].sum
    for name in ("latent_loss", "latent_entropy", "predicted_pass"):
        assert without[name].sum == plain[name].sum and without[name].count == plain[name].count


def test_ablation_mp_feeds_the_mean_of_a_group():
    """Instead of the sum over sqrt(n), which keeps the variance of an embedding (METHOD.md section 1)."""
    graph, parameters = model()
    ids, groups = EXAMPLES[3].token_ids_T, EXAMPLES[3].token_positions_T
    for pooling, power in (("sqrt", 0.5), ("mean", 1.0)):
        batch, _ = batch_of([[3]], pooling=pooling)
        embeds_BSD = method_embed(nnx.merge(graph, parameters), batch, ModelConfig())
        for position, count_of in enumerate(EXAMPLES[3].tokens_in_position_S):
            total = parameters["llama"]["embedding"][ids[groups == position]].sum(axis=0)
            np.testing.assert_allclose(embeds_BSD[0, position], total / count_of**power, rtol=1e-5, atol=1e-6)
        assert not embeds_BSD[0, position + 1 :].any() and not embeds_BSD[1:].any()
    assert EXAMPLES[3].tokens_in_position_S.max() == 5
    assert evaluated([[3]], pooling="mean")[0] != evaluated([[3]])[0]


def test_ablation_dl_has_no_standard_deviation():
    batch, noise_BMD = batch_of(packed_rows())

    def run(noise_BMD, **how):
        return objective(**how)(parts()[0], batch, noise_BMD, count_of(batch))

    (loss, metrics), gradients = run(noise_BMD, deterministic=True)
    assert loss == run(0 * noise_BMD, deterministic=True)[0][0]
    assert not gradients["latent_head"]["log_std"]["kernel"].any()
    assert metrics.keys() == {"cross_entropy", "label_accuracy", "latent_loss"}
    with_std = run(0 * noise_BMD)[0][1]
    assert_close(metrics["latent_loss"].sum, with_std["latent_loss"].sum)  # what it predicts is the mean


def test_switches_of_a_stage_reach_its_recipe():
    latent = LatentConfig(speeds="2,1.5", auto_probability=0.1, supervise_steps=False, pooling="mean")
    recipe = METHODS["colar"].recipe(StageConfig(latent=latent))
    expected = Recipe((2.0, 1.5), 0.1, supervise_latents=True, supervise_steps=False, pooling="mean")
    assert recipe == expected


def test_a_negative_entropy_weight_rewards_entropy():
    """weight * entropy is added, a mean over dimensions and latents: weight / D in the gradient of each log std's bias."""
    rewarding = dataclasses.replace(PLAIN, entropy_weight=-0.5)
    without, _, gradients = evaluated(packed_rows())
    loss, metrics, rewarded_gradients = evaluated(packed_rows(), latent=rewarding)
    assert_close(loss, without - 0.5 * divide(metrics)["latent_entropy"])
    slope_D = rewarded_gradients["latent_head"]["log_std"]["bias"] - gradients["latent_head"]["log_std"]["bias"]
    np.testing.assert_allclose(slope_D, -0.5 / HIDDEN, rtol=1e-4)


@jax.jit
def run_heads(embeds_SD, segments_S):
    """Both heads at every position of one row."""
    graph, parameters = model()
    reasoner = nnx.merge(graph, parameters)
    hidden_SD = reasoner.llama.forward(embeds_SD[None], np.arange(len(embeds_SD))[None], segments_S[None])[0]
    return reasoner.latent_head(hidden_SD), jax.nn.log_softmax(hidden_SD @ parameters["llama"]["embedding"].T)


def predicted_pass_by_hand(number: int) -> float:
    """The answer's cross-entropy of one example when every group is replaced by what the position before it predicts."""
    layout, embedding = EXAMPLES[number], model()[1]["llama"]["embedding"]
    num_positions = len(layout.tokens_in_position_S)
    first = num_positions - len(layout.label_ids_M)  # the question's last position, the first that is supervised
    opening = first + 1
    closing = opening + int(layout.latent_mask_M.sum())
    segments_S = (np.arange(SHAPE.positions) < num_positions).astype(np.int32)
    embeds_SD = np.zeros((SHAPE.positions, HIDDEN), np.float32)
    np.add.at(embeds_SD, layout.token_positions_T, embedding[layout.token_ids_T])
    embeds_SD[:num_positions] /= np.sqrt(layout.tokens_in_position_S)[:, None]

    predicted, _ = run_heads(embeds_SD, segments_S)
    for position in range(opening + 1, closing):  # every group, the first one too
        noise_D = noise_of(number, layout)[position - 1 - first]
        embeds_SD[position] = EMBED_STD * (predicted.mean[position - 1] + predicted.std[position - 1] * noise_D)
    _, log_probs_SV = run_heads(embeds_SD, segments_S)
    positions, answer_ids = np.arange(closing, num_positions), layout.label_ids_M[closing - first :]
    return -float(np.sum(np.asarray(log_probs_SV)[positions, answer_ids]))


@pytest.mark.parametrize("number", [0, 1, 2, 3], ids=lambda number: f"speed {SPEEDS[number]}")
def test_the_predicted_pass_by_hand(number):
    """Scaled by embed_std, not shifted, the first latent too, the answer alone (METHOD.md section 3)."""
    _, metrics, _ = evaluated([[number]], latent=ALL_TERMS)
    assert metrics["predicted_pass"].count == len(EXAMPLES[number].label_ids_M) - EXAMPLES[number].latent_mask_M.sum() - 1
    assert metrics["predicted_pass"].sum == pytest.approx(predicted_pass_by_hand(number), rel=1e-5)


def test_the_predicted_pass_of_packed_examples():
    _, metrics, _ = evaluated(packed_rows(), latent=ALL_TERMS)
    assert metrics["predicted_pass"].sum == pytest.approx(sum(map(predicted_pass_by_hand, range(ROWS))), rel=1e-5)


# A step


@functools.cache
def step_of(accumulation: int):
    stage = StageConfig(method="colar", rows=ROWS, accumulation=accumulation)
    return make_train_step(model()[0], METHODS["colar"], stage, COMPUTE, make_optimizer(OPTIMIZER, 100), make_mesh())


def take_step(batch=None, *, accumulation=1, step=0):
    """The new parameters and the metrics of one step."""
    batch = batch_of(packed_rows())[0] if batch is None else batch
    trainable, frozen = parts()
    state = dataclasses.replace(initial_state(trainable, make_optimizer(OPTIMIZER, 100)), step=jnp.int32(step))
    state, frozen = replicate((state, frozen), make_mesh())
    state, metrics = step_of(accumulation)(state, frozen, put_rows(batch, make_mesh()), jax.random.key(5))
    assert state.step == step + 1
    return state.trainable, divide(metrics)


def test_a_step_is_the_objectives_gradient_through_the_optimizer():
    trainable, _ = parts()
    batch, _ = batch_of(packed_rows())
    key = jax.random.fold_in(jax.random.key(5), 3)
    row_keys = [jax.random.fold_in(key, row) for row in range(ROWS)]
    noise_BMD = np.stack([jax.random.normal(row_key, (SHAPE.supervised, HIDDEN)) for row_key in row_keys])
    (loss, expected_metrics), gradients = objective()(trainable, batch, noise_BMD, count_of(batch))
    optimizer = make_optimizer(OPTIMIZER, 100)
    updates, _ = jax.jit(optimizer.update)(gradients, optimizer.init(trainable), trainable)

    updated, metrics = take_step(step=3)
    norm = np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(gradients)))
    assert norm > 2 * OPTIMIZER.clip_norm
    expected = divide(expected_metrics) | {"loss": float(loss), "gradient_norm": norm}
    assert metrics == pytest.approx(expected, rel=1e-5)
    assert_close(updated, jax.tree.map(np.add, trainable, updates))
    moved = jax.tree.map(lambda new, old: bool(np.any(new != old)), updated, trainable)
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("accumulation", [2, 4])
def test_microbatches_are_one_batch(accumulation):
    """Rows differ in how much they supervise (some are empty): a mean of the parts' means would be another number."""
    updated, metrics = take_step(accumulation=accumulation)
    expected, expected_metrics = take_step()
    assert metrics == pytest.approx(expected_metrics, rel=1e-5)
    assert_close(updated, expected)


def test_eight_devices_are_one(tmp_path):
    """A row each, some of them empty."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(PROJECT)}
    file = tmp_path / "step.npz"
    subprocess.run([sys.executable, __file__, str(file)], env=os.environ | flags, check=True)
    with np.load(file) as arrays:
        on_eight = dict(arrays)
    assert on_eight.pop("num_devices") == 8
    for name, expected in numbers_of_a_step().items():
        assert_close(on_eight.pop(name), expected)
    assert not on_eight


def numbers_of_a_step() -> dict[str, np.ndarray]:
    """Parameters and metrics after one step, by name."""
    trainable, metrics = take_step()
    return traverse_util.flatten_dict(jax.device_get(trainable), sep="/") | {k: np.float64(v) for k, v in metrics.items()}


def test_one_compilation_for_every_mix_of_speeds():
    method = METHODS["colar"]
    traced_once = dataclasses.replace(method, objective=chex.assert_max_traces(method.objective, n=1))
    optimizer, mesh = make_optimizer(OPTIMIZER, 100), make_mesh()
    step = make_train_step(model()[0], traced_once, StageConfig(method="colar", rows=ROWS), COMPUTE, optimizer, mesh)
    trainable, frozen = parts()
    state, frozen = replicate((initial_state(trainable, optimizer), frozen), mesh)
    losses = []
    for speeds in ([1], [5], [2, 1.5], [1, 2, 1.5, 5, 3.5]):
        layouts = tuple(example(number, speed=speeds[number % len(speeds)]) for number in range(ROWS))
        state, metrics = step(state, frozen, put_rows(batch_of(ALONE, layouts)[0], mesh), jax.random.key(0))
        losses.append(divide(metrics)["loss"])
    assert np.isfinite(losses).all() and len(set(losses)) == 4
    assert step._cache_size() == 1


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
        assert other["latent_loss"] != pytest.approx(metrics["latent_loss"], rel=1e-3)
        assert other["cross_entropy"] == pytest.approx(metrics["cross_entropy"], rel=1e-5)


def test_an_empty_batch_is_a_loss_of_zero():
    updated, metrics = take_step(fill([[]] * ROWS, SHAPE))
    assert metrics == {"loss": 0.0, "gradient_norm": 0.0}
    decayed = 1 - OPTIMIZER.learning_rate * OPTIMIZER.weight_decay
    assert_close(updated, jax.tree.map(lambda leaf: decayed * leaf, parts()[0]), tolerance=1e-6)


@pytest.mark.parametrize("method", ["cot", "no_cot"])
def test_words_train_the_language_model_alone(method):
    trainable, frozen = parts(method)
    assert trainable.keys() == {"llama"} and frozen.keys() == {"latent_head"}
    trainable, frozen = parts("colar")
    assert trainable.keys() == {"llama", "latent_head"} and frozen == {"latent_head": {"embed_std": EMBED_STD}}
    assert_close(join(trainable, frozen), model()[1], tolerance=0)


# The optimizer


def test_schedules_are_pinned():
    cosine = OptimizerConfig(learning_rate=0.8, warmup_steps=4, final_fraction=0.25)
    rate = learning_rate_schedule(cosine, num_steps=12)
    rates = [rate(step) for step in (0, 1, 3, 4, 6, 8, 12, 100)]
    at_a_quarter = 0.8 * (0.25 + 0.75 * (1 + np.cos(np.pi / 4)) / 2)
    np.testing.assert_allclose(rates, [0, 0.2, 0.6, 0.8, at_a_quarter, 0.5, 0.2, 0.2], rtol=1e-6)
    constant = learning_rate_schedule(dataclasses.replace(cosine, schedule="constant"), num_steps=12)
    np.testing.assert_allclose([constant(step) for step in (0, 2, 4, 12, 100)], [0, 0.4, 0.8, 0.8, 0.8], rtol=1e-6)
    at_once = learning_rate_schedule(OptimizerConfig(learning_rate=0.8), num_steps=4)
    np.testing.assert_allclose([at_once(step) for step in (0, 2, 4)], [0.8, 0.4, 0], atol=1e-7)


def test_clipping_then_adamw():
    """Three steps against the textbook, clipped by the norm over all parameters (the published code clips nothing)."""
    config = OptimizerConfig(
        learning_rate=0.1, weight_decay=0.2, b1=0.7, b2=0.9, clip_norm=1.0, schedule="constant", warmup_steps=2
    )
    optimizer = make_optimizer(config, num_steps=10)
    parameters = {"a": np.array([1.0, -2.0], np.float32), "b": np.array([[3.0]], np.float32)}
    gradients = [(np.array([3.0, 0.0]), 4.0), (np.array([0.3, 0.1]), 0.2), (np.array([0.0, -30.0]), 40.0)]
    state, flat = optimizer.init(parameters), np.array([1.0, -2.0, 3.0])
    mean, square = np.zeros(3), np.zeros(3)
    for step, (a, b) in enumerate(gradients, start=1):
        tree = {"a": a.astype(np.float32), "b": np.full((1, 1), b, np.float32)}
        updates, state = optimizer.update(tree, state, parameters)
        parameters = optax.apply_updates(parameters, updates)

        clipped = np.append(a, b) * min(1, 1 / np.linalg.norm(np.append(a, b)))
        mean = 0.7 * mean + 0.3 * clipped
        square = 0.9 * square + 0.1 * clipped**2
        direction = mean / (1 - 0.7**step) / (np.sqrt(square / (1 - 0.9**step)) + 1e-8)
        flat = flat - 0.1 * min((step - 1) / 2, 1) * (direction + 0.2 * flat)
        np.testing.assert_allclose(np.append(parameters["a"], parameters["b"]), flat, rtol=1e-5)


def test_weight_decay_is_that_of_adamw():
    """Decoupled, of every parameter: what optax itself does below the clipping norm."""
    config = dataclasses.replace(OPTIMIZER, weight_decay=0.3, clip_norm=1e9, schedule="constant")
    trainable, _ = parts()
    gradients = jax.tree.map(np.ones_like, trainable)
    ours, plain = make_optimizer(config, 10), optax.adamw(config.learning_rate, weight_decay=0.3)
    updates, _ = ours.update(gradients, ours.init(trainable), trainable)
    expected, _ = plain.update(gradients, plain.init(trainable), trainable)
    assert_close(updates, expected, tolerance=1e-6)
    without = make_optimizer(dataclasses.replace(config, weight_decay=0.0), 10)
    undecayed, _ = without.update(gradients, without.init(trainable), trainable)
    decay = jax.tree.map(lambda a, b: a - b, updates, undecayed)
    assert_close(decay, jax.tree.map(lambda p: -config.learning_rate * 0.3 * p, trainable), tolerance=1e-3)


if __name__ == "__main__":
    np.savez(sys.argv[1], num_devices=jax.device_count(), **numbers_of_a_step())
