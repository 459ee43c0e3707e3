"""Coconut against its authors' own code, stage by stage: loss, latents and gradient norms (golden/README.md)."""

import dataclasses

import numpy as np
import pytest
from golden.authors import case

from colar_jax.methods.coconut import Coconut
from colar_jax.methods.thinking.thought_chain import run_latents

pytestmark = pytest.mark.slow  # a second to ten seconds each; CI runs them in its second step

METHOD = Coconut(num_stages=3, latents_per_stage=2, epochs_per_stage=1.0)
UNPADDED = dataclasses.replace(METHOD, pad_latents=False)
MARKED = dataclasses.replace(METHOD, end_marker=True)
VARIANTS = {"stage3": (METHOD, 3), "unpadded": (UNPADDED, 4), "marked": (MARKED, 1)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_latents_and_gradients(variant):
    """An epoch is one step and a stage one epoch; theirs counts stages from 0, which is a chain of thought."""
    method, stage = VARIANTS[variant]
    expected = case.of_variant("coconut", variant)
    problems = case.encoded((1, 2, 3) if variant == "marked" else (0, 1, 2, 3))
    batch = case.only_batch(method, problems, step=stage - 1)
    if variant == "marked":  # theirs is not told to learn the marker that is always there
        batch = case.without_first_labels(batch)
    loss, _, norms = case.evaluated(method, batch)
    assert loss == pytest.approx(float(expected["loss"]), rel=case.LOSS)
    case.assert_norms(norms, expected)
    fed = case.latents_of(
        method, batch, problems, lambda *at: run_latents(*at[:3], method.max_latents, method.fed, *at[3:])
    )
    fed = fed[:, : expected["latents"].shape[1]]
    is_real = np.isfinite(expected["latents"])
    np.testing.assert_allclose(fed[is_real], expected["latents"][is_real], rtol=0, atol=case.LATENT)
