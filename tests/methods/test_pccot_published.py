"""PCCoT against its authors' own code: losses, latents and gradient norms on the small case (golden/README.md)."""

import numpy as np
import pytest
from golden.authors import case

from colar_jax.methods.pccot import Pccot

pytestmark = pytest.mark.slow  # a second to ten seconds each; CI runs them in its second step

SIZES = dict(num_latents=4, projection_size=32)
METHODS = {
    "two": Pccot(num_sweeps=2, distill_weight=2.0, **SIZES),
    "none": Pccot(num_sweeps=0, distill_weight=2.0, teacher_weight=0.5, student_weight=2.0, spread="all", **SIZES),
}
NAMES = {"ccot_loss": "cross_entropy", "cot_loss": "teacher_cross_entropy", "kd_loss": "distill_loss"}


@pytest.mark.parametrize("variant", METHODS)
def test_losses_latents_and_gradients(variant):
    method, expected = METHODS[variant], case.of_variant("pccot", variant)
    batch = case.without_first_labels(case.only_batch(method))
    loss, parts, norms = case.evaluated(method, batch)
    for theirs, ours in NAMES.items():
        assert parts[ours] == pytest.approx(float(expected[theirs]), rel=case.LOSS), theirs
    assert loss == pytest.approx(float(expected["loss"]), rel=case.LOSS)
    case.assert_norms(norms, expected)
    if method.num_sweeps:
        fed = case.latents_of(method, batch, case.encoded())
        np.testing.assert_allclose(fed, expected["latents"], rtol=0, atol=case.LATENT)
