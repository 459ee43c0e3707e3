"""RuPLaR and Latent-SFT against their authors' own code: loss and gradient norms (golden/README.md).

Theirs take no gradient of the embeddings that are fed, which adapters leave alone anyway: that norm is left out.
"""

import dataclasses

import numpy as np
import pytest
from golden.authors import case

from colar_jax.methods import latent_sft
from colar_jax.methods.latent_sft import LatentSft
from colar_jax.methods.ruplar import Ruplar

pytestmark = pytest.mark.slow  # a second to ten seconds each; CI runs them in its second step

RUPLAR = Ruplar(kl_weight=0.7, sem_weight=0.4)


class FromTheStart(LatentSft):
    """With groups that begin with the chain."""

    @property
    def recipe(self):
        return dataclasses.replace(super().recipe, random_phase=False)


LATENT_SFT = FromTheStart(kl_weight=0.7)


def with_their_shares(batch):
    """Shares of a step's tokens as the recorded run had them: in place of what a rule says."""
    weights_BT = np.where(batch.shares_BT > 0, np.exp(-(batch.token_ids_BT % 7.0)), 0.0)
    sums = [np.bincount(at, weights)[at] for at, weights in zip(batch.token_positions_BT, weights_BT, strict=True)]
    return dataclasses.replace(batch, shares_BT=(weights_BT / np.maximum(sums, 1e-30)).astype(np.float32))


def assert_as_recorded(method, batch, name: str) -> None:
    expected = case.of_variant("mixtures", name)
    loss, _, norms = case.evaluated(method, batch)
    assert loss == pytest.approx(float(expected["loss"]), rel=case.LOSS)
    case.assert_norms(norms, expected, but="llm.model.embed_tokens.weight")


def test_ruplar():
    batch = with_their_shares(case.only_batch(RUPLAR))
    shares = batch.shares_BT[batch.shares_BT > 0]
    assert (shares < RUPLAR.min_share).any()
    assert_as_recorded(RUPLAR, batch, "modeling_RuPLaR")


def test_latent_sft(monkeypatch):
    monkeypatch.setattr(latent_sft, "label_noise", lambda batch, keys_B: (batch.token_ids_BT % 10) * 0.45 - 1.5)
    loader = LATENT_SFT.make_loader(case.encoded(speeds=("auto", "2")), seed=0, rows=4, row_positions=60)
    batch = loader.batch(0)
    assert batch.num_examples == len(case.encoded())
    assert_as_recorded(LATENT_SFT, batch, "modeling_stage2")
