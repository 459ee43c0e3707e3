"""SIM-CoT against its authors' own code, on Coconut and on CODI: losses and gradient norms (golden/README.md)."""

import pytest
from golden.authors import case

from colar_jax.methods.sim_cot import SimCoconut, SimCodi

pytestmark = pytest.mark.slow  # a second to ten seconds each; CI runs them in its second step

COCONUT = SimCoconut(num_stages=3, latents_per_stage=2, epochs_per_stage=1.0)
CODI = SimCodi(num_latents=2, projection_size=32, distill_weight=20.0, spelling_weight=0.7)


@pytest.mark.parametrize("stage", [1, 4])
def test_on_coconut(stage):
    expected = case.of_variant("sim_cot", f"coconut/stage{stage}")
    problems = case.encoded(line_breaks=True)
    batch = case.only_batch(COCONUT, problems, step=stage - 1)
    loss, _, norms = case.evaluated(COCONUT, batch)
    assert loss == pytest.approx(float(expected["loss"]), rel=case.LOSS)
    case.assert_norms(norms, expected)


@pytest.mark.parametrize("problem", [0, 3])
def test_on_codi(problem):
    """The first one's chain is none without its last step: there is nothing to write."""
    expected = case.of_variant("sim_cot", f"codi/problem{problem}")
    batch = case.without_first_labels(case.only_batch(CODI, case.encoded((problem,))))
    loss, parts, norms = case.evaluated(CODI, batch)
    assert parts["spelling_loss"] * CODI.spelling_weight == pytest.approx(
        float(expected["explain_loss"]), rel=case.LOSS
    )
    assert loss == pytest.approx(float(expected["loss"]), rel=case.LOSS)
    case.assert_norms(norms, expected)
