"""The small case that the authors' own code was run on, in our parameters and rows (../README.md)."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util
from golden.published import TRANSPOSED, published_names

from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.problems import Problem
from colar_jax.methods.method import Method
from colar_jax.methods.thinking import thought_chain
from colar_jax.model.execution import Execution
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.model.reasoner import build
from colar_jax.model.stop_choice import STOP_CHOICE

COMPUTE = Execution()
CONFIG = LlamaConfig(
    vocab_size=64, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, intermediate_size=48,
    rope_theta=10_000.0, norm_eps=1e-5, tied_head=True,
)  # fmt: skip
SEPARATOR, EOS, LINE_BREAK, PREFIX = 62, 60, 52, np.array([55, 56], np.int32)
PROJECTION = {
    (layer, kind): f"projection.{layer}.{torch}"
    for layer in ("first", "second")
    for kind, torch in (("kernel", "weight"), ("bias", "bias"))
} | {("norm_scale",): "projection.norm.weight", ("norm_bias",): "projection.norm.bias"}
LOSS, LATENT, GRADIENT = 1e-4, 1e-5, 1e-3  # how close ours have to be, in float32


@functools.cache
def recorded(name: str) -> dict[str, np.ndarray]:
    """The arrays of `<name>.npz`."""
    with np.load(Path(__file__).parent / f"{name}.npz") as arrays:
        return dict(arrays)


def of_variant(name: str, variant: str) -> dict[str, np.ndarray]:
    """What was recorded of one variant."""
    prefix = f"{variant}/"
    return {key.removeprefix(prefix): a for key, a in recorded(name).items() if key.startswith(prefix)}


@functools.cache
def encoded(
    numbers: tuple[int, ...] = (0, 1, 2, 3), *, line_breaks: bool = False, speeds: tuple[str, ...] = ("auto",)
) -> EncodedProblems:
    """Problems of the case, with one prompt for all speeds; a line break stands between two steps, if one is wanted."""
    arrays, between = recorded("case"), int(line_breaks)

    def parts(name: str) -> tuple[np.ndarray, ...]:
        return tuple(arrays[f"problem{number}/{name}"] for number in numbers)

    questions, lengths = parts("question"), parts("step_lengths")
    starts = tuple(np.cumsum([0, *(of_one[:-1] + between)]) for of_one in lengths)
    steps = tuple(
        np.insert(ids, np.cumsum(of_one)[:-1], [LINE_BREAK] * (len(of_one) - 1)) if line_breaks else ids
        for ids, of_one in zip(parts("steps"), lengths, strict=True)
    )
    return EncodedProblems(
        problems=tuple(Problem("", ("",) * len(of_one), "") for of_one in lengths),
        heads=tuple(question[:-1] for question in questions),
        tails=dict.fromkeys(speeds, questions[0][-1:]),
        steps=steps,
        answers=parts("answer"),
        separator_id=SEPARATOR,
        eos_id=EOS,
        step_starts=starts,
        step_ends=tuple(of_one + start for of_one, start in zip(lengths, starts, strict=True)),
        answer_prefix=PREFIX,
    )


def names_of(path: tuple[str, ...]) -> list[str]:
    """What the case calls one of our parameters: a name for each layer if it is stacked."""
    if path[0] in ("projection", STOP_CHOICE):
        return [PROJECTION[path[1:]] if path[0] == "projection" else "stop_choice.rows"]
    names = published_names(("llama", *path[1:]), CONFIG.num_layers)
    return names if path[0] == "llama" else [name.replace("llm.", "decoder.", 1) for name in names]


@functools.cache
def graph_and_parameters(method: Method):
    """A model with the method's own parts, and the case's weights in it; the latent head is as it was drawn.

    One that chooses when to stop has a word more, a second `###`: its authors' START, which is never fed here.
    """
    weights, config = dict(recorded("case")), CONFIG
    if STOP_CHOICE in method.modules:
        embedding = weights["llm.model.embed_tokens.weight"]
        weights["llm.model.embed_tokens.weight"] = np.concatenate([embedding, embedding[SEPARATOR][None]])
        config = dataclasses.replace(CONFIG, vocab_size=CONFIG.vocab_size + 1)
    graph, parameters = build(config, LatentHeadConfig(24), 0, modules=method.modules)
    flat = traverse_util.flatten_dict(parameters)
    for path, array in flat.items():
        if path[0] == "latent_head":
            continue
        parts = [weights[name] for name in names_of(path)]
        parts = [part.T if path[-1] in TRANSPOSED else part for part in parts]
        flat[path] = np.stack(parts) if path[1] == "blocks" else parts[0]
        assert flat[path].shape == array.shape, path
    return graph, jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(flat))


def only_batch(method: Method, problems: EncodedProblems | None = None, *, step: int = 0):
    """All problems, those of the case if no others are given, in the rows of a training step, each epoch's only one."""
    problems = encoded() if problems is None else problems
    batch = method.make_loader(problems, seed=0, rows=4, row_positions=100).batch(step)
    assert batch.num_examples == len(problems), batch.num_examples
    return batch


