"""What a method is: how its examples are made, what it minimises, and how it thinks when decoding."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.loader import Batches, Loader
from colar_jax.data.packing import Batch
from colar_jax.data.problems import Problem
from colar_jax.data.recipe import Recipe
from colar_jax.decoding.loops import DecodeLimits
from colar_jax.decoding.thinking import Think, word_thinker
from colar_jax.losses import cross_entropy_sum, gather_positions
from colar_jax.metrics import Metric
from colar_jax.model.execution import Execution
from colar_jax.model.reasoner import OwnModule, Reasoner
from colar_jax.model.visibility import packed
from colar_jax.settings import DecodeConfig, ModelConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Counts:
    """How much of each kind a whole optimizer step supervises: over all its microbatches and devices."""

    labels: jax.Array
    latents: jax.Array
    answers: jax.Array  # labels after the reasoning
    examples: jax.Array


@dataclasses.dataclass(frozen=True)
class Thinking:
    """How a method thinks: the function, and its limits."""

    think: Think
    max_thoughts: int
    min_thoughts: int = 0
    in_words: bool = False  # whether a thought is a token, and its record the token's id
    reads_words: bool = True  # whether it asks the language head: for a word, or whether to stop
    mixes_words: bool = False  # whether a latent is a mixture of all tokens' embeddings: one more product as large
    sweeps: int | None = None  # all thoughts are made at once, in so many sweeps (`decoding.swept`); None: in turn
    is_fixed: bool = False  # whether each chain has `max_thoughts`, in training as well: answers stand nowhere else
    changes_speed: bool = False  # whether the model may change the speed that it chose where lines end
    way: str = ""  # how an exported folder thinks in latents like this (`exchange.ways`); empty: none can

    def __post_init__(self):
        if not self.max_thoughts:
            object.__setattr__(self, "in_words", False)  # there are none

    @property
    def in_latents(self) -> bool:
        """Whether there are thoughts to look into."""
        return self.max_thoughts > 0 and not self.in_words


def decode_limits(
    thinking: Thinking, decode: DecodeConfig, *, separator_id: int, eos_id: int, greedy: bool, num_rollouts: int = 1
) -> DecodeLimits:
    """What the decoder needs to know of a way to think and of the config's limits."""
    return DecodeLimits(
        max_thoughts=thinking.max_thoughts,
        min_thoughts=thinking.min_thoughts,
        max_answer_tokens=decode.max_answer_tokens,
        greedy=greedy,
        answer_temperature=decode.answer_temperature,
        answer_top_p=decode.top_p,
        separator_id=separator_id,
        eos_id=eos_id,
        num_rollouts=num_rollouts,
        sweeps=thinking.sweeps,
        changes_speed=thinking.changes_speed,
        latents_see_question=decode.latents_see_question or thinking.in_words,
        speed_certainty=decode.speed_certainty,
    )


def answer_mask(batch: Batch):
    """Which supervised positions `[B, M]` predict the answer: those after the reasoning.

    The one other position without a latent target is the question's last, right before the first that has one.
    """
    before_latent_BM = jnp.pad(batch.latent_mask_BM[:, 1:], ((0, 0), (0, 1)))
    return (batch.label_ids_BM >= 0) & ~batch.latent_mask_BM & ~before_latent_BM


def count(batch: Batch) -> Counts:
    """What this batch supervises."""
    return Counts(
        labels=jnp.sum(batch.label_ids_BM >= 0),
        latents=jnp.sum(batch.latent_mask_BM),
        answers=jnp.sum(answer_mask(batch)),
        examples=jnp.sum(jnp.max(batch.segment_ids_BS, axis=1)),
    )


