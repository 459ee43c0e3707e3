"""CoT, iCoT, Coconut and CODI against the losses of the published code, problem by problem, where that code is right.

Its padded batches count pads as labels and as positions; alone, a problem has none (golden/README.md). What else it
does otherwise is made up for here: the first token after the question (or the last latent) is no label, and a line
break stands where all steps are gone.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden.published import SEPARATOR_ID, largest_difference, llama_config, published_model, recorded
from golden.published import under_published_names as named

from colar_jax.data.layout import Layout
from colar_jax.data.packing import RowShape
from colar_jax.data.packing import fill as fill_rows
from colar_jax.methods import METHODS
from colar_jax.methods.codi import Codi
from colar_jax.methods.thinking import thought_rows
from colar_jax.methods.thinking.thought_rows import ThoughtExample, ThoughtShape
from colar_jax.model.execution import Execution
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.reasoner import build

pytestmark = pytest.mark.slow  # CI runs them in its second step
COMPUTE = Execution()
PROBLEMS, STAGES = range(8), (1, 2, 3)
ROWS = RowShape(positions=140, tokens=140, supervised=64)
SHAPE = ThoughtShape(trunk=140, supervised=48, tail=48, examples=1)
CODI = Codi(normalise=False, projection_size=64, projection_layer_norm=False, distill_embedding=False)
TOLERANCE = 1e-4


@functools.cache
def model_with_projection():
    """The recorded model, and the recorded projection beside it."""
    _, parameters = published_model()
    graph, _ = build(
        llama_config(641), LatentHeadConfig(128), 0, modules=CODI.modules
    )  # fmt: skip
    arrays = recorded("baselines")
    projection = {
        name: {
            "kernel": arrays[f"distill/latent_proj/proj.{number}.weight"].T,
            "bias": arrays[f"distill/latent_proj/proj.{number}.bias"],
        }
        for name, number in (("first", 0), ("second", 2))
    }
    return graph, jax.tree.map(jnp.asarray, parameters | {"projection": projection})


@functools.cache
def objective(name: str):
    """(parameters, batch) -> ((loss, metrics), gradients), compiled for all problems and stages."""
    graph, _ = model_with_projection()
    method = CODI if name == "codi" else METHODS[name]()

    def loss(llama, others, batch):
        model = nnx.merge(graph, others | {"llama": llama})
        return method.objective(model, batch, jax.random.split(jax.random.key(0), 1), method.count(batch), COMPUTE)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def evaluated(name: str, batch):
    _, parameters = model_with_projection()
    others = {key: part for key, part in parameters.items() if key != "llama"}
    (loss, metrics), gradients = objective(name)(parameters["llama"], others, batch)
    return float(loss), metrics, gradients


def assert_gradient_norms(gradients, expected):
    norms = {path: np.linalg.norm(array) for path, array in named({"llama": gradients}).items()}
    names = [name for name in recorded("baselines")["parameter_names"].tolist() if name != "llm.lm_head.weight"]
    assert norms.keys() == set(names)
    actual = np.array([norms[name] for name in names])
    assert largest_difference(actual, expected) < TOLERANCE
    np.testing.assert_allclose(actual, expected, rtol=1e-3)


def layout_of(token_ids, labels) -> Layout:
    """One position a token; the labels are what the last positions predict."""
    return Layout(
        token_ids_T=np.asarray(token_ids, np.int32),
        token_positions_T=np.arange(len(token_ids)),
        tokens_in_position_S=np.ones(len(token_ids), np.int64),
        label_ids_M=np.asarray(labels, np.int32),
        latent_mask_M=np.zeros(len(labels), bool),
    )


def thought_batch(question, teacher, tail, num_latents: int, num_answer: int):
    """One problem, without the first labels, which the published code does not have."""
    example = ThoughtExample(question, teacher, tail, before_answer=2, num_answer=num_answer, num_latents=num_latents)
    batch = thought_rows.fill_thought_rows([[example]], SHAPE)
    labels = batch.trunk_labels_BM.copy()
    labels[:, :1] = -1
    return dataclasses.replace(batch, first_labels_BE=np.array([[-1]], np.int32), trunk_labels_BM=labels)


def test_cot():
    """CoT is the cross-entropy of CoLaR at speed 1; the recorded batch predicts `###` from a masked slot."""
    single = recorded("single_problem")
    of_speed_1 = single["losses"][:, 0, 0, single["loss_names"].tolist().index("ce_loss")]
    for problem in PROBLEMS:
        parts = [single[f"p{problem}/r1/{part}_ids"] for part in ("question", "step", "answer")]
        separator = [SEPARATOR_ID]
        labels = np.concatenate([separator, parts[1], separator, parts[2]])
        ids = np.concatenate([parts[0], labels[:-1]])
        loss, _, _ = evaluated("cot", fill_rows([[layout_of(ids, labels)]], ROWS))
        assert loss == pytest.approx(of_speed_1[problem], rel=TOLERANCE)


@pytest.mark.parametrize("stage", STAGES)
def test_icot(stage):
    arrays = recorded("baselines")
    for problem in PROBLEMS:
        final = arrays[f"p{problem}/icot/stage{stage}/final_ids"]
        ids = np.concatenate([arrays[f"p{problem}/question_ids"], final[:-1]])
        loss, _, gradients = evaluated("icot", fill_rows([[layout_of(ids, final[1:])]], ROWS))
        assert loss == pytest.approx(float(arrays[f"p{problem}/icot/stage{stage}/loss"]), rel=TOLERANCE)
        assert_gradient_norms(gradients, arrays[f"p{problem}/icot/stage{stage}/gradient_norms"])


@pytest.mark.parametrize("stage", STAGES)
def test_coconut(stage):
    """One compiled program serves all stages: the number of latents is data."""
    arrays = recorded("baselines")
    for problem in PROBLEMS:
        final = arrays[f"p{problem}/coconut/stage{stage}/final_ids"]
        question = arrays[f"p{problem}/question_ids"]
        batch = thought_batch(question, final[:0], final, 2 * stage, num_answer=3)
        loss, _, gradients = evaluated("coconut", batch)
        assert loss == pytest.approx(float(arrays[f"p{problem}/coconut/stage{stage}/loss"]), rel=TOLERANCE)
        assert_gradient_norms(gradients, arrays[f"p{problem}/coconut/stage{stage}/gradient_norms"])
    assert objective("coconut")._cache_size() == 1


def test_codi():
    arrays = recorded("baselines")
    names = ("teacher_cross_entropy", "cross_entropy", "distill_loss")
    for problem in PROBLEMS:
        teacher, student = (arrays[f"p{problem}/distill/{part}_ids"] for part in ("teacher", "student"))
        batch = thought_batch(
            arrays[f"p{problem}/question_ids"], teacher, student, CODI.num_latents, num_answer=len(student) - 1
        )
        loss, metrics, gradients = evaluated("codi", batch)
        expected = arrays[f"p{problem}/distill/losses"]
        for name, value in zip(names, expected, strict=True):
            assert float(metrics[name].sum / metrics[name].count) == pytest.approx(value, rel=TOLERANCE)
        assert loss == pytest.approx(expected[0] + expected[1] + 20 * expected[2], rel=TOLERANCE)
        assert_gradient_norms(gradients, arrays[f"p{problem}/distill/gradient_norms"])
