"""A training step with adapters: what changes, what stays to the last bit, and what is not computed."""

import functools

import chex
import jax
import numpy as np
import pytest
from cases import fast
from flax import nnx, traverse_util
from pico_model import ALONE, ROWS, UNEVEN, VOCABULARY, assert_close, batch_of, model

from colar_jax.config import OptimizerConfig, StageConfig
from colar_jax.engine import Engine
from colar_jax.methods import METHODS
from colar_jax.methods.method import count
from colar_jax.metrics import divide
from colar_jax.model.execution import Execution
from colar_jax.model.lora import LoraConfig, cast_base, split_base
from colar_jax.parallel.mesh import make_mesh, put_rows, replicate
from colar_jax.training.optimizer import make_optimizer
from colar_jax.training.state import initial_state, join, partition
from colar_jax.training.step import make_train_step

LORA = LoraConfig(rank=4, alpha=8.0, targets=("query", "down"), dropout=0.25)
WITHOUT_DROPOUT = LoraConfig(rank=4, alpha=8.0, targets=("query", "down"))
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, schedule="constant")


@functools.cache
def step_of(method: str, lora: LoraConfig, accumulation: int = 1):
    stage = StageConfig(method=method, rows=ROWS, accumulation=accumulation)
    engine = Engine(model(lora=lora)[0], make_mesh())
    return make_train_step(engine, METHODS[method](), stage, make_optimizer(OPTIMIZER, 10))


def take_step(method="colar", lora=LORA, *, base_dtype="float32", accumulation=1, key=5):
    """The parameters as (trainable, frozen) before and after one step, and the step's metrics."""
    parameters = cast_base(jax.tree.map(jax.numpy.asarray, model(lora=lora)[1]), base_dtype)
    trainable, frozen = partition(parameters, METHODS[method].trains)
    before = jax.device_get((trainable, frozen))
    state = replicate(initial_state(trainable, make_optimizer(OPTIMIZER, 10)), make_mesh())
    frozen = replicate(frozen, make_mesh())
    batch = put_rows(batch_of(UNEVEN)[0], make_mesh())
    state, metrics = step_of(method, lora, accumulation)(state, frozen, batch, jax.random.key(key))
    return before, jax.device_get((state.trainable, frozen)), divide(metrics)


@pytest.mark.parametrize(
    ("method", "base_dtype"),
    fast([("colar", "float32"), ("colar", "bfloat16"), ("cot", "float32")], ("colar", "bfloat16")),
)
def test_adapters_and_the_latent_head_are_all_that_changes(method, base_dtype):
    before, after, metrics = take_step(method, base_dtype=base_dtype)
    chex.assert_trees_all_equal(before[1], after[1])
    moved = {path: not np.array_equal(leaf, traverse_util.flatten_dict(after[0])[path])
             for path, leaf in traverse_util.flatten_dict(before[0]).items()}  # fmt: skip
    assert all(moved.values()), moved
    adapters = {("llama", "blocks", name, "adapter", leaf) for name in LORA.targets for leaf in "ab"}
    heads = {path for path in moved if path[0] == "latent_head"}
    assert moved.keys() == adapters | heads
    assert ("latent_head", "embed_std") not in heads and bool(heads) == (method == "colar")
    assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["gradient_norm"])


def test_a_bfloat16_base_trains_alike():
    (_, half), (_, full) = (take_step(base_dtype=dtype)[1:] for dtype in ("bfloat16", "float32"))
    assert half["loss"] == pytest.approx(float(full["loss"]), rel=0.02)


@pytest.mark.slow
def test_dropout_is_drawn_for_a_row_and_for_a_step():
    """However a batch is split, a row drops the same; another key drops something else, and so does no dropout."""
    _, whole, metrics = take_step()
    _, split, _ = take_step(accumulation=2)
    assert_close(split[0], whole[0], tolerance=1e-4)
    _, _, other = take_step(key=6)
    _, _, without = take_step("cot", WITHOUT_DROPOUT)
    _, _, again = take_step("cot", WITHOUT_DROPOUT, key=6)
    _, _, dropped = take_step("cot")
    assert other["cross_entropy"] != metrics["cross_entropy"]
    assert without["loss"] == again["loss"] != dropped["loss"], "CoT draws nothing but its dropout"


def flops(function, *arguments) -> float:
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def test_no_gradient_of_a_frozen_weight_is_computed():
    """What a backward pass costs less than one of everything: at least each weight's gradient, 2 * size * positions."""
    batch, _ = batch_of(ALONE)
    keys_B, compute = jax.random.split(jax.random.key(0), ROWS), Execution(scan_layers=False)

    def cost(lora):
        graph, parameters = model(lora=lora)
        trainable, frozen = partition(parameters, ("llama",))

        def loss(trainable, frozen, batch):
            built = nnx.merge(graph, join(trainable, frozen))
            return METHODS["cot"]().objective(built, batch, keys_B, count(batch), compute)[0]

        return flops(jax.grad(loss), trainable, frozen, batch)

    parameters = split_base(model(lora=LORA)[1])[1]["llama"]
    num_kernel = sum(leaf.size for path, leaf in traverse_util.flatten_dict(parameters).items() if "kernel" in path)
    weight_gradients = 2 * num_kernel * batch.position_ids_BS.size + 2 * VOCABULARY * 32 * batch.supervised_BM.size
    assert cost(None) - cost(LoraConfig(1, 8.0, ("query",))) > 0.99 * weight_gradients
