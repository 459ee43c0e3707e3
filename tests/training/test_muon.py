"""Muon: which parameters it moves, how far, and that AdamW moves the rest as it always does."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from flax import traverse_util
from parallel.meshes import model as model_of
from pico_model import assert_close, model, parts

from colar_jax.config import OptimizerConfig, defaults, resolve, stage_defaults
from colar_jax.methods import METHODS
from colar_jax.model.lora import LoraConfig
from colar_jax.model.presets import PRESETS
from colar_jax.parallel.sharding import logical_axes
from colar_jax.runs.run_model import abstract_model, state_bytes
from colar_jax.training.optimizer import ADAMW_RMS, learning_rate_schedule, make_optimizer, matrix_axes, without_moments
from colar_jax.training.state import initial_state

MUON = OptimizerConfig(name="muon", learning_rate=0.1, weight_decay=0.0, clip_norm=1e9, schedule="constant")
LORA = LoraConfig(rank=4, alpha=8.0, targets=("query", "down"))


def axes_of(**options):
    return logical_axes(*model(**options))


def gradients_of(parameters, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), parameters)


def moved(config: OptimizerConfig, parameters, *gradients, axes=None):
    """The last of some updates, and the state after them."""
    optimizer = make_optimizer(config, 10, axes_of() if axes is None else axes)
    update = jax.jit(optimizer.update)
    state = optimizer.init(parameters)
    for each in gradients:
        updates, state = update(each, state, parameters)
    return updates, state


def matrices(axes) -> set[str]:
    return {"/".join(path) for path, names in axes.items() if matrix_axes(names)}


def test_matrices_are_those_of_layers_and_heads():
    projections = {f"llama/blocks/{name}/kernel" for name in ("query", "key", "value", "out", "gate", "up", "down")}
    heads = {f"latent_head/{name}/kernel" for name in ("first", "second", "mean", "log_std")}
    assert matrices(axes_of()) == projections | heads
    factors = {f"llama/blocks/{name}/adapter/{factor}" for name in LORA.targets for factor in "ab"}
    assert matrices(axes_of(lora=LORA)) == projections | heads | factors


@pytest.mark.parametrize("method", sorted(METHODS))
def test_no_vector_and_no_table_is_taken_for_a_matrix(method):
    """Of every method's model: stacked vectors have two axes as well, and an untied language head has rows of words."""
    graph, parameters = model_of(False, method)
    flat = traverse_util.flatten_dict(parameters)
    vectors = ("bias", "scale", "norm_scale", "norm_bias", "second_bias", "auto", "embed_std")
    tables = ("embedding", "head", "rows")  # the last of a stop's choice
    for path, names in logical_axes(graph, parameters).items():
        axes = matrix_axes(names)
        is_matrix = path[-1] in ("kernel", "a", "b", "second_kernel") and names[-1] != "choice_out"
        assert is_matrix == (axes is not None), path
        assert is_matrix or path[-1] in (*vectors, *tables, "second_kernel"), path
        if is_matrix:
            assert {*axes} == {flat[path].ndim - 2, flat[path].ndim - 1}, path


def test_a_matrix_takes_an_orthogonal_step_as_large_as_adamws():
    """Each of the stacked layers for itself: its singular values are alike, whatever those of its gradient are."""
    trainable, _ = parts("colar")
    kernel = trainable["llama"]["blocks"]["gate"]["kernel"]
    gradients = gradients_of(trainable)
    gradients["llama"]["blocks"]["gate"]["kernel"] *= np.array([1e-3, 10.0], np.float32)[:, None, None]
    updates, _ = moved(MUON, trainable, gradients)
    assert len(kernel) == 2
    for update, gradient in zip(
        *(tree["llama"]["blocks"]["gate"]["kernel"] for tree in (updates, gradients)), strict=True
    ):
        values = np.linalg.svd(np.asarray(update), compute_uv=False) / (ADAMW_RMS * max(update.shape) ** 0.5 * 0.1)
        assert values.min() > 0.6 and values.max() < 1.3
        left, _, right = np.linalg.svd(gradient, full_matrices=False)
        towards = -np.sum(np.asarray(update) * (left @ right)) / np.linalg.norm(update) / np.linalg.norm(left @ right)
        assert towards > 0.97


