"""Adaptive latents: to stop thinking is a choice of the model, learned with CODI (arXiv 2511.21581; its code).

    q ### | z1 ... zn | ### a      z_1 = f(h(q ###)),  z_{i+1} = f(h(z_i))

After the question and after every latent the model chooses between two tokens, CONTINUE and STOP, whose rows are
weights of their own (`model.stop_choice`): of the whole vocabulary no other is left there. STOP is fed as `###`.
Latents are functions of the question, so that only the choices are drawn, and each has a log-probability.

In training a chain of s steps has n = min(num_latents, base_latents + latents_per_step * s) latents: 5 + s, no more
than 10 ("6-by-1" of the paper); `latents_per_step=0` has as many for all ("Latent-6": 6). The labels of the choices are
part of the student's cross-entropy; everything else is CODI's.

Reinforcement learning (`trainer=grpo`) goes on from here, paying lengths by `rl.length_credit=when_solved`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colar_jax.data.encoding import EncodedProblems
from colar_jax.decoding.decisions import decision_log_prob, draw_stop
from colar_jax.decoding.thinking import Determined, Thought
from colar_jax.losses import masked_sum
from colar_jax.methods.codi import PROJECTION, Codi, CodiCounts, count_supervised
from colar_jax.methods.method import OF_DRAWN_LATENTS, Thinking
from colar_jax.methods.thinking.schedule import LatentsByStep, Phase
from colar_jax.methods.thinking.staged_loader import Dealt, Form, Room, StagedLoader
from colar_jax.methods.thinking.thought_chain import Latents
from colar_jax.methods.thinking.thought_rows import ThoughtBatch
from colar_jax.metrics import Metric
from colar_jax.model.execution import Execution
from colar_jax.model.reasoner import OwnModule, Reasoner
from colar_jax.model.stop_choice import STOP_CHOICE, StopChoice, StopChoiceConfig
from colar_jax.settings import DecodeConfig
from colar_jax.settings.checks import require
from colar_jax.weights.stop_choice_file import load_stop_choice, save_stop_choice


@dataclasses.dataclass(frozen=True)
class _Rows:
    """CODI's rows, in which what follows the last latent is the choice to stop, and no token."""

    codi: Form

    def sizes(self, encoded: EncodedProblems, kept_N: np.ndarray, examples_N=slice(None)) -> np.ndarray:
        return self.codi.sizes(encoded, kept_N, examples_N)

    def fill(self, encoded: EncodedProblems, rows: list[list[Dealt]], room: Room) -> ThoughtBatch:
        batch = self.codi.fill(encoded, rows, room)
        return dataclasses.replace(batch, first_labels_BE=np.full_like(batch.first_labels_BE, -1))


def num_choices(batch: ThoughtBatch):
    """How many choices a batch teaches: one more than it has latents, of each example."""
    return jnp.sum(jnp.where(batch.question_lengths_BE > 0, batch.num_latents_BE + 1, 0))