# Settings of reinforcement learning, by what they are about (`Method.idle_in_rewards`). Not `latent_ratio`, which a run
# of before is told to set.
OF_GAUSSIANS = ("min_std", "final_min_std", "entropy_weight")
OF_DRAWN_LATENTS = (*OF_GAUSSIANS, "latent_weight", "noise", "log_prob_reduction", "first_latent")
OF_DECISIONS = (
    *("decision_weight", "stop_odds_temperature", "final_stop_odds_temperature"),
    *("stop_credit", "credit_forced_stops"),
)


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """One way to train and to reason, bound to its settings.

    A method is a frozen dataclass and its fields are its settings: a stage shows them under `group`, and methods with
    equal settings are equal, so that they share compiled programs. `recipe` and `thinking` have to be said; the rest
    is for those that think in words, or not at all, and need no schedule.
    """

    group: ClassVar[str] = ""  # what its settings are called in a stage; needed where it has any
    # The parts of the model that it changes; with "latent_head", its latents are drawn from the latent head.
    trains: ClassVar[tuple[str, ...]] = ("llama",)
    old_names: ClassVar[dict[str, str]] = {}  # settings of earlier versions, such as model.x.size -> its own field
    # Whether its labels are what the model itself gets right (`runs.speed_labels`).
    learns_from_answers: ClassVar[bool] = False
    # Whether supervised training reads the layers forward alone: nothing in them is learned, and no word is predicted.
    learns_beside: ClassVar[bool] = False
    # Settings that these answers do not depend on (`runs.made_from`).
    read_after_answers: ClassVar[tuple[str, ...]] = ()
    # Whether it answers the run's problems; else its stage has to be named to be asked or exported.
    answers_problems: ClassVar[bool] = True
    chooses_speed: ClassVar[bool] = False  # whether the model tells itself its speed
    has_speed: ClassVar[bool] = False  # whether the prompt's thinking speed is something to choose when decoding
    # Why settings of reinforcement learning do nothing here, and which: another value than their default is refused.
    idle_in_rewards: ClassVar[dict[str, tuple[str, ...]]] = {}

    @property
    @abc.abstractmethod
    def recipe(self) -> Recipe:
        """What prompts say, and which part of an example is learned."""

    @abc.abstractmethod
    def thinking(self, decode: DecodeConfig, separator_id: int, *, greedy: bool) -> Thinking:
        """How to think when decoding, within the limits of `decode`."""

    def rollout_thinking(self, decode: DecodeConfig, separator_id: int) -> Thinking:
        """How to think in the rollouts of reinforcement learning: as a sampled decode does, unless a method says."""
        return self.thinking(decode, separator_id, greedy=False)

    @property
    def takes_rewards(self) -> bool:
        """Whether reinforcement learning (`trainer=grpo`) knows the log-probabilities of what it thinks."""
        return "latent_head" in self.trains

    @property
    def modules(self) -> dict[str, OwnModule]:
        """The parts of the model that it brings with it, by their names in `trains` and on the model."""
        return {}

    @property
    def calibrates(self) -> bool:
        """Whether it reads `embed_std`, which is measured anew where a stage starts from one without latents."""
        return "latent_head" in self.trains

    @property
    def draws_latents(self) -> bool:
        """Whether its latents are drawn from the latent head, which is what reinforcement learning improves."""
        return "latent_head" in self.trains

    @property
    def num_passes(self) -> int:
        """How often a training step runs the whole model over its rows."""
        return 1

    def objection(self, model: ModelConfig) -> str:
        """What speaks against these settings with that model, the setting first; empty where nothing does."""
        return ""

    def idle_in_training(self) -> str:
        """Which of these settings does nothing beside the others, the setting first; empty where all are read.

        A stage that has one is not begun.
        """
        return ""

    def objection_to_rewards(self, rl: Any) -> str:
        """What speaks against these settings of reinforcement learning, one of them first; empty where nothing does."""
        return objection_to(rl, self.idle_in_rewards)

    def problems_of(self, problems: Sequence[Problem], seed: int) -> Sequence[Problem]:
        """What it learns from, and is validated on, made of a run's problems: these themselves."""
        return problems

    def make_loader(self, encoded: EncodedProblems, *, seed: int, rows: int, row_positions: int) -> Batches:
        """The batches of a stage: rows of as many examples as fit, as the recipe makes them."""
        return Loader(encoded, self.recipe, seed=seed, rows=rows, row_positions=row_positions)

    def count(self, batch: Any) -> Any:
        """What a batch supervises, as sums; the objective is told those of a whole step."""
        return count(batch)

    def objective(
        self, model: Reasoner, batch: Any, keys_B: jax.Array, counts: Any, compute: Execution
    ) -> tuple[jax.Array, dict[str, Metric]]:
        """This part's share of the loss, and metrics: the cross-entropy of the supervised tokens."""
        return language_objective(model, batch, keys_B, counts, compute)


def word_thinking(decode: DecodeConfig, separator_id: int, *, greedy: bool, max_thoughts: int) -> Thinking:
    """Words as thoughts, at most `max_thoughts`; 0: the answer follows at once."""
    think = word_thinker(separator_id, greedy=greedy, temperature=decode.stop_temperature, top_p=decode.top_p)
    return Thinking(think, max_thoughts=max_thoughts, in_words=True)


def objection_to(rl: Any, idle: dict[str, tuple[str, ...]]) -> str:
    """What speaks against settings of reinforcement learning that are idle, by why they are, and yet set."""
    usual = type(rl)()
    for why, names in idle.items():
        for name in names:
            if getattr(rl, name) != getattr(usual, name):
                return f"{name}={getattr(rl, name)!r} {why}; leave it at {getattr(usual, name)!r}"
    return ""


def embed(model: Reasoner, batch: Batch, compute: Execution):
    """The batch's input embeddings `[B, S, D]`."""
    return model.embed_positions(batch.token_ids_BT, batch.token_positions_BT, batch.scale_BS, compute.dtype)


def supervised_hidden(model: Reasoner, embeds_BSD, batch: Batch, compute: Execution, dropout_keys_B=None):
    """The hidden states `[B, M, D]` that the heads read; `dropout_keys_B`: LoRA dropout uses these per-row keys."""
    sees = packed(batch.segment_ids_BS, compute)
    hidden_BSD, _ = model.llama.run(embeds_BSD, batch.position_ids_BS, sees, compute, dropout_keys_B=dropout_keys_B)
    return gather_positions(hidden_BSD, batch.supervised_BM)


def language_loss(model: Reasoner, hidden_BMD, label_ids_BM, compute: Execution, weights_BM=None):
    """Summed cross-entropy of the labels that are not -1, and how many of them are right; each counts its weight."""
    return cross_entropy_sum(
        hidden_BMD.reshape(-1, hidden_BMD.shape[-1]),
        model.llama.head_matrix_VD,
        label_ids_BM.reshape(-1),
        None if weights_BM is None else weights_BM.reshape(-1),
        chunk=compute.logits_chunk,
    )


def language_objective(model: Reasoner, batch: Batch, keys_B, counts: Counts, compute: Execution):
    """Cross-entropy over the supervised tokens: the whole objective of methods that think in words, or not at all."""
    hidden_BMD = supervised_hidden(model, embed(model, batch, compute), batch, compute, keys_B)
    loss_sum, right = language_loss(model, hidden_BMD, batch.label_ids_BM, compute)
    own = count(batch)
    metrics = {"cross_entropy": Metric(loss_sum, own.labels), "label_accuracy": Metric(right, own.labels)}
    return loss_sum / counts.labels, metrics
