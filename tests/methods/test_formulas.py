"""CODI, PCCoT, KaVa and SIM-CoT on a fixed small case, against their papers' formulas in plain NumPy and float64.

Nothing of ours is in the formulas but the parameters: the model is `plain_llama`, each problem is a row of its own, and
all passes are whole ones.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import fast
from enlarged import enlarged
from flax import nnx
from pico_thoughts import COMPUTE, EOS, PREFIX, SEPARATOR, VOCABULARY, problems
from plain_llama import Pass, PlainLlama, smooth_l1

from colar_jax.data.prompts import AUTO_SPEED
from colar_jax.methods.codi import Codi
from colar_jax.methods.kava import Kava
from colar_jax.methods.pccot import Pccot
from colar_jax.methods.sim_cot import SimCodi
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import build

ENCODED = problems(5, seed=3)
CONFIG = dataclasses.replace(PRESETS["pico"], vocab_size=VOCABULARY)
M, T = 5, 2
SIZES = dict(projection_size=16, matched="prefix")
CASES = {
    "codi": Codi(num_latents=M, teacher_weight=0.7, student_weight=1.3, distill_weight=3.0, **SIZES),
    "codi, alone": Codi(num_latents=M, distill_weight=20.0, spread="example", teacher_last_step=True, **SIZES),
    "pccot": Pccot(num_latents=M, num_sweeps=T, distill_weight=3.0, **SIZES),
    "pccot, one std": Pccot(num_latents=M, num_sweeps=T, distill_weight=3.0, spread="all", **SIZES),
    "pccot, no std": Pccot(num_latents=M, num_sweeps=T, distill_weight=3.0, normalise=False, **SIZES),
    "kava": Kava(num_latents=M, num_sweeps=T, cache_weight=2.0, **SIZES),
    "kava, mse": Kava(num_latents=M, num_sweeps=3, cache_weight=2.0, cache_distance="mse", **SIZES),
    "kava, attention": Kava(num_latents=3, num_sweeps=T, importance_share=1.0, cache_normalise=False, **SIZES),
    "kava, unlike": Kava(num_latents=3, num_sweeps=T, importance_share=0.0, spread="example", **SIZES),
    "sim_codi": SimCodi(num_latents=2, spelling_weight=0.6, distill_weight=5.0, **SIZES),
    "sim_codi, apart": SimCodi(num_latents=2, spelling_weight=0.6, shared_embedding=False, **SIZES),
}


@functools.cache
def parameters_of(name: str):
    graph, parameters = build(CONFIG, LatentHeadConfig(24), 0, modules=CASES[name].modules)
    return graph, enlarged(parameters, CONFIG.hidden_size, seed=5)


@functools.cache
def ours(name: str) -> tuple[float, dict[str, float]]:
    """The loss of all problems, and its parts, in packed rows."""
    method, (graph, parameters) = CASES[name], parameters_of(name)
    loader = method.make_loader(ENCODED, seed=0, rows=2, row_positions=150)
    batch = jax.tree.map(jnp.asarray, loader.batch(0))
    assert int((batch.question_lengths_BE > 0).sum()) == len(ENCODED)

    @jax.jit
    def program(parameters):
        keys = jax.random.split(jax.random.key(0), 2)
        return method.objective(nnx.merge(graph, parameters), batch, keys, method.count(batch), COMPUTE)

    loss, metrics = program(jax.tree.map(jnp.asarray, parameters))
    return float(loss), {name: float(metric.sum / metric.count) for name, metric in metrics.items()}


@dataclasses.dataclass
class Example:
    """What the formulas need of a problem: both passes and the labels that they predict."""

    chain: np.ndarray
    question_length: int
    teacher: Pass
    teacher_losses: np.ndarray
    student_losses: np.ndarray
    teacher_states: np.ndarray  # [L + 1, D], of the token that predicts the answer
    student_states: np.ndarray
    latents: np.ndarray  # [M, D], as they are fed
    following: np.ndarray  # what would be fed after them
    keys: list  # of each layer, those of the latents [K, M, H]
    values: list


def example_of(model: PlainLlama, method, index: int) -> Example:
    question = np.append(ENCODED.prompt(index, AUTO_SPEED), SEPARATOR)
    stop = ENCODED.step_ends[index][-1] if method.teacher_last_step else ENCODED.step_starts[index][-1]
    chain = ENCODED.steps[index][:stop]
    answer = np.append(SEPARATOR, ENCODED.answers[index])
    of_teacher = np.concatenate([question, chain, answer])
    teacher = model.run(model.embed(of_teacher[:-1]))
    read = model.run(model.embed(question))
    if isinstance(method, Pccot):
        latents, thought = at_once(model, read, method)
    else:
        latents, thought = in_turn(model, read, method)
    after = model.run(model.embed(answer[:-1]), thought)
    predicting = np.concatenate([thought.hidden[-1:], after.hidden])
    matched = len(PREFIX)  # of the answer: ### and the prefix are before its first own token
    first = len(question)
    return Example(
        chain=chain,
        question_length=first,
        teacher=teacher,
        teacher_losses=model.cross_entropies(teacher.hidden[first - 1 :], of_teacher[first:]),
        student_losses=model.cross_entropies(predicting, answer),
        teacher_states=np.stack([state[first + len(chain) + matched] for state in teacher.states]),
        student_states=np.stack([state[matched] for state in after.states]),
        latents=latents,
        following=model.project(thought.hidden[-1]),
        keys=[keys[:, first:] for keys in thought.keys],
        values=[values[:, first:] for values in thought.values],
    )


def in_turn(model: PlainLlama, read: Pass, method):
    """z_1 = f(h(bot)), z_{i+1} = f(h(z_i))."""
    latents, last = [], read
    for _ in range(method.num_latents):
        latents.append(model.project(last.hidden[-1:]))
        last = model.run(latents[-1], last)
    return np.concatenate(latents), last


def at_once(model: PlainLlama, read: Pass, method):
    """T sweeps, each of a block of M on the question; the first latent never changes."""
    count = method.num_latents
    last = model.run(model.embed([SEPARATOR] * count), read)
    fed = model.project(np.concatenate([read.hidden[-1:], last.hidden[:-1]]))
    for sweep in range(method.num_sweeps):
        last = model.run(fed, read)
        if sweep < method.num_sweeps - 1:
            fed = np.concatenate([fed[:1], model.project(last.hidden[:-1])])
    return fed, last


def distilled(examples: list[Example], method) -> float:
    """Mean over layers, then examples, of smooth L1 over dimensions; in units of a standard deviation."""
    skipped = 0 if method.distill_embedding else 1
    teacher = np.stack([one.teacher_states[skipped:] for one in examples], axis=1)  # [L, N, D]
    student = np.stack([one.student_states[skipped:] for one in examples], axis=1)
    error = smooth_l1(student, teacher).mean(axis=2)
    if method.normalise:
        error = (
            error
            / {
                "batch": lambda: teacher.reshape(len(teacher), -1).std(axis=1, ddof=1)[:, None],
                "example": lambda: teacher.std(axis=2, ddof=1),
                "all": lambda: teacher.std(ddof=1),
            }[method.spread]()
        )
    return error.mean()


def evicted(one: Example, method, layer: int) -> list[list[int]]:
    """Of each key-value head, the places in the teacher's row that are kept, in time."""
    first, length = one.question_length, len(one.chain)
    group = CONFIG.num_heads // CONFIG.num_kv_heads
    of_heads = []
    for head in range(CONFIG.num_kv_heads):
        # Attention of what follows the chain to the chain.
        attention = one.teacher.attention[layer][head * group : (head + 1) * group, first + length :]
        importance = attention.max(axis=0).mean(axis=0)[first : first + length]
        keys = one.teacher.keys[layer][head, first : first + length]
        unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
        cosines = unit @ unit.T
        alike = (cosines.sum(axis=1) - 1) / max(length - 1, 1)
        redundancy = np.exp(-alike) / np.exp(-alike).sum()
        score = method.importance_share * importance + (1 - method.importance_share) * redundancy
        of_heads.append(sorted((first + np.argsort(-score)[: method.num_latents]).tolist()))
    return of_heads


