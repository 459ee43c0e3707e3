"""The CoLaR objective against recorded losses and gradient norms: each problem alone, and many packed together.

Recorded are 8 problems at 4 speeds, in 4 variants of the loss, one at a time and without padding (golden/README.md).
The recorded draws are replayed: which token labels a group, and the noise of each latent.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import fast
from flax import nnx, traverse_util
from golden.published import (
    SEPARATOR_ID,
    largest_difference,
    published_model,
    recorded,
    under_published_names,
)

from colar_jax.data.layout import Layout, Sizes, Supervision, lay_out
from colar_jax.data.packing import Batch, RowShape, fill, pack
from colar_jax.methods.colar import Colar, objective_with_noise
from colar_jax.methods.method import count
from colar_jax.model.execution import Execution
from colar_jax.training.state import join, partition

TOLERANCE = 1e-4
RISE = 0.02  # of a loss of 10: 2,000 times its float32 resolution, and small enough to be linear
PROBLEMS, SPEEDS = range(8), (1, 2, 3, 5)
VARIANTS = {
    "mse": Colar(weighting="position"),
    "mse_det": Colar(weighting="position"),
    "mse_mean": Colar(weighting="position", pooling="mean"),
    "nll_ent": Colar(weighting="position", loss="nll", entropy_weight=0.01),
}
# The recorded models: (family, whether only an adapter and the latent head are trained), and their variants.
SETUPS = {
    "single_problem": ("llama", False, tuple(VARIANTS)),
    "single_problem_llama_lora": ("llama", True, tuple(VARIANTS)),
    "single_problem_qwen2": ("qwen2", False, ("mse", "nll_ent")),
    "single_problem_qwen2_lora": ("qwen2", True, ("mse", "nll_ent")),
}
SEQUENCES = {"llama": "single_problem", "qwen2": "single_problem_qwen2"}
# One shape holds every problem at every speed, so that each variant compiles once.
SINGLE_SHAPE = RowShape(positions=136, tokens=136, supervised=48)
PACKED_SHAPE = RowShape(positions=300, tokens=400, supervised=120)


def example(problem: int, speed: int, family: str = "llama") -> tuple[Layout, np.ndarray]:
    """A recorded problem laid out so that its recorded labels are drawn, and the noise `[slots, D]` of its latents."""
    single, prefix = recorded(SEQUENCES[family]), f"p{problem}/r{speed}"
    step_ids, slot_labels = single[f"{prefix}/step_ids"], single[f"{prefix}/slot_labels"]
    draw_T = np.zeros(len(step_ids))
    for start, label in zip(range(0, len(step_ids), speed), slot_labels[1:], strict=True):
        group = step_ids[start : start + speed].tolist()
        draw_T[start] = (group.index(label) + 0.5) / len(group)
    layout = lay_out(
        single[f"{prefix}/question_ids"],
        step_ids,
        single[f"{prefix}/answer_ids"],
        SEPARATOR_ID,
        speed,
        draw_T,
        Supervision(latents=True),
    )
    np.testing.assert_array_equal(layout.label_ids_M[: len(slot_labels)], slot_labels)
    return layout, single[f"{prefix}/noise"]


def batch_of(rows: list[list[tuple[Layout, np.ndarray]]], shape: RowShape, variant: str) -> tuple[Batch, np.ndarray]:
    """Rows of examples, and their noise where a latent is supervised. Elsewhere it is large, and must not count."""
    batch = fill([[layout for layout, _ in row] for row in rows], shape, pooling=VARIANTS[variant].pooling)
    noise_BMD = np.full((*batch.latent_mask_BM.shape, 64), 100.0, np.float32)
    noise_BMD[batch.latent_mask_BM] = np.concatenate([noise for row in rows for _, noise in row])
    return batch, noise_BMD


def compiled(variant: str, *, gradients: bool, setup: str = "single_problem"):
    """(trainable, batch, noise) -> (loss, metrics), with the gradients of `trainable` if asked for."""
    latent = dataclasses.replace(VARIANTS[variant], pooling="sqrt")  # pooling is the batch's business alone
    return _compiled(latent, variant == "mse_det", gradients, setup)


@functools.cache
def _compiled(latent: Colar, deterministic: bool, gradients: bool, setup: str):
    compute = Execution()
    family, adapter, _ = SETUPS[setup]
    graph, parameters = published_model(deterministic=deterministic, family=family, adapter=adapter)
    _, frozen = partition(parameters, ("llama", "latent_head"))
    frozen = jax.tree.map(jnp.asarray, frozen)  # a frozen embedding matrix is indexed by traced ids

    def loss(trainable, batch, noise_BMD):
        model = nnx.merge(graph, join(trainable, frozen))
        return objective_with_noise(model, batch, noise_BMD, count(batch), latent, compute)

    return jax.jit(jax.value_and_grad(loss, has_aux=True) if gradients else loss)


def trainable_parameters(variant: str, setup: str = "single_problem"):
    family, adapter, _ = SETUPS[setup]
    _, parameters = published_model(deterministic=variant == "mse_det", family=family, adapter=adapter)
    return partition(parameters, ("llama", "latent_head"))[0]


def single_losses(variant: str, setup: str = "single_problem") -> dict[str, np.ndarray]:
    """The recorded losses by name, each `[problem, speed]`."""
    single = recorded(setup)
    of_variant = single["losses"][:, :, single["variants"].tolist().index(variant)]
    return {name: of_variant[..., i] for i, name in enumerate(single["loss_names"].tolist())}


def assert_metrics(metrics, expected: dict[str, float], num_labels: int, num_latents: int):
    """Sums and counts of the cross-entropy, the latent loss and the entropy. A deterministic head has no entropy."""
    names = {"cross_entropy": "ce_loss", "latent_loss": "embed_modeling_loss", "latent_entropy": "entropy"}
    counts = {"cross_entropy": num_labels, "latent_loss": num_latents, "latent_entropy": num_latents}
    for ours, published in names.items():
        if ours == "latent_entropy" and expected["entropy"] < -19:
            assert ours not in metrics
            continue
        assert metrics[ours].count == counts[ours]
        assert largest_difference(metrics[ours].sum / counts[ours], expected[published]) < TOLERANCE, ours


@pytest.mark.parametrize("speed", fast(list(SPEEDS), 2))  # CI runs all of them
@pytest.mark.parametrize(
    ("setup", "variant"), [(setup, variant) for setup, (_, _, variants) in SETUPS.items() for variant in variants]
)
def test_one_problem_at_a_time(setup, variant, speed):
    single, losses = recorded(setup), single_losses(variant, setup)
    names, at = single["parameter_names"].tolist(), single["speeds"].tolist().index(speed)
    all_norms = single["grad_norms"][:, at, single["variants"].tolist().index(variant)]
    trainable, family = trainable_parameters(variant, setup), SETUPS[setup][0]
    for problem in PROBLEMS:
        batch, noise_BMD = batch_of([[example(problem, speed, family)]], SINGLE_SHAPE, variant)
        (loss, metrics), gradients = compiled(variant, gradients=True, setup=setup)(trainable, batch, noise_BMD)
        expected = {name: values[problem, at] for name, values in losses.items()}
        assert_metrics(
            metrics, expected, single["ce_label_count"][problem, at], single["latent_slot_count"][problem, at]
        )
        assert largest_difference(loss, expected["total_loss"]) < TOLERANCE, problem

        gradients = under_published_names(gradients)
        assert sorted(gradients) == sorted(names)
        for name, norm in zip(names, all_norms[problem], strict=True):
            ours = np.linalg.norm(gradients[name].astype(np.float64))
            assert abs(ours - norm) <= TOLERANCE * norm, (problem, name, ours, norm)


@pytest.mark.parametrize("variant", ["mse", "nll_ent"])
def test_the_loss_rises_along_each_gradient(variant):
    """Norms say nothing of a direction: the slope along each parameter's gradient, by differences, is that norm.

    Not the embedding: the targets move with it, and by design no gradient tells of that.
    """
    trainable = trainable_parameters(variant)
    batch, noise_BMD = batch_of([[example(0, 3)]], SINGLE_SHAPE, variant)
    value_and_gradients = compiled(variant, gradients=True)
    _, gradients = value_and_gradients(trainable, batch, noise_BMD)
    leaves = traverse_util.flatten_dict(trainable)
    for path, gradient in traverse_util.flatten_dict(jax.device_get(gradients)).items():
        if path == ("llama", "embedding"):
            continue
        norm = np.linalg.norm(gradient)
        step = RISE / norm**2 * gradient  # to first order the loss rises by RISE
        moved = (traverse_util.unflatten_dict(leaves | {path: leaves[path] + sign * step}) for sign in (1, -1))
        above, below = (float(value_and_gradients(there, batch, noise_BMD)[0][0]) for there in moved)
        assert (above - below) / (2 * RISE) == pytest.approx(1, abs=0.01), path


@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_problems_of_many_speeds(variant):
    """Losses of a packed batch are the recorded ones, weighted by what each problem supervises."""
    single, losses = recorded("single_problem"), single_losses(variant)
    cases = [(problem, (problem + shift) % len(SPEEDS)) for problem in PROBLEMS for shift in (0, 1, 3)]
    examples = [example(problem, SPEEDS[at]) for problem, at in cases]
    layouts = [layout for layout, _ in examples]
    kinds = ("tokens_in_position_S", "token_ids_T", "label_ids_M")
    sizes = Sizes(*(np.array([len(getattr(layout, kind)) for layout in layouts]) for kind in kinds))
    rows = pack(sizes, PACKED_SHAPE)
    assert sorted(itertools.chain(*rows)) == list(range(len(cases)))
    assert min(map(len, rows)) > 1

    batch, noise_BMD = batch_of([[examples[number] for number in row] for row in rows], PACKED_SHAPE, variant)
    loss, metrics = compiled(variant, gradients=False)(trainable_parameters(variant), batch, noise_BMD)
    problems, speeds = np.array(cases).T
    num_labels, num_latents = single["ce_label_count"][problems, speeds], single["latent_slot_count"][problems, speeds]
    expected = {
        name: np.average(values[problems, speeds], weights=num_labels if name == "ce_loss" else num_latents)
        for name, values in losses.items()
    }
    assert_metrics(metrics, expected, num_labels.sum(), num_latents.sum())
    entropy = VARIANTS[variant].entropy_weight * expected["entropy"]
    total = expected["ce_loss"] + expected["embed_modeling_loss"] + entropy
    assert largest_difference(loss, total) < TOLERANCE
