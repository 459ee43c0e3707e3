"""iCoT against its authors' own training script: what is removed at each step, loss and gradient norms of it.

golden/README.md says how it was recorded.
"""

import dataclasses

import numpy as np
import pytest
from golden.authors import case

from colar_jax.data.packing import RowShape, fill
from colar_jax.methods import icot
from colar_jax.methods.icot import Icot
from colar_jax.methods.thinking.schedule import extra_removed

pytestmark = pytest.mark.slow  # a second to ten seconds each; CI runs them in its second step

PER_EPOCH, REMOVED, BEYOND = case.recorded("icot")["settings"].tolist()
METHOD = Icot(removed_per_epoch=REMOVED, all_beyond=BEYOND, smoothing=0.0)
SHAPE = RowShape(positions=36, tokens=36, supervised=32)
NUM_STEPS = len({name.split("/")[0] for name in case.recorded("icot")} - {"settings", "smoothing"})


def problems():
    """Theirs have one token for eos and for the separators, and a word before the answer."""
    encoded = case.encoded()
    answers = tuple(np.insert(answer, 0, 0).astype(np.int32) for answer in encoded.answers)
    return dataclasses.replace(encoded, answers=answers, separator_id=case.EOS)


def layout_of(number: int):
    """What our schedule leaves of the problem that theirs had in that step, one problem a step."""
    encoded, ids = problems(), case.of_variant("icot", f"step{number}")["ids"]
    heads = [encoded.prompt(problem, "auto").tolist() for problem in range(len(encoded))]
    problem = heads.index(ids[: len(heads[0])].tolist())
    phase = METHOD.make_loader(encoded, seed=0, rows=1, row_positions=60).schedule.phase(number / PER_EPOCH)
    return icot._lay_out(encoded, problem, phase.removed)


def test_what_is_removed():
    for number in range(NUM_STEPS):
        layout, ids = layout_of(number), case.of_variant("icot", f"step{number}")["ids"]
        np.testing.assert_array_equal(np.append(layout.token_ids_T, case.EOS), ids)
    assert NUM_STEPS == 20


def test_how_many_more_are_removed():
    """The share of examples that have n more removed, of theirs with a lambda of 0.7."""
    uniform = (np.arange(20_000) + 0.5) / 20_000
    removed = [extra_removed(0.7, float(number)) for number in uniform]
    shares = np.bincount(removed, minlength=8)[:8] / len(removed)
    np.testing.assert_allclose(shares, case.recorded("icot")["smoothing"], atol=1e-4)


@pytest.mark.parametrize("number", [0, 9, 19])
def test_loss_and_gradients(number):
    """The label that theirs does not have is the separator after the question."""
    expected, layout = case.of_variant("icot", f"step{number}"), layout_of(number)
    labels = np.where(np.arange(len(layout.label_ids_M)) == 0, -1, layout.label_ids_M).astype(np.int32)
    batch = fill([[dataclasses.replace(layout, label_ids_M=labels)]], SHAPE)
    loss, _, norms = case.evaluated(METHOD, batch)
    assert loss == pytest.approx(float(expected["loss"]), rel=case.LOSS)
    if "gradient_names" in expected:
        case.assert_norms(norms, expected)
