"""The `pico` preset in float32, eight small examples, and the CoLaR objective on batches of them with given noise.

For tests of what an objective or a step is equal to. Each example has its own noise, wherever it stands.
"""

import dataclasses
import functools

import chex
import jax
import numpy as np
from flax import nnx, traverse_util

from colar_jax.data.layout import Layout, Sizes, Supervision, lay_out
from colar_jax.data.packing import Batch, RowShape, fill, pack
from colar_jax.methods import METHODS
from colar_jax.methods.colar import Colar, objective_with_noise
from colar_jax.methods.method import count
from colar_jax.model.execution import Execution
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.lora import LoraConfig
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import build
from colar_jax.training.state import join, partition

VOCABULARY, HIDDEN, SEPARATOR = 101, 32, 9
EMBED_STD = np.float32(0.3)  # far from what an embedding has: a forgotten scale shows
SHAPE, ROWS = RowShape(positions=60, tokens=80, supervised=40), 8
SPEEDS = (1, 2, 1.5, 5)

PLAIN = Colar()
ALL_TERMS = Colar(weight=0.7, entropy_weight=-0.05, predicted_pass_weight=0.5)
NLL = Colar(loss="nll", weight=0.7)
COMPUTE = Execution()
count_of = jax.jit(count)


@functools.cache
def model(*, deterministic: bool = False, lora: LoraConfig | None = None):
    """Graph and parameters: larger than initial ones, so that attention and the heads look at what they are given."""
    llama = dataclasses.replace(PRESETS["pico"], vocab_size=VOCABULARY)
    graph, parameters = build(llama, LatentHeadConfig(24, deterministic=deterministic), 0, lora)
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
    """The parameters as (trainable, frozen)."""
    return partition(model()[1], METHODS[method].trains)


def example(number: int, *, speed=None, **switches) -> Layout:
    """An example of 3 to 7 prompt, 2 to 12 step and 2 to 4 answer tokens; its speed goes by its number."""
    rng = np.random.default_rng((7, number))
    lengths = rng.integers((3, 2, 2), (8, 13, 5))
    prompt, steps, answer = (rng.integers(10, VOCABULARY, n).astype(np.int32) for n in lengths)
    speed = SPEEDS[number % len(SPEEDS)] if speed is None else speed
    supervision = Supervision(**{"latents": True} | switches)
    return lay_out(prompt, steps, answer, SEPARATOR, speed, rng.random(len(steps)), supervision)


def noise_of(number: int, layout: Layout) -> np.ndarray:
    """The noise `[M, D]` of an example."""
    return np.random.default_rng((8, number)).normal(size=(len(layout.label_ids_M), HIDDEN)).astype(np.float32)


EXAMPLES = tuple(example(number) for number in range(ROWS))
ALONE = [[number] for number in range(ROWS)]
UNEVEN = [[0, 1], [2], [], [3, 4, 5], [], [], [6], [7]]


def packed_rows() -> list[list[int]]:
    """All examples in a few rows, and rows of nothing after them."""
    kinds = ("tokens_in_position_S", "token_ids_T", "label_ids_M")
    sizes = Sizes(*(np.array([len(getattr(layout, kind)) for layout in EXAMPLES]) for kind in kinds))
    rows = pack(sizes, SHAPE)
    assert len(rows) <= 4 and sorted(number for row in rows for number in row) == list(range(ROWS))
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
def objective(latent=PLAIN, compute=COMPUTE):
    """(trainable, batch, noise, counts) -> ((loss, metrics), gradients), compiled."""
    return jax.jit(jax.value_and_grad(loss_of(latent, compute), has_aux=True))


def loss_of(latent, compute, deterministic=False):
    """(trainable, batch, noise, counts) -> (loss, metrics)."""
    graph, parameters = model(deterministic=deterministic)
    _, frozen = partition(parameters, ("llama", "latent_head"))

    def loss(trainable, batch, noise_BMD, counts):
        return objective_with_noise(
            nnx.merge(graph, join(trainable, frozen)), batch, noise_BMD, counts, latent, compute
        )

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
    for (path, leaf), ours in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(actual), strict=True):
        leaf = np.asarray(leaf, np.float64)
        error, largest = np.max(np.abs(ours - leaf)), np.max(np.abs(leaf))
        assert error <= tolerance * largest, (jax.tree_util.keystr(path), error, largest)