def of_caches(examples: list[Example], method) -> float:
    """(1 / 2M)(|K~ - K| + |V~ - V|): means over layers, heads and dimensions, then over examples."""
    distance = {"smooth_l1": smooth_l1, "mse": lambda a, b: (a - b) ** 2}[method.cache_distance]
    total = np.zeros(len(examples))
    for layer in range(CONFIG.num_layers):
        for kind in ("keys", "values"):
            kept, errors = [], []
            for one in examples:
                own_kept, own_errors = [], []
                for head, places in enumerate(evicted(one, method, layer)):
                    target = getattr(one.teacher, kind)[layer][head, places]
                    own = getattr(one, kind)[layer][head, : len(places)]
                    own_kept.append(target)
                    own_errors.append(distance(own, target).sum() / (method.num_latents * CONFIG.head_dim))
                kept.append(np.concatenate(own_kept))
                errors.append(np.mean(own_errors))
            if method.cache_normalise and method.spread == "batch":
                errors = np.array(errors) / np.concatenate(kept).std(ddof=1)
            elif method.cache_normalise:
                errors = [error / own.std(ddof=1) if len(own) else 0.0 for error, own in zip(errors, kept, strict=True)]
            total += errors
    return float(np.mean(total / (2 * CONFIG.num_layers)))


