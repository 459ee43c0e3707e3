"""The `pico` preset with a projection, in float32, and a few encoded problems: for methods that think in training."""

import dataclasses
import functools

import jax
import numpy as np
from flax import nnx, traverse_util

from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.problems import Problem
from colar_jax.methods.codi import Codi
from colar_jax.model.execution import Execution
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import build

PROJECTION_SIZE = 16
VOCABULARY, SEPARATOR, EOS = 101, 9, 8
PREFIX = np.array([5, 6], np.int32)  # of every answer
COMPUTE = Execution()


@functools.cache
def model():
    """Graph and parameters: larger than initial ones, so that attention looks at what it is given."""
    llama = dataclasses.replace(PRESETS["pico"], vocab_size=VOCABULARY)
    graph, parameters = build(llama, LatentHeadConfig(24), 0, modules=Codi(projection_size=PROJECTION_SIZE).modules)
    rng = np.random.default_rng(0)

    def larger(path, leaf):
        noise = rng.normal(size=leaf.shape)
        shift = 1.0 if path[-1] in ("scale", "norm_scale") else 0.0
        fan_in = leaf.shape[-2] if path[-1] == "kernel" else llama.hidden_size
        return (shift + noise / np.sqrt(fan_in)).astype(np.float32)

    flat = traverse_util.flatten_dict(parameters)
    return graph, traverse_util.unflatten_dict({path: larger(path, leaf) for path, leaf in sorted(flat.items())})


def merged(parameters=None):
    """The model itself, of arrays of jax: traced ids can index them."""
    graph, own = model()
    return nnx.merge(graph, jax.tree.map(jax.numpy.asarray, own if parameters is None else parameters))


def problems(count: int, seed: int = 0) -> EncodedProblems:
    """Random ids: 3 to 9 in a prompt, 1 to 4 steps of 1 to 4, 1 to 3 in an answer besides its prefix and its eos."""
    rng = np.random.default_rng((11, seed))

    def ids(low: int, high: int) -> np.ndarray:
        return rng.integers(10, VOCABULARY, rng.integers(low, high)).astype(np.int32)

    steps = [[ids(1, 5) for _ in range(rng.integers(1, 5))] for _ in range(count)]
    return EncodedProblems(
        problems=tuple(Problem("", ("",) * len(of_one), "") for of_one in steps),
        heads=tuple(ids(3, 10) for _ in range(count)),
        tails={"auto": np.array([7], np.int32)},
        steps=tuple(np.concatenate(of_one) for of_one in steps),
        answers=tuple(np.concatenate([PREFIX, ids(1, 4), [EOS]]).astype(np.int32) for _ in range(count)),
        separator_id=SEPARATOR,
        eos_id=EOS,
        step_starts=tuple(np.cumsum([0, *map(len, of_one[:-1])]) for of_one in steps),
        answer_prefix=PREFIX,
        step_ends=tuple(np.cumsum([len(step) for step in of_one]) for of_one in steps),
    )


def with_answers(encoded: EncodedProblems, answers: list[np.ndarray]) -> EncodedProblems:
    """The same problems with other answers."""
    return dataclasses.replace(encoded, answers=tuple(answer.astype(np.int32) for answer in answers))
