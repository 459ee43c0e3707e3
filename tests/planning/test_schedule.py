"""A planned stage has the examples a step, and the steps, that training has."""

import pytest
from data.test_loader import arithmetic, made_up

from colar_jax.data.loader import Loader
from colar_jax.data.recipe import Recipe
from colar_jax.methods import METHODS
from colar_jax.planning.data_shape import PlannedData, Vocabulary
from colar_jax.planning.sft_programs import _examples_per_step, _steps_per_epoch


def planned(encoded, num_examples: int = 0) -> PlannedData:
    return PlannedData(Vocabulary(300, 0, 1), encoded, encoded, num_examples or len(encoded), is_assumed=False)


# Two examples fill a row, so there are 50; one of 101 is too long for it.
ENCODED = made_up([(10, 10, 3)] * 100 + [(60, 60, 3)], (1.0,))


@pytest.mark.parametrize("rows", [1, 7, 16, 17, 25, 26, 40, 50, 51, 200])
def test_a_step_has_as_many_examples_as_fill_its_rows(rows):
    """Whatever an epoch leaves over: of 50 rows and 26 a step it has one step, and 24 rows are no part of it."""
    loader = Loader(ENCODED, Recipe(speeds=(1.0,)), seed=0, rows=rows, row_positions=60)
    assert loader.num_left_out == 1 and len(loader._pack(0)) == 50
    per_step = _examples_per_step(loader, loader.batch(0), len(ENCODED))
    assert per_step == pytest.approx(2 * rows)
    assert _steps_per_epoch(loader, per_step, planned(ENCODED)) == loader.steps_per_epoch == max(1, 50 // rows)
    assert _steps_per_epoch(loader, per_step, planned(ENCODED, 101_000)) == 50_000 // rows


@pytest.mark.parametrize("rows", [1, 6, 7])
def test_so_has_one_of_a_method_that_removes_steps(rows):
    encoded = arithmetic()
    loader = METHODS["coconut"]().make_loader(encoded, seed=0, rows=rows, row_positions=160)
    per_step = _examples_per_step(loader, loader.batch(0), len(encoded))
    assert per_step == pytest.approx(loader.examples_per_step)
    assert _steps_per_epoch(loader, per_step, planned(encoded)) == loader.steps_per_epoch > 1
