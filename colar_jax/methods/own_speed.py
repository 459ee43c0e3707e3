"""A model that chooses its own speed: a head over a grid of speeds, learned from what the model itself gets right.

A stage of this method starts from one of CoLaR that is told its speed as a number. Before its first step it answers
training problems at every speed of the grid (`runs.speed_labels`); the label of a problem is the fastest speed at which
it was right, or the slowest where it never was. The head alone is trained, on the hidden state of a question's last
token; what the model answers at a speed stays as it was.

A stage of reinforcement learning (trainer "grpo") goes on from it: the choice is an action, drawn from the head, with a
log-probability and a ratio of its own (docs/rl.md).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.layout import Layout
from colar_jax.data.loader import Loader
from colar_jax.data.recipe import Recipe
from colar_jax.methods import method
from colar_jax.methods.colar import Colar
from colar_jax.methods.method import Counts, Method, Thinking
from colar_jax.metrics import Metric
from colar_jax.model.execution import Execution
from colar_jax.model.reasoner import OwnModule
from colar_jax.model.speed_choice import SPEED_CHOICE, SpeedChoice, SpeedChoiceConfig
from colar_jax.settings import DecodeConfig, parse_speeds
from colar_jax.settings.checks import one_of, require
from colar_jax.settings.speeds import TIMELINES
from colar_jax.weights.speed_choice_file import load_speed_choice, save_speed_choice


class _LabelledLoader(Loader):
    """Questions, each with its label at the last token of its prompt, and no other."""

    def _lay_out(self, example: int, epoch: int, plan) -> Layout:
        laid_out = super()._lay_out(example, epoch, plan)
        labels = np.full_like(laid_out.label_ids_M, -1)
        labels_N = self.encoded.speed_labels  # None where problems are assumed, to plan a step
        labels[0] = 0 if labels_N is None else labels_N[example]
        return dataclasses.replace(laid_out, label_ids_M=labels)


def speed_labels(right_KN: np.ndarray) -> np.ndarray:
    """Of each problem the index of its speed, int32 `[N]`: the last of `K` rising ones that was right, else 0."""
    fastest_N = right_KN.shape[0] - 1 - np.argmax(right_KN[::-1], axis=0)
    return np.where(right_KN.any(axis=0), fastest_N, 0).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class OwnSpeed(Method):
    """A head that chooses a speed for each question (docs/speed.md)."""

    group = "own_speed"
    trains = (SPEED_CHOICE,)
    learns_from_answers = True
    chooses_speed = True
    calibrates = False  # latents are those of the stage that it starts from
    draws_latents = True
    takes_rewards = True

    grid: str = "1,1.5,2,2.5,3,4,5,6"  # what there is to choose from
    num_labelled: int = 4000  # training problems that are answered at every speed of the grid; 0: all
    timeline: str = "latents"  # as the stage that it starts from (`latent.timeline`)
    # Of a stage that learns from rewards: choice, the head alone, which cannot make answers worse; all, the model too.
    learns: str = "choice"

    def __post_init__(self):
        speeds = parse_speeds(self.grid)
        require(
            len(speeds) > 1 and "auto" not in speeds and list(speeds) == sorted(set(speeds)),
            f"own_speed.grid={self.grid!r}: list at least two numbers that rise, as in 1,2,4",
        )
        one_of("own_speed.timeline", self.timeline, TIMELINES)
        one_of("own_speed.learns", self.learns, ("choice", "all"))
        if self.learns == "all":
            object.__setattr__(self, "trains", (*Colar.trains, SPEED_CHOICE))
        require(self.num_labelled >= 0, f"own_speed.num_labelled={self.num_labelled} is negative: 0 means all")

    @property
    def speeds(self) -> tuple[float, ...]:
        """The grid."""
        return tuple(map(float, parse_speeds(self.grid)))

    @property
    def modules(self) -> dict[str, OwnModule]:
        """The speed's embedding, as CoLaR trained it, and the choice."""
        choice = OwnModule(SpeedChoice, SpeedChoiceConfig(self.speeds), save_speed_choice, load_speed_choice)
        return Colar(conditioning="number", timeline=self.timeline).modules | {SPEED_CHOICE: choice}

    @property
    def recipe(self) -> Recipe:
        return Recipe(speeds=self.speeds[:1], auto_probability=1.0, keeps_steps=False, conditioning="own")

    def make_loader(self, encoded: EncodedProblems, *, seed: int, rows: int, row_positions: int) -> Loader:
        return _LabelledLoader(encoded, self.recipe, seed=seed, rows=rows, row_positions=row_positions)

    def objective(self, model, batch, keys_B, counts: Counts, compute: Execution):
        hidden_BMD = method.supervised_hidden(model, method.embed(model, batch, compute), batch, compute)
        logits_BMK = model.speed_choice(jax.lax.stop_gradient(hidden_BMD))
        is_label_BM, labels_BM1 = batch.label_ids_BM >= 0, jnp.maximum(batch.label_ids_BM, 0)[..., None]
        picked_BM = jnp.take_along_axis(jax.nn.log_softmax(logits_BMK), labels_BM1, axis=-1)[..., 0]
        loss = -jnp.sum(jnp.where(is_label_BM, picked_BM, 0.0))
        right = jnp.sum(is_label_BM & (jnp.argmax(logits_BMK, axis=-1) == labels_BM1[..., 0]))
        own = method.count(batch)
        metrics = {"cross_entropy": Metric(loss, own.labels), "label_accuracy": Metric(right, own.labels)}
        return loss / counts.labels, metrics

    def thinking(self, decode: DecodeConfig, separator_id: int, dtype: jnp.dtype, greedy: bool) -> Thinking:
        return Colar().thinking(decode, separator_id, dtype, greedy)
