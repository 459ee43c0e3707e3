"""A model that chooses its own speed: a head over a grid of speeds, learned from what the model itself gets right.

A stage of this method starts from one of CoLaR that is told its speed as a number. Before its first step it answers
training problems at every speed of the grid (`runs.speed_labels`). A problem's label is the set of speeds at which its
answer was right, or the fastest of them. The head alone is trained, on the hidden state of a question's last token;
what the model answers at a speed stays as it was.

With `mid_chain` the head also chooses anew where a line ends, and predicts which latents end one. Its labels come from
chains that begin at one speed of the grid and, after a line, go on at each of the others.

A stage of reinforcement learning (trainer "grpo") goes on from it: the choice is an action, drawn from the head, with a
log-probability and a ratio of its own (docs/rl.md).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.layout import Layout
from colar_jax.data.loader import Loader
from colar_jax.data.packing import Batch
from colar_jax.data.recipe import Recipe
from colar_jax.data.speed_changes import ends_line
from colar_jax.methods import method
from colar_jax.methods.colar import Colar, with_told
from colar_jax.methods.method import OF_DECISIONS, OF_DRAWN_LATENTS, Counts, Method, Thinking, objection_to
from colar_jax.metrics import Metric
from colar_jax.model.execution import Execution
from colar_jax.model.linear import along_last
from colar_jax.model.reasoner import OwnModule
from colar_jax.model.speed_choice import SPEED_CHOICE, SpeedChoice, SpeedChoiceConfig
from colar_jax.settings import DecodeConfig, parse_speeds
from colar_jax.settings.checks import one_of, require
from colar_jax.settings.on_resume import binding
from colar_jax.settings.speeds import TIMELINES, require_decimals
from colar_jax.weights.speed_choice_file import load_speed_choice, save_speed_choice


class _LabelledLoader(Loader):
    """Questions, each with its label at the last token of its prompt, and no other."""

    def _lay_out(self, example: int, epoch: int, plan) -> Layout:
        laid_out = super()._lay_out(example, epoch, plan)
        labels = np.full_like(laid_out.label_ids_M, -1)
        labels_N = self.encoded.speed_labels  # None where problems are assumed, to plan a step
        labels[0] = 0 if labels_N is None else labels_N[example]
        return dataclasses.replace(laid_out, label_ids_M=labels)


class _ChangeLoader(_LabelledLoader):
    """Questions and chains: a second label where each one's speed changes, and at every latent whether it ends a line.

    The latent before the change tells the new speed, so it is chosen where that latent is made: at the position before.
    """

    def _lay_out(self, example: int, epoch: int, plan) -> Layout:
        laid_out, encoded = super()._lay_out(example, epoch, plan), self.encoded
        labels, changes = laid_out.label_ids_M, encoded.speed_changes
        labels[0] |= IS_CHOICE
        ends_K = np.cumsum(laid_out.told[:-1]).astype(np.int64)
        # The first two places are the question's last token and the opening separator, which makes the first latent.
        labels[1 : 1 + len(ends_K)] = ENDS_LINE * ends_line(
            ends_K, len(encoded.steps[example]), encoded.step_starts[example]
        )
        if changes is not None and changes.labels_N[example] >= 0:
            labels[changes.after_N[example]] |= int(changes.labels_N[example]) | IS_CHOICE
        return laid_out

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        speeds, is_auto, phases = super()._draw(epoch)
        changes = self.encoded.speed_changes
        return (speeds if changes is None else changes.speeds_N), is_auto, phases


def fastest_right(right_KN: np.ndarray) -> np.ndarray:
    """Of each problem the index of its speed, int32 `[N]`: the last of `K` rising ones that was right, else 0."""
    fastest_N = right_KN.shape[0] - 1 - np.argmax(right_KN[::-1], axis=0)
    return np.where(right_KN.any(axis=0), fastest_N, 0).astype(np.int32)


def each_right(right_KN: np.ndarray) -> np.ndarray:
    """Of each problem which speeds were right, int32 `[N]`: bit k is set where speed k was."""
    return np.sum(right_KN << np.arange(len(right_KN))[:, None], axis=0, dtype=np.int32)


# Of rewards' settings, what also says how rollouts are drawn.
OF_ROLLOUTS = (
    "min_std",
    "final_min_std",
    "noise",
    "stop_odds_temperature",
    "final_stop_odds_temperature",
)
MOST_SPEEDS = 29  # of a grid: which of them were right is in one int32
# Of a label in mid-chain the two bits above: whether the latent ends a line, and whether there is a choice to learn.
ENDS_LINE, IS_CHOICE = 1 << 29, 1 << 30


@dataclasses.dataclass(frozen=True)
class OwnSpeed(Method):
    """A head that chooses a speed for each question (docs/speed.md)."""

    group = "own_speed"
    trains = (SPEED_CHOICE,)
    learns_from_answers = True
    learns_beside = True  # whatever it `learns` from rewards
    read_after_answers = ("labels", "mid_chain")
    chooses_speed = True
    calibrates = False  # latents are those of the stage that it starts from
    draws_latents = True
    takes_rewards = True

    grid: str = "1,1.5,2,2.5,3,4,5,6"  # what there is to choose from
    num_labelled: int = 4000  # training problems that are answered at every speed of the grid; 0: all
    # What the head learns of each speed by itself whether it was right at it (each), or which is the fastest that was
    # (fastest), where what is right at one speed is taken to be right at all slower ones.
    labels: str = binding("each", before="fastest")
    timeline: str = "latents"  # as the stage that it starts from (`latent.timeline`)
    # Whether it is asked again where lines end, so that a chain may change its speed; needs timeline=tokens.
    mid_chain: bool = False
    # Of a stage that learns from rewards: choice, the head alone, which cannot make answers worse; all, the model too.
    learns: str = "choice"

    def __post_init__(self):
        speeds = parse_speeds(self.grid, f"own_speed.grid={self.grid!r}")
        require(
            len(speeds) > 1 and "auto" not in speeds and list(speeds) == sorted(set(speeds)),
            f"own_speed.grid={self.grid!r}: list at least two numbers that rise, as in 1,2,4",
        )
        one_of("own_speed.labels", self.labels, ("each", "fastest"))
        require(len(speeds) <= MOST_SPEEDS, f"own_speed.grid={self.grid!r} has more than {MOST_SPEEDS} speeds")
        one_of("own_speed.timeline", self.timeline, TIMELINES)
        require_decimals("own_speed.grid", self.grid, self.timeline)
        require(
            not self.mid_chain or self.timeline == "tokens",
            "own_speed.mid_chain=True needs own_speed.timeline='tokens', where each latent is told its speed",
        )
        one_of("own_speed.learns", self.learns, ("choice", "all"))
        if self.learns == "all":
            object.__setattr__(self, "trains", (*Colar.trains, SPEED_CHOICE))
        require(self.num_labelled >= 0, f"own_speed.num_labelled={self.num_labelled} is negative: 0 means all")

    def objection_to_rewards(self, rl: Any) -> str:
        if self.learns == "all":
            return super().objection_to_rewards(rl)
        names = (*OF_DRAWN_LATENTS, *OF_DECISIONS, "answer_weight")
        idle = tuple(name for name in names if name not in OF_ROLLOUTS)
        return objection_to(rl, {"does nothing with own_speed.learns='choice', which trains the choice alone": idle})

    def labels_of(self, right_KN: np.ndarray) -> np.ndarray:
        """The labels of `N` problems, int32, from which of the grid's `K` speeds were right."""
        return each_right(right_KN) if self.labels == "each" else fastest_right(right_KN)

    @property
    def speeds(self) -> tuple[float, ...]:
        """The grid."""
        return tuple(map(float, parse_speeds(self.grid)))

    @property
    def modules(self) -> dict[str, OwnModule]:
        """The speed's embedding, as CoLaR trained it, and the choice."""
        config = SpeedChoiceConfig(self.speeds, of_each=self.labels == "each", mid_chain=self.mid_chain)
        choice = OwnModule(SpeedChoice, config, save_speed_choice, load_speed_choice)
        return self._colar.modules | {SPEED_CHOICE: choice}

    @property
    def _colar(self) -> Colar:
        """How the stage that it starts from was told its speeds, of these the grid."""
        return Colar(speeds=self.grid, conditioning="number", timeline=self.timeline, random_phase=False)

    @property
    def recipe(self) -> Recipe:
        return Recipe(speeds=self.speeds[:1], auto_probability=1.0, keeps_steps=False, conditioning="own")

    def make_loader(self, encoded: EncodedProblems, *, seed: int, rows: int, row_positions: int) -> Loader:
        sizes = dict(seed=seed, rows=rows, row_positions=row_positions)
        if self.mid_chain:
            return _ChangeLoader(encoded, self._colar.recipe, **sizes)
        return _LabelledLoader(encoded, self.recipe, **sizes)

    def objective(self, model, batch, keys_B, counts: Counts, compute: Execution):
        embeds_BSD = method.embed(model, batch, compute)
        if self.mid_chain:
            embeds_BSD = with_told(model, embeds_BSD, batch)
        hidden_BMD = method.supervised_hidden(model, embeds_BSD, batch, compute)
        hidden_BMD = jax.lax.stop_gradient(hidden_BMD)
        labels_BM, is_choice_BM = batch.label_ids_BM, self._is_choice(batch)
        loss_BM, right_BM = self._choices(model.speed_choice(hidden_BMD), labels_BM & (ENDS_LINE - 1))
        loss, own = jnp.sum(jnp.where(is_choice_BM, loss_BM, 0.0)), jnp.sum(is_choice_BM)
        metrics = {
            "cross_entropy": Metric(loss, own),
            "label_accuracy": Metric(jnp.sum(jnp.where(is_choice_BM, right_BM, 0.0)), own),
        }
        if not self.mid_chain:
            return loss / counts.labels, metrics
        is_end_BM, log_odds_BM = labels_BM & ENDS_LINE > 0, model.speed_choice.line_end(hidden_BMD)
        is_latent_BM = self._is_latent(batch)
        line_loss_BM = -jax.nn.log_sigmoid(jnp.where(is_end_BM, log_odds_BM, -log_odds_BM))
        line_loss = jnp.sum(jnp.where(is_latent_BM, line_loss_BM, 0.0))
        right_lines = jnp.sum(is_latent_BM & (is_end_BM == (log_odds_BM > 0)))
        metrics["line_accuracy"] = Metric(right_lines, jnp.sum(is_latent_BM))
        # Chains that are all empty have no latent.
        return loss / counts.labels + line_loss / jnp.maximum(counts.latents, 1), metrics

    def _is_choice(self, batch: Batch):
        """Where a speed is chosen and known to be right or wrong, bool `[B, M]`: of a batch's labels some, or all."""
        is_label_BM = batch.label_ids_BM >= 0
        return is_label_BM & (batch.label_ids_BM & IS_CHOICE > 0) if self.mid_chain else is_label_BM

    @staticmethod
    def _is_latent(batch: Batch):
        """Of a batch for `mid_chain`, which positions make a latent, `[B, M]`: the last of a mask makes `###`."""
        return batch.latent_mask_BM & (batch.label_ids_BM >= 0)

    def count(self, batch: Batch) -> Counts:
        counts = dataclasses.replace(super().count(batch), labels=jnp.sum(self._is_choice(batch)))
        return dataclasses.replace(counts, latents=jnp.sum(self._is_latent(batch))) if self.mid_chain else counts

    def _choices(self, logits_BMK, labels_BM):
        """The loss of each label and the share of it that is right, `[B, M]`."""
        labels_BM1 = labels_BM[..., None]
        if self.labels == "fastest":
            labels_BM1 = jnp.minimum(labels_BM1, len(self.speeds) - 1)  # what is no label has all bits set
            picked_BM1 = jnp.take_along_axis(jax.nn.log_softmax(logits_BMK), labels_BM1, axis=-1)
            return -picked_BM1[..., 0], (jnp.argmax(logits_BMK, axis=-1) == labels_BM1[..., 0]).astype(jnp.float32)
        is_right_BMK = (labels_BM1 >> along_last(jnp.arange(len(self.speeds)), labels_BM1)) & 1 == 1
        loss_BMK = -jax.nn.log_sigmoid(jnp.where(is_right_BMK, logits_BMK, -logits_BMK))
        return jnp.mean(loss_BMK, axis=-1), jnp.mean(is_right_BMK == (logits_BMK > 0), axis=-1)

    def thinking(self, decode: DecodeConfig, separator_id: int, *, greedy: bool) -> Thinking:
        thinking = Colar().thinking(decode, separator_id, greedy=greedy)
        return dataclasses.replace(thinking, changes_speed=self.mid_chain)
