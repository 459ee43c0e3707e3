"""The steps of a stage that learns from data, around a step that only counts."""

import dataclasses

import jax
import numpy as np
import optax

from colar_jax.parallel.mesh import make_mesh
from colar_jax.training.state import TrainState, initial_state
from colar_jax.training.trainer import SftTrainer

RESETS = (2, 5)  # before the third step, and before the sixth


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Row:
    """What a batch holds: the number of its step."""

    number_B: np.ndarray

    num_tokens = 1


class NumberedBatches:
    """A schedule that makes the optimizer forget now and then."""

    num_rows = 1

    def batch(self, step, rows=slice(None)):
        return Row(np.full(1, step)[rows])

    def num_examples(self, step):
        return 1

    def resets_optimizer(self, step):
        return step in RESETS


def counting_step(seen):
    """Adds 1 to the averages of gradients, and notes them as they were before, by the step's number."""

    def step(state, frozen, batch, key):
        adam, schedule = state.optimizer
        seen[int(batch.number_B[0])] = int(adam.count), float(adam.mu["weight"]), int(schedule.count)
        optimizer = jax.tree.map(lambda leaf: leaf + 1, state.optimizer)
        return TrainState(state.step + 1, state.trainable, optimizer), {}

    return step


def test_the_optimizer_forgets_before_the_steps_that_the_schedule_says():
    seen = {}
    trainer = SftTrainer(NumberedBatches(), counting_step(seen), make_mesh(jax.devices()[:1]), num_rows=1)
    optimizer = optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(lambda count: 1.0))
    state = initial_state({"weight": np.zeros(())}, optimizer)
    for start, stop in ((0, 5), (5, 7)):  # stopped where it forgets, and gone on with
        *_, (state, _, _) = trainer.steps(state, {}, jax.random.key(0), start, stop)
    # How many steps the moments remember, their mean, and of how many the learning rate's schedule knows.
    assert seen == {number: (age, age, number) for number, age in enumerate((0, 1, 0, 1, 2, 0, 1))}
