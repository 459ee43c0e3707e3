"""Prefill questions, then feed one position at a time."""

import dataclasses

import jax
import jax.numpy as jnp

from colar_jax.decoding.loops import DecodeLimits
from colar_jax.decoding.own_speeds import own_speeds
from colar_jax.decoding.prompt_rows import PackedPrompts
from colar_jax.model.attention import attend
from colar_jax.model.cache import Prefix, Suffix
from colar_jax.model.context import bias_of, heads_first
from colar_jax.model.execution import Execution
from colar_jax.model.llama import LastLayer, Llama, Reading
from colar_jax.model.reasoner import Reasoner
from colar_jax.model.speed_embedding import SPEED
from colar_jax.model.timeline import VaryingSpeed, counts_tokens, tokens_before, told_at_opening, told_next
from colar_jax.model.visibility import cascade, cascade_start, packed


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prefilled:
    """What questions leave behind for their `B` rollouts: read at every later step, and never changed."""

    prefix: Prefix
    hidden_BD: jax.Array  # after the opening separator
    lengths_B: jax.Array  # of the questions, the separator included
    # float32, what each is told (`data.recipe.Told.number`); None: the model is told no numbers
    speeds_B: jax.Array | None = None
    # float32, those that the model chose itself; 0 where it was told, None: it never does
    own_speeds_B: jax.Array | None = None
    own_log_probs_B: jax.Array | None = None  # of those, where they were drawn
    # of speeds that change in mid-chain: after how many latents, and to what (`PackedPrompts.changes_C`)
    changes_B: tuple[jax.Array, jax.Array] | None = None


def prefill(
    model: Reasoner, prompts: PackedPrompts, limits: DecodeLimits, compute: Execution, draw_keys_C=None
) -> Prefilled:
    """Read each question once, for `limits.num_rollouts` rollouts, which share its speed.

    Args:
        draw_keys_C: a typed key for each question draws the speeds that the model chooses; None: those that
            `limits.speed_certainty` asks for.
    """
    with jax.named_scope("prefill"):

        def read_before():
            embeds_RSD = embed_questions(model, prompts, jnp.dtype(compute.dtype))
            return _run_to(prompts.lengths_C - 1, model.llama, embeds_RSD, prompts, compute)[0]

        certainty = limits.speed_certainty
        own = own_speeds(model, prompts.speeds_C, read_before, certainty, compute.anyone, draw_keys_C)
        told = prompts
        if own is not None:
            own_C, _ = own
            told = dataclasses.replace(prompts, speeds_C=jnp.where(own_C > 0, own_C, prompts.speeds_C))
        embeds_RSD = embed_questions(model, told, jnp.dtype(compute.dtype))
        hidden_CD, prefix = read_questions(model.llama, embeds_RSD, prompts, compute)
    num_rollouts = limits.num_rollouts
    hidden_BD, lengths_B = (jnp.repeat(of_C, num_rollouts, axis=0) for of_C in (hidden_CD, prompts.lengths_C))
    speeds_B = None if told.speeds_C is None else jnp.repeat(told.speeds_C, num_rollouts)
    changes_B = (
        None if prompts.changes_C is None else tuple(jnp.repeat(of_C, num_rollouts) for of_C in prompts.changes_C)
    )
    prefilled = Prefilled(prefix, hidden_BD, lengths_B, speeds_B, changes_B=changes_B)
    if own is None:
        return prefilled
    own_B, own_log_probs_B = (jnp.repeat(of_C, num_rollouts) for of_C in own)
    own_log_probs_B = None if draw_keys_C is None else own_log_probs_B
    return dataclasses.replace(prefilled, own_speeds_B=own_B, own_log_probs_B=own_log_probs_B)


def embed_questions(model: Reasoner, prompts: PackedPrompts, dtype) -> jax.Array:
    """What the model is fed of questions in rows, `[R, S, D]`: their tokens, and what it is told of the speed."""
    embeds_RSD = model.llama.embed(prompts.token_ids_RS, dtype)
    return with_speeds(model, embeds_RSD, _last_slots(prompts, prompts.lengths_C), prompts.speeds_C)


