"""Coconut: stage by stage, steps give way to latents, each the last hidden state before it (arXiv 2412.06769).

    z_1 = h(question ###),  z_{i+1} = h(z_i);   loss = mean cross-entropy over the remaining steps, `###` and the answer

Decoded as in its last stage: all latents, then `###` and the answer.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.prompts import AUTO_SPEED
from colar_jax.data.recipe import Recipe
from colar_jax.methods.method import Method, Thinking
from colar_jax.methods.thinking import thought_chain, thought_rows
from colar_jax.methods.thinking.schedule import LatentStages
from colar_jax.methods.thinking.staged_loader import Dealt, Form, Room, StagedLoader
from colar_jax.methods.thinking.thought_chain import rescaled, unchanged
from colar_jax.methods.thinking.thought_rows import ThoughtBatch, ThoughtExample, ThoughtShape
from colar_jax.metrics import Metric
from colar_jax.model.execution import Execution
from colar_jax.settings import DecodeConfig
from colar_jax.settings.checks import require


@dataclasses.dataclass(frozen=True)
class CoconutRows:
    """Questions in the trunk; what is left of the steps, and the answer, in the tail."""

    end_marker: bool

    def sizes(self, encoded: EncodedProblems, kept_N: np.ndarray, examples_N=slice(None)) -> np.ndarray:
        questions_N = encoded.prompt_lengths(AUTO_SPEED)[examples_N] + 1
        tails_N = kept_N + self.end_marker + encoded.answer_lengths[examples_N]
        return np.stack([questions_N, tails_N], axis=1)

    def fill(self, encoded: EncodedProblems, rows: list[list[Dealt]], room: Room) -> ThoughtBatch:
        trunk, tail = room.positions
        shape = ThoughtShape(trunk, supervised=0, tail=tail, examples=room.examples)
        return thought_rows.fill_thought_rows([[self._example(encoded, one) for one in row] for row in rows], shape)

    def _example(self, encoded: EncodedProblems, dealt: Dealt) -> ThoughtExample:
        example, removed, num_latents = dealt
        separator, answer_ids = np.array([encoded.separator_id], np.int32), encoded.answers[example]
        step_ids = encoded.steps[example][removed:]
        is_marked = self.end_marker and num_latents > 0 and len(step_ids) > 0
        return ThoughtExample(
            prompt_ids=np.append(encoded.prompt(example, AUTO_SPEED), separator),
            teacher_ids=separator[:0],
            tail_ids=np.concatenate([separator[: int(is_marked)], step_ids, separator, answer_ids]),
            before_answer=encoded.shared_answer_tokens(example),
            num_answer=len(answer_ids),
            num_latents=num_latents,
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CoconutCounts:
    """What a step supervises: the labels that follow the latents."""

    labels: jax.Array


def count_labels(batch: ThoughtBatch) -> CoconutCounts:
    """What this batch supervises."""
    return CoconutCounts(jnp.sum(batch.first_labels_BE >= 0) + jnp.sum(batch.tail_labels_BT >= 0))


def coconut_loss(model, batch: ThoughtBatch, keys_B, counts: CoconutCounts, coconut: "Coconut", compute: Execution):
    """The part's share of the mean cross-entropy, with gradients through all latents and their question."""
    with jax.named_scope("question"):
        trunk = thought_chain.run_trunk(model, batch, compute, keys_B)
    with jax.named_scope("latents"):
        latents = thought_chain.run_latents(model, trunk, batch, coconut.max_latents, coconut.fed, compute, keys_B)
    with jax.named_scope("tail"):
        hidden_BTD, _ = thought_chain.run_tail(model, trunk, latents, batch, compute, keys_B)
    loss_sum, right = thought_chain.tail_loss(model, latents, hidden_BTD, batch, compute)
    own = count_labels(batch).labels
    further, more = coconut.further_loss(model, latents, batch, counts, compute)
    metrics = {
        "cross_entropy": Metric(loss_sum, own),
        "label_accuracy": Metric(right, own),
        "latents": Metric(jnp.sum(batch.num_latents_BE), jnp.sum(batch.question_lengths_BE > 0)),
    }
    return loss_sum / counts.labels + further, metrics | more


@dataclasses.dataclass(frozen=True)
class Coconut(Method):
    """The curriculum of continuous thoughts (arXiv 2412.06769, section 3): stage s has s steps replaced by latents."""

    group = "coconut"

    num_stages: int = 3  # of the curriculum, before the final one
    latents_per_stage: int = 2  # latents that replace a step
    epochs_per_stage: float = 3.0  # of the first stages; the final one has the rest
    final_stage: bool = True  # one more stage, without any step left; False: the last stage is that, as CoLaR's authors
    reset_optimizer: bool = True  # forget the moments when a stage begins
    reset_each_epoch: bool = False  # and when an epoch does, as the authors
    uniform_probability: float = 0.0  # how often an example is in a stage drawn from 0 to its number of steps
    pad_latents: bool = True  # False: where no step is left, an example has latents for the steps that it had, no more
    end_marker: bool = False  # whether `###` ends the latents also where steps follow them
    # Feed hidden states at the scale of embeddings. Unscaled they are far larger, and much alike.
    rescale: bool = False

    def __post_init__(self):
        require(
            0 <= self.uniform_probability < 1,
            f"{self.group}.uniform_probability={self.uniform_probability} is not in [0, 1)",
        )
        for field in ("num_stages", "latents_per_stage", "epochs_per_stage"):
            require(getattr(self, field) > 0, f"{self.group}.{field}={getattr(self, field)} must be positive")

    @property
    def max_latents(self) -> int:
        """How many latents a trained model thinks."""
        return self.num_stages * self.latents_per_stage

    @property
    def recipe(self) -> Recipe:
        return Recipe(speeds=(1.0,), prompt_speed=AUTO_SPEED)

    def make_loader(self, encoded: EncodedProblems, *, seed: int, rows: int, row_positions: int) -> StagedLoader:
        schedule = LatentStages(
            self.num_stages,
            self.latents_per_stage,
            self.epochs_per_stage,
            self.final_stage,
            resets_optimizer=self.reset_optimizer,
            uniform_probability=self.uniform_probability,
            pads_latents=self.pad_latents,
            resets_each_epoch=self.reset_each_epoch,
        )
        form = self.form(encoded)
        return StagedLoader(encoded, schedule, form, seed=seed, rows=rows, row_positions=row_positions)

    def form(self, encoded: EncodedProblems) -> Form:
        """What a batch holds of each of these problems."""
        return CoconutRows(self.end_marker)

    @property
    def calibrates(self) -> bool:
        """The scale of embeddings is that of what the stage starts from."""
        return self.rescale

    @property
    def fed(self):
        """What makes a hidden state the next input."""
        return rescaled if self.rescale else unchanged

    def count(self, batch: ThoughtBatch) -> CoconutCounts:
        return count_labels(batch)

    def further_loss(self, model, latents, batch, counts, compute: Execution):
        """What a method built on this one adds, from the latents: a loss and its metrics."""
        return 0.0, {}

    def objective(self, model, batch: ThoughtBatch, keys_B, counts: CoconutCounts, compute: Execution):
        return coconut_loss(model, batch, keys_B, counts, self, compute)

    def thinking(self, decode: DecodeConfig, separator_id: int, *, greedy: bool) -> Thinking:
        way = "rescaled_states" if self.rescale else "hidden_states"
        return thought_chain.fixed_thinking(self.max_latents, self.fed, way=way)
