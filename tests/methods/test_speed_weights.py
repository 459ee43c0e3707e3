"""What an example counts in the loss of CoLaR, at every speed."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from pico_model import ALONE, EXAMPLES, PLAIN, UNEVEN, assert_close, evaluated, packed_rows

from colar_jax.data.layout import Supervision, lay_out
from colar_jax.data.packing import RowShape, fill
from colar_jax.metrics import divide

LENGTHS = json.loads((Path(__file__).parents[2] / "benchmarks" / "gsm8k_lengths.json").read_text())[:300]
SPEEDS = (1, 2, 3, 4, 5)


def gsm8k_batch():
    """Problems of GSM8K's lengths in equations, each at every speed, one a row; and the speed of each row."""
    layouts = [
        lay_out(*(np.ones(n, np.int32) for n in lengths), 9, speed, np.zeros(lengths[1]), Supervision(latents=True))
        for lengths in LENGTHS
        for speed in SPEEDS
    ]
    shape = RowShape(*(max(len(getattr(one, name)) for one in layouts) for name in (
        "tokens_in_position_S", "token_ids_T", "label_ids_M")))  # fmt: skip
    return fill([[layout] for layout in layouts], shape), np.array(SPEEDS * len(LENGTHS))


def shares(of_terms_BM, speed_B) -> list[float]:
    of_speeds = [of_terms_BM[speed_B == speed].sum() for speed in SPEEDS]
    return [part / sum(of_speeds) for part in of_speeds]


def test_what_speeds_count_on_real_lengths():
    batch, speed_B = gsm8k_batch()
    is_label_BM = batch.label_ids_BM >= 0
    # By positions: the present form, and what made fast speeds count too little.
    assert shares(batch.latent_mask_BM, speed_B) == pytest.approx([0.41, 0.22, 0.15, 0.12, 0.10], abs=0.01)
    assert shares(is_label_BM, speed_B)[::4] == pytest.approx([0.35, 0.13], abs=0.02)
    # By examples: a fifth each, in the latent loss and in the cross-entropy.
    assert shares(batch.latent_shares_BM, speed_B) == pytest.approx([0.2] * 5)
    assert shares(batch.label_shares_BM, speed_B) == pytest.approx([0.2] * 5)
    np.testing.assert_allclose(batch.latent_shares_BM.sum(axis=1), 1, rtol=1e-6)
    assert not batch.label_shares_BM[~is_label_BM].any() and not batch.latent_shares_BM[~batch.latent_mask_BM].any()


@pytest.mark.parametrize("weighting", ["example", "position"])
def test_the_loss_of_a_batch_is_the_mean_of_its_examples(weighting):
    """By example it is; by position it is another number, because the slow ones have more of it."""
    latent = dataclasses.replace(PLAIN, weighting=weighting, entropy_weight=-0.3)
    alone = [float(evaluated([[number]], latent=latent)[0]) for number in range(len(EXAMPLES))]
    for rows in (packed_rows(), ALONE, UNEVEN):
        loss = float(evaluated(rows, latent=latent)[0])
        assert bool(np.isclose(loss, np.mean(alone), rtol=1e-5)) == (weighting == "example")


def test_what_is_logged_is_what_the_loss_is_made_of():
    loss, metrics, _ = evaluated(packed_rows())
    values = divide(metrics)
    assert_close(loss, values["cross_entropy"] + PLAIN.weight * values["latent_loss"])
    assert metrics["latent_loss"].count == metrics["cross_entropy"].count == len(EXAMPLES)
