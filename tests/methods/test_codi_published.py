"""CODI against its authors' own code: losses, latents and gradient norms on the small case (golden/README.md)."""

import numpy as np
import pytest
from golden.authors import case

from colar_jax.methods.codi import Codi

pytestmark = pytest.mark.slow  # a second to ten seconds each; CI runs them in its second step

SIZES = dict(num_latents=3, projection_size=32)
METHODS = {
    "usual": Codi(distill_weight=20.0, **SIZES),
    "other": Codi(
        distill_weight=1.0,
        normalise=False,
        teacher_weight=0.5,
        teacher_last_step=True,
        projection_layer_norm=False,
        **SIZES,
    ),
}


@pytest.mark.parametrize("variant", METHODS)
def test_losses_and_gradients(variant):
    method, expected = METHODS[variant], case.of_variant("codi", variant)
    loss, parts, norms = case.evaluated(method, case.without_first_labels(case.only_batch(method)))
    # Theirs are multiplied by their weights already.
    weights = {"ce_loss": 1.0, "ref_ce_loss": method.teacher_weight, "distill_loss": method.distill_weight}
    names = {"ce_loss": "cross_entropy", "ref_ce_loss": "teacher_cross_entropy", "distill_loss": "distill_loss"}
    for theirs, weight in weights.items():
        assert parts[names[theirs]] * weight == pytest.approx(float(expected[theirs]), rel=case.LOSS), theirs
    assert loss == pytest.approx(float(expected["loss"]), rel=case.LOSS)
    case.assert_norms(norms, expected)


@pytest.mark.parametrize("variant", METHODS)
def test_latents(variant):
    fed = case.latents_of(METHODS[variant], case.only_batch(METHODS[variant]), case.encoded())
    np.testing.assert_allclose(fed, case.of_variant("codi", variant)["latents"], rtol=0, atol=case.LATENT)