@dataclasses.dataclass(frozen=True)
class Adaptive(Codi):
    """CODI with a length of its own (arXiv 2511.21581)."""

    group = "adaptive"
    trains = ("llama", PROJECTION, STOP_CHOICE)
    old_names = {}
    idle_in_rewards = {"does nothing: no latent is drawn": OF_DRAWN_LATENTS}

    num_latents: int = 10  # the most that a chain has in training
    base_latents: int = 5  # and what it has besides those of its steps
    latents_per_step: int = 1  # 0: base_latents, whatever the number of steps
    distill_embedding: bool = False  # its distance is that of the layers

    def __post_init__(self):
        super().__post_init__()
        for field in ("base_latents", "latents_per_step"):
            require(getattr(self, field) >= 0, f"adaptive.{field}={getattr(self, field)} is negative")
        require(
            self.base_latents + self.latents_per_step > 0,
            "adaptive.base_latents=0 and adaptive.latents_per_step=0 leave no latent to learn: take one of them",
        )

    @property
    def modules(self) -> dict[str, OwnModule]:
        """The projection, where it has a size, and the rows of the choice."""
        choice = OwnModule(StopChoice, StopChoiceConfig(), save_stop_choice, load_stop_choice)
        return super().modules | {STOP_CHOICE: choice}

    @property
    def takes_rewards(self) -> bool:
        return True

    def objection_to_rewards(self, rl: Any) -> str:
        if rl.rollout_dropout:
            return "rollout_dropout=True: latents are computed anew in an update, which knows no mask of a rollout"
        return super().objection_to_rewards(rl)

    def make_loader(self, encoded: EncodedProblems, *, seed: int, rows: int, row_positions: int) -> StagedLoader:
        schedule = LatentsByStep(
            Phase(removed=0, num_latents=self.num_latents), base=self.base_latents, per_step=self.latents_per_step
        )
        form = self.form(encoded)
        return StagedLoader(encoded, schedule, form, seed=seed, rows=rows, row_positions=row_positions)

    def form(self, encoded: EncodedProblems) -> Form:
        return _Rows(super().form(encoded))

    def count(self, batch: ThoughtBatch) -> CodiCounts:
        """The student's labels are its choices, too."""
        of_words = count_supervised(batch)
        return dataclasses.replace(of_words, student=of_words.student + num_choices(batch))

    def further_loss(self, model, trunk, latents: Latents, batch: ThoughtBatch, counts: CodiCounts, compute: Execution):
        """The cross-entropy of the choices: to go on before each latent of an example, and to stop after its last."""
        is_real_BE = batch.question_lengths_BE > 0
        step_L = jnp.arange(latents.states_BLED.shape[1])
        goes_on_BLE = step_L[None, :, None] < jnp.where(is_real_BE, batch.num_latents_BE, 0)[:, None]
        before_BLE = model.stop_choice.margin(latents.states_BLED)
        after_BE = model.stop_choice.margin(latents.last_hidden_BED)
        loss = masked_sum(jax.nn.softplus(before_BLE), goes_on_BLE) + masked_sum(jax.nn.softplus(-after_BE), is_real_BE)
        right = jnp.sum(goes_on_BLE & (before_BLE <= 0)) + jnp.sum(is_real_BE & (after_BE > 0))
        own = num_choices(batch)
        metrics = {"choice_cross_entropy": Metric(loss, own), "choice_accuracy": Metric(right, own)}
        return self.student_weight * loss / counts.student, metrics

    def stop_log_odds(self, model: Reasoner, hidden):
        """Of stopping at hidden states `[..., D]`, float32 `[...]`."""
        return model.stop_choice.margin(hidden)

    def thinking(self, decode: DecodeConfig, separator_id: int, *, greedy: bool) -> Thinking:
        def think(model: Reasoner, hidden_BD, keys_B) -> Thought:
            embed_BD = self.project(model, hidden_BD)
            log_odds_B = self.stop_log_odds(model, hidden_BD)
            if greedy:
                stop_B = log_odds_B > 0
            else:
                log_odds_B = log_odds_B / decode.stop_temperature / decode.stop_odds_temperature
                stop_B = draw_stop(keys_B, log_odds_B)
            zeros_B = jnp.zeros(hidden_BD.shape[0], jnp.float32)
            decision_B, end_B = decision_log_prob(log_odds_B, stop_B), decision_log_prob(log_odds_B, True)
            return Thought(embed_BD, embed_BD, zeros_B, stop_B, decision_B, end_B)

        limits = {"max_thoughts": decode.max_latents, "min_thoughts": decode.min_latents}
        return Thinking(think, **limits, reads_words=False, way="chosen_stop")

    def rollout_thinking(self, decode: DecodeConfig, separator_id: int) -> Thinking:
        thinking = self.thinking(decode, separator_id, greedy=False)

        def think(model: Reasoner, hidden_BD, keys_B) -> Thought:
            thought = thinking.think(model, hidden_BD, keys_B)
            return dataclasses.replace(thought, record=Determined(thought.log_prob_B[:, None], self))

        return dataclasses.replace(thinking, think=think)