def with_speeds(model: Reasoner, embeds_RSD, last_slots_C, speeds_C):
    """The embeddings with what each question's last separator is told of the speed, where the model takes a number.

    Args:
        last_slots_C: where the separators are in the flattened rows.
        speeds_C: `Told.number`.
    """
    if not hasattr(model, SPEED):
        return embeds_RSD
    if speeds_C is None:
        raise ValueError("the model is told its speed as a number, and these prompts have none: pack `Prompt`s")
    told_CD = told_at_opening(model, speeds_C).astype(embeds_RSD.dtype)
    return _flat(embeds_RSD).at[last_slots_C].add(told_CD).reshape(embeds_RSD.shape)


def last_slots(lengths_R, row_size: int):
    """Where the last token of each of `R` questions is in the flattened rows, one question a row, `[R]`."""
    return jnp.arange(len(lengths_R)) * row_size + lengths_R - 1


def _last_slots(prompts: PackedPrompts, lengths_C):
    """Where the last of each question's first `lengths_C` tokens is in the flattened rows, `[C]`."""
    return jnp.take_along_axis(prompts.slots_CP, (lengths_C - 1)[:, None], axis=1)[:, 0]


def _flat(x_RS):
    """Rows one after the other: `[R, S, ...]` to `[R * S, ...]`."""
    return x_RS.reshape(-1, *x_RS.shape[2:])


def read_questions(llama: Llama, embeds_RSD, prompts: PackedPrompts, compute: Execution):
    """Read `C` questions packed into rows: each one's last hidden state `[C, D]`, and their cache."""
    hidden_CD, layers = _run_to(prompts.lengths_C, llama, embeds_RSD, prompts, compute)
    return hidden_CD, Prefix.of_rows(layers, prompts.slots_CP, prompts.lengths_C)


def _run_to(lengths_C, llama: Llama, embeds_RSD, prompts: PackedPrompts, compute: Execution):
    """The hidden state after so many tokens of each question, `[C, D]`, and the layers' keys and values in rows.

    Keys and values of the last layer are everywhere; what follows them is computed there alone.
    """
    slots_CP = prompts.slots_CP
    ends_C = _last_slots(prompts, lengths_C)
    bias_C1P = bias_of(jnp.arange(slots_CP.shape[1])[None] < lengths_C[:, None])[:, None]

    def pick(x_RS):
        return _flat(x_RS)[ends_C][:, None]

    def attend_to_own(q_C1NH, k_RSKH, v_RSKH):
        attended = attend(q_C1NH, _flat(k_RSKH)[slots_CP], _flat(v_RSKH)[slots_CP], bias_C1P)
        return attended, (heads_first(k_RSKH), heads_first(v_RSKH))

    sees = packed(prompts.segment_ids_RS, compute, keeps=True, longest=slots_CP.shape[1])
    reading = Reading(last=LastLayer(pick, attend_to_own))
    hidden_C1D, layers = llama.run(embeds_RSD, prompts.position_ids_RS, sees, compute.for_prefill(), reading=reading)
    return hidden_C1D[:, 0], layers


