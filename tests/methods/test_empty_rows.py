"""Rows without an example, which make a batch divide by the devices, change neither a loss nor a gradient."""

import jax
import numpy as np
import pytest
from cases import fast
from flax import nnx
from parallel.meshes import bound_method, model
from pico_model import assert_close
from pico_thoughts import COMPUTE, problems

from colar_jax.methods import METHODS
from colar_jax.methods.method import Method
from colar_jax.training.state import join, partition

ROWS, EMPTY = 3, 2
# Packed rows are in `tests/data/test_loader.py` and `tests/training/test_step.py`.
STAGED = [
    name
    for name, kind in METHODS.items()
    if kind.make_loader is not Method.make_loader and name not in ("own_speed", "sim_colar")
]


@pytest.mark.parametrize("name", fast(STAGED, "codi"))
def test_rows_without_an_example_change_nothing(name):
    method, (graph, parameters) = bound_method(name), model(False, name)
    trainable, frozen = partition(parameters, method.trains)
    loader = method.make_loader(problems(40), seed=0, rows=ROWS, row_positions=80)

    @jax.jit
    def of_batch(batch):
        def loss(trainable):
            keys_B = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(5), batch.row_ids_B)
            model = nnx.merge(graph, join(trainable, frozen))
            return method.objective(model, batch, keys_B, method.count(batch), COMPUTE)

        return jax.value_and_grad(loss, has_aux=True)(trainable)

    batch, longer = loader.batch(0), loader.batch(0, slice(0, ROWS + EMPTY))
    assert len(longer.row_ids_B) == ROWS + EMPTY and longer.num_examples == batch.num_examples > ROWS
    jax.tree.map(lambda leaf, part: np.testing.assert_array_equal(leaf, part[:ROWS]), batch, longer)
    (loss, metrics), gradients = of_batch(longer)
    (wanted, wanted_metrics), wanted_gradients = of_batch(batch)
    assert float(loss) == pytest.approx(float(wanted), rel=1e-6)
    assert_close(metrics, wanted_metrics)
    assert_close(gradients, wanted_gradients)