def without_first_labels(batch):
    """The authors' code learns no token right after the last latent."""
    return dataclasses.replace(batch, first_labels_BE=np.full_like(batch.first_labels_BE, -1))


@functools.cache
def program(method: Method):
    """(parameters, batch) -> ((loss, metrics), gradients), compiled."""
    graph, _ = graph_and_parameters(method)

    def loss(parameters, batch):
        keys_B = jax.random.split(jax.random.key(0), len(batch.row_ids_B))
        return method.objective(nnx.merge(graph, parameters), batch, keys_B, method.count(batch), COMPUTE)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def evaluated(method: Method, batch):
    """Loss, metrics as means, and the gradient's norms under the case's names."""
    parameters = graph_and_parameters(method)[1]
    (loss, metrics), gradients = program(method)(parameters, jax.tree.map(jnp.asarray, batch))
    norms = {}
    for path, array in traverse_util.flatten_dict(gradients).items():
        if path[0] != "latent_head":
            of_layers = np.asarray(array) if path[1] == "blocks" else np.asarray(array)[None]
            norms |= {name: float(np.linalg.norm(a)) for name, a in zip(names_of(path), of_layers, strict=True)}
    return (
        float(loss),
        {name: float(metric.sum / jnp.maximum(metric.count, 1e-9)) for name, metric in metrics.items()},
        norms,
    )


def latents_of(method: Method, batch, problems: EncodedProblems, think=None) -> np.ndarray:
    """What is fed as latents of each problem, `[N, L, D]`, in the problems' order.

    Args:
        think: (model, trunk, batch, compute, None) -> its `Latents`, where that is not its `think_in_training`.
    """
    graph, parameters = graph_and_parameters(method)
    think = think or method.think_in_training

    @jax.jit
    def program(parameters, batch):
        model = nnx.merge(graph, parameters)
        trunk = thought_chain.run_trunk(model, batch, COMPUTE)
        return think(model, trunk, batch, COMPUTE, None).fed_BLED

    fed_BLED = np.asarray(program(parameters, jax.tree.map(jnp.asarray, batch)))
    places = [place_of(batch, problems.prompt(number, "auto")) for number in range(len(problems))]
    return np.stack([fed_BLED[row, :, slot] for row, slot in places])


def place_of(batch, question: np.ndarray) -> tuple[int, int]:
    """The row and the slot in it that hold a problem."""
    for row, slot in np.argwhere(batch.question_lengths_BE > 0).tolist():
        stop = batch.last_BE[row, slot]
        if np.array_equal(batch.trunk_ids_BP[row, stop - len(question) : stop], question):
            return row, slot
    raise AssertionError(question)


def assert_norms(norms: Mapping[str, float], expected: Mapping[str, np.ndarray], but: str = "") -> None:
    """The norms of every parameter's gradient, `but` for one, are the recorded ones, and no other parameter has any."""
    names = expected["gradient_names"].tolist()
    assert norms.keys() == set(names)
    largest = expected["gradient_norms"].max()
    for name, norm in zip(names, expected["gradient_norms"], strict=True):
        if name == but:
            continue
        assert norms[name] == pytest.approx(float(norm), rel=GRADIENT, abs=1e-5 * float(largest)), name