def test_the_average_of_gradients_forgets_as_momentum_says():
    """Nesterov's: at the second step the gradient of now counts once more than its average has it."""
    trainable, _ = parts("colar")
    first, second = gradients_of(trainable, 1), gradients_of(trainable, 2)
    _, state = moved(dataclasses.replace(MUON, momentum=0.6), trainable, first, second)
    averages = traverse_util.flatten_dict(muon_state(state).mu)
    path = ("latent_head", "second", "kernel")
    expected = 0.6 * 0.4 * first["latent_head"]["second"]["kernel"] + 0.4 * second["latent_head"]["second"]["kernel"]
    np.testing.assert_allclose(averages[path], expected, rtol=1e-5, atol=1e-6)


def muon_state(state) -> optax.contrib.MuonState:
    leaves = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, optax.contrib.MuonState))
    (found,) = [leaf for leaf in leaves if isinstance(leaf, optax.contrib.MuonState)]
    return found


@pytest.mark.parametrize("clip_norm", [0.5, 1e9])
def test_all_else_is_moved_by_adamw(clip_norm):
    """Bit for bit, two steps in a row: embedding, norms and biases do not know what moves the matrices."""
    config = dataclasses.replace(MUON, weight_decay=0.3, clip_norm=clip_norm)
    trainable, _ = parts("colar")
    gradients = gradients_of(trainable, 1), gradients_of(trainable, 2)
    ours, plain = (
        moved(dataclasses.replace(config, name=name), trainable, *gradients)[0] for name in ("muon", "adamw")
    )
    ours, plain, axes = traverse_util.flatten_dict(ours), traverse_util.flatten_dict(plain), axes_of()
    for path, update in plain.items():
        assert np.array_equal(update, ours[path]) == (matrix_axes(axes[path]) is None), path


def test_decay_is_the_same_for_both():
    trainable, _ = parts("colar")
    gradients = gradients_of(trainable)
    decayed, plain = (
        moved(dataclasses.replace(MUON, weight_decay=decay), trainable, gradients)[0] for decay in (0.3, 0.0)
    )
    decay = jax.tree.map(np.subtract, decayed, plain)
    assert_close(decay, jax.tree.map(lambda leaf: -0.1 * 0.3 * leaf, trainable), tolerance=1e-3)


@pytest.mark.slow
def test_forgetting_starts_its_average_anew_at_the_learning_rate_of_now():
    config = dataclasses.replace(MUON, schedule="cosine", warmup_steps=2)
    trainable, _ = parts("colar")
    optimizer = make_optimizer(config, 6, axes_of())
    state = initial_state(trainable, optimizer)
    for seed in range(3):
        _, after = optimizer.update(gradients_of(trainable, seed), state.optimizer, trainable)
        state = dataclasses.replace(state, optimizer=after)
    forgotten, gradients = without_moments(state), gradients_of(trainable, 7)
    updates, _ = optimizer.update(gradients, forgotten.optimizer, trainable)
    rate = float(learning_rate_schedule(config, 6)(3))
    at_first, _ = moved(dataclasses.replace(MUON, learning_rate=rate), trainable, gradients)
    assert rate > 0
    assert_close(updates, at_first, tolerance=1e-4)


def test_what_it_keeps_is_counted():
    """Of a matrix one average less than AdamW's: by this a mesh is chosen and planned."""

    def bytes_with(name: str):
        config = defaults()
        config.run, config.model.preset = "colar", "pico"
        config.stages.colar = stage_defaults(method="colar")
        config.stages.colar.optimizer.name = name
        config = resolve(config)
        graph, shapes = abstract_model(config, PRESETS["pico"])
        return state_bytes(config, graph, shapes), graph, shapes

    (adamw, graph, shapes), (muon, *_) = map(bytes_with, ("adamw", "muon"))
    flat = traverse_util.flatten_dict(shapes)
    of_matrices = sum(4 * flat[path].size for path, names in logical_axes(graph, shapes).items() if matrix_axes(names))
    assert adamw - muon == pytest.approx(of_matrices, abs=100), "but for counters and Muon's coefficients"


def test_it_has_to_know_which_are_matrices():
    with pytest.raises(ValueError, match="logical axes"):
        make_optimizer(MUON, 10)


def test_adamw_keeps_what_it_kept():
    """A checkpoint of before is one of now."""
    trainable, _ = parts("colar")
    plain = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(lambda count: 1e-4))
    kept = make_optimizer(OptimizerConfig(), 10, axes_of()).init(trainable)
    assert jax.tree.structure(kept) == jax.tree.structure(plain.init(trainable))