def spelled(examples: list[Example], method, parameters) -> float:
    """The mean over latents that have a step of the mean cross-entropy of its text, read from the latent alone."""
    decoder, means = PlainLlama(parameters, CONFIG, "step_decoder"), []
    reader = PlainLlama(parameters, CONFIG) if method.shared_embedding else decoder
    for index, one in enumerate(examples):
        starts, ends = ENCODED.step_starts[index][:-1], ENCODED.step_ends[index][:-1]  # the teacher's steps
        latents = [*one.latents, one.following]
        for number, latent in enumerate(latents[: len(starts)]):
            stop = ends[-1] if number == len(latents) - 1 else ends[number]
            text = ENCODED.steps[index][starts[number] : stop]
            hidden = decoder.run(np.concatenate([latent[None], reader.embed(text)])).hidden
            means.append(decoder.cross_entropies(hidden, np.append(text, EOS)).mean())
    return float(np.mean(means))


@pytest.mark.parametrize("name", fast(list(CASES), "codi", "kava", "sim_codi"))
def test_the_loss_is_that_of_the_formulas(name):
    method, parameters = CASES[name], parameters_of(name)[1]
    model = PlainLlama(parameters, CONFIG)
    examples = [example_of(model, method, index) for index in range(len(ENCODED))]
    lengths = {len(one.chain) for one in examples}
    assert 0 in lengths or method.teacher_last_step
    expected = {
        "teacher_cross_entropy": np.concatenate([one.teacher_losses for one in examples]).mean(),
        "cross_entropy": np.concatenate([one.student_losses for one in examples]).mean(),
        "distill_loss": distilled(examples, method),
    }
    weights = (method.teacher_weight, method.student_weight, method.distill_weight)
    total = sum(weight * part for weight, part in zip(weights, expected.values(), strict=True))
    if isinstance(method, Kava):
        assert max(lengths) > method.num_latents
        expected["cache_distance"] = of_caches(examples, method)
        total += method.cache_weight * expected["cache_distance"]
    if isinstance(method, SimCodi):
        expected["spelling_loss"] = spelled(examples, method, parameters)
        total += method.spelling_weight * expected["spelling_loss"]
    loss, parts = ours(name)
    assert {part: parts[part] for part in expected} == pytest.approx(expected, rel=2e-4)
    assert loss == pytest.approx(total, rel=2e-4)