@dataclasses.dataclass(frozen=True)
class Feeder:
    """Feeds the rollouts of prefilled questions, a position at a time."""

    model: Reasoner
    prefilled: Prefilled
    compute: Execution
    layers: list  # the blocks' weights one by one, sliced out of their stack before any loop
    dropout_keys_B: jax.Array | None = None  # each rollout drops the same entries at all positions; None: nothing

    @classmethod
    def of(cls, model: Reasoner, prefilled: Prefilled, compute: Execution, dropout_keys_B=None) -> "Feeder":
        """A feeder whose layers are sliced out of their stack here, once for all steps."""
        return cls(model, prefilled, compute, model.llama.unstacked_blocks(compute), dropout_keys_B)

    def empty_suffix(self, num_slots: int) -> Suffix:
        """Of rollouts that fed nothing yet."""
        return Suffix.empty(self.prefilled.prefix, len(self.prefilled.lengths_B), num_slots)

    def feed(self, embeds_BD, num_fed_B, is_real_B, suffix: Suffix) -> tuple[jax.Array, Suffix]:
        """The hidden states `[B, D]` of one more position, fed after `num_fed_B` others, and the suffix with it in it.

        Rollouts with `is_real_B` False sit the step out: nobody ever sees what they feed.
        """
        sees, is_real_BS = cascade(self.prefilled.prefix, suffix, is_real_B)
        position_ids_B1 = (self.prefilled.lengths_B + num_fed_B)[:, None]
        hidden_B1D, written = self.model.llama.run(
            embeds_BD[:, None],
            position_ids_B1,
            sees,
            self.compute.for_steps(),
            dropout_keys_B=self.dropout_keys_B,
            layers=self.layers,
        )
        return hidden_B1D[:, 0], Suffix(written, is_real_BS, suffix.num_written + 1)

    def feed_thought(
        self, embeds_BD, index_B, is_real_B, suffix: Suffix, pace: VaryingSpeed | None = None
    ) -> tuple[jax.Array, Suffix]:
        """As `feed`, of the thought number `index_B`, 0 the first: it is told what comes next, where the model is.

        Args:
            pace: of chains before that thought whose speed may change; None: each has one.
        """
        embeds_BD, index_B = self.as_fed(embeds_BD, index_B, pace)
        return self.feed(embeds_BD, index_B, is_real_B, suffix)

    def as_fed(self, embeds_BD, index_B, pace: VaryingSpeed | None = None):
        """A thought with what it is told, `[B, D]`, and how many positions after the question's end it stands."""
        if pace is not None:
            after = pace.fed(pace.following_B)
            return embeds_BD + self.model.speed(after.size_B).astype(embeds_BD.dtype), after.tokens_B - 1
        if counts_tokens(self.model):
            told_BD = told_next(self.model, index_B + 1, self.prefilled.speeds_B)
            return embeds_BD + told_BD.astype(embeds_BD.dtype), self.positions_of(index_B + 1) - 1
        return embeds_BD, index_B

    def positions_of(self, num_thoughts_B, pace: VaryingSpeed | None = None):
        """How many rotary positions the first thoughts take, int32 `[B]`; `pace` after them, as for `feed_thought`."""
        if pace is not None:
            return pace.tokens_B
        if not counts_tokens(self.model):
            return num_thoughts_B
        return tokens_before(num_thoughts_B, self.prefilled.speeds_B)

    def feed_all(self, embeds_BTD, num_slots: int) -> tuple[jax.Array, Suffix]:
        """The hidden states `[B, T, D]` of all positions right after the questions, and a suffix that begins with them.

        Each sees its question, the positions before it, and itself. The suffix has `num_slots` slots.
        """
        num_rollouts, num_positions, _ = embeds_BTD.shape
        empty = self.empty_suffix(num_slots)
        hidden_BTD, written = self.model.llama.run(
            embeds_BTD,
            self.prefilled.lengths_B[:, None] + jnp.arange(num_positions)[None],
            cascade_start(self.prefilled.prefix, empty, num_positions),
            self.compute.for_steps(),
            dropout_keys_B=self.dropout_keys_B,
            layers=self.layers,
        )
        is_real_BS = jnp.broadcast_to(jnp.arange(num_slots)[None] < num_positions, (num_rollouts, num_slots))
        return hidden_BTD, Suffix(written, is_real_BS, jnp.int32(num_positions))

    def alone(self, embeds_BD) -> jax.Array:
        """The hidden states `[B, D]` of one position that sees nothing but itself."""
        ones_B1 = jnp.ones((len(embeds_BD), 1), jnp.int32)
        compute = self.compute.for_steps()
        hidden_B1D, _ = self.model.llama.run(
            embeds_BD[:, None], 0 * ones_B1, packed(ones_B1, compute), compute, layers=self.layers
        )
        return hidden_B1D[:, 0]
