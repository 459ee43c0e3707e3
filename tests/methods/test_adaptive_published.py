"""Adaptive latents against their authors' own code: three losses and gradient norms (golden/README.md).

Their embedding matrix has more rows than ours, with our `###` in three of them: its gradient is left out.
"""

import numpy as np
import pytest
from golden.authors import case

from colar_jax.config import RlConfig
from colar_jax.methods.adaptive import Adaptive
from colar_jax.rl.lengths import LENGTH_CREDITS, Outcomes

pytestmark = pytest.mark.slow  # a second to ten seconds each; CI runs them in its second step

METHOD = Adaptive(num_latents=4, base_latents=1, latents_per_step=1, projection_size=32)


def test_losses_and_gradients():
    """Their cross-entropy of the student is one mean over its choices and its answer."""
    expected = case.recorded("adaptive")
    loss, parts, norms = case.evaluated(METHOD, case.only_batch(METHOD))
    choices, words = 2 + 3 + 4 + 4 + 4, sum(len(answer) for answer in case.encoded().answers)
    student = (parts["choice_cross_entropy"] * choices + parts["cross_entropy"] * words) / (choices + words)
    assert student == pytest.approx(float(expected["student_ce_loss"]), rel=case.LOSS)
    assert parts["teacher_cross_entropy"] == pytest.approx(float(expected["teacher_ce_loss"]), rel=case.LOSS)
    assert parts["distill_loss"] * METHOD.distill_weight == pytest.approx(float(expected["codi_loss"]), rel=case.LOSS)
    assert loss == pytest.approx(float(expected["total_loss"]), rel=case.LOSS)
    assert norms.pop("stop_choice.rows") == pytest.approx(float(expected["choice_norm"]), rel=case.GRADIENT)
    case.assert_norms(norms, expected, but="llm.model.embed_tokens.weight")


def test_rewards_for_lengths():
    """Right answers, of which the shorter ones are paid where all are right, the longer ones where not."""
    recorded = case.of_variant("adaptive", "rewards")
    right_QG, lengths_QG = recorded["right"], recorded["lengths"]
    outcomes = Outcomes(right_QG.astype(float), right_QG, lengths_QG, np.zeros_like(right_QG), max_latents=10)
    bonus_QG = LENGTH_CREDITS["when_solved"](outcomes, RlConfig(), 0.5).reward_QG
    np.testing.assert_allclose(right_QG + bonus_QG, recorded["found"], atol=1e-6)
    assert (bonus_QG[0] != 0).any() and not bonus_QG[1:3].any() and (bonus_QG[3:] != 0).any()
