"""What the CoLaR objective supervises, and what its switches change, on hand-made examples."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from flax import nnx
from pico_model import (
    ALL_TERMS,
    ALONE,
    COMPUTE,
    EMBED_STD,
    EXAMPLES,
    HIDDEN,
    PLAIN,
    ROWS,
    SHAPE,
    SPEEDS,
    assert_close,
    batch_of,
    count_of,
    evaluated,
    example,
    loss_of,
    model,
    noise_of,
    objective,
    packed_rows,
    parts,
)

from colar_jax.data.recipe import Recipe
from colar_jax.methods.colar import Colar
from colar_jax.methods.method import embed
from colar_jax.metrics import divide
from colar_jax.model.execution import Execution
from colar_jax.model.visibility import packed


def test_ablation_oc_takes_the_steps_out_of_the_cross_entropy_alone():
    oc = tuple(example(number, steps=False) for number in range(ROWS))
    latent = dataclasses.replace(ALL_TERMS, weighting="position")
    _, plain, _ = evaluated(ALONE, latent=latent)
    _, without, _ = evaluated(ALONE, latent=latent, layouts=oc)
    num_drawn = sum(int(layout.latent_mask_M.sum()) - 1 for layout in EXAMPLES)
    assert without["cross_entropy"].count == plain["cross_entropy"].count - num_drawn
    assert without["cross_entropy"].sum < plain["cross_entropy"].sum
    for name in ("latent_loss", "latent_entropy", "predicted_pass"):
        assert without[name].sum == plain[name].sum and without[name].count == plain[name].count


def test_ablation_mp_feeds_the_mean_of_a_group():
    """Instead of the sum over sqrt(n), which keeps the variance of an embedding (docs/method.md)."""
    graph, parameters = model()
    ids, groups = EXAMPLES[3].token_ids_T, EXAMPLES[3].token_positions_T
    for pooling, power in (("sqrt", 0.5), ("mean", 1.0)):
        batch, _ = batch_of([[3]], pooling=pooling)
        embeds_BSD = embed(nnx.merge(graph, parameters), batch, COMPUTE)
        for position, num_tokens in enumerate(EXAMPLES[3].tokens_in_position_S):
            total = parameters["llama"]["embedding"][ids[groups == position]].sum(axis=0)
            np.testing.assert_allclose(embeds_BSD[0, position], total / num_tokens**power, rtol=1e-5, atol=1e-6)
        assert not embeds_BSD[0, position + 1 :].any() and not embeds_BSD[1:].any()
    assert EXAMPLES[3].tokens_in_position_S.max() == 5
    assert evaluated([[3]], pooling="mean")[0] != evaluated([[3]])[0]


def test_ablation_dl_has_no_standard_deviation():
    batch, noise_BMD = batch_of(packed_rows())
    run = functools.partial(jax.jit(loss_of(PLAIN, COMPUTE, deterministic=True)), parts()[0], batch)
    loss, metrics = run(noise_BMD, count_of(batch))
    assert loss == run(0 * noise_BMD, count_of(batch))[0]
    assert metrics.keys() == {"cross_entropy", "label_accuracy", "latent_loss"}
    (_, with_std), _ = objective()(parts()[0], batch, 0 * noise_BMD, count_of(batch))
    assert_close(metrics["latent_loss"].sum, with_std["latent_loss"].sum)  # what it predicts is the mean


def test_switches_of_a_stage_reach_its_recipe():
    latent = Colar(speeds="2,1.5", auto_probability=0.1, supervise_steps=False, pooling="mean")
    recipe = latent.recipe
    expected = Recipe((2.0, 1.5), 0.1, supervise_latents=True, supervise_steps=False, pooling="mean", random_phase=True)
    assert recipe == expected


def test_a_negative_entropy_weight_rewards_entropy():
    """weight * entropy is added, a mean over latents and dimensions: weight / D in the gradient of a log std's bias."""
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
    sees = packed(segments_S[None], Execution())
    hidden_SD = reasoner.llama.run(embeds_SD[None], np.arange(len(embeds_SD))[None], sees, Execution())[0][0]
    return reasoner.latent_head(hidden_SD), jax.nn.log_softmax(hidden_SD @ parameters["llama"]["embedding"].T)


def predicted_pass_by_hand(number: int) -> float:
    """The answer's cross-entropy of an example whose groups are replaced by what the position before each predicts."""
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
    """Scaled by embed_std, not shifted, the first latent too, the answer alone (docs/method.md, departures)."""
    _, metrics, _ = evaluated([[number]], latent=ALL_TERMS)
    assert (
        metrics["predicted_pass"].count == len(EXAMPLES[number].label_ids_M) - EXAMPLES[number].latent_mask_M.sum() - 1
    )
    assert metrics["predicted_pass"].sum == pytest.approx(predicted_pass_by_hand(number), rel=1e-5)


def test_the_predicted_pass_of_packed_examples():
    _, metrics, _ = evaluated(packed_rows(), latent=ALL_TERMS)
    assert metrics["predicted_pass"].sum == pytest.approx(sum(map(predicted_pass_by_hand, range(ROWS))), rel=1e-5)
