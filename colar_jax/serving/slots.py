"""The state of the slots, and what a slot does next: think, end its thinking, or say a token.

A slot holds one answer that is being made. All slots feed one position a step, whatever they are at:

    question -> thought* -> `###` -> token*

What comes next is decided from the hidden state before it.
"""

import dataclasses
import enum

import jax
import jax.numpy as jnp

from colar_jax.decoding.loops import ANSWER_KEYS, THOUGHT_KEYS
from colar_jax.decoding.sampling import greedy_token, sampled_token
from colar_jax.model.cache import LayerCache
from colar_jax.model.reasoner import Reasoner
from colar_jax.model.timeline import counts_tokens, skipped_positions, told_next
from colar_jax.serving.traced_ways import TracedWays


class SlotPhase(enum.IntEnum):
    """What a slot is at."""

    IDLE = 0
    THINKING = 1
    ANSWERING = 2


class Act(enum.IntEnum):
    """What a slot did in a step."""

    NOTHING = 0
    THOUGHT = 1  # it drew a thought
    STOPPED = 2  # it ended its thinking
    CUT = 3  # its thinking was ended at the limit
    TOKEN = 4  # it said a token, and goes on
    LAST_TOKEN = 5  # it said its last: eos, or the one at the limit


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Wish:
    """What is asked of each of `B` slots; rows of arrays."""

    seed_B: jax.Array  # uint32
    index_B: jax.Array  # uint32; everything is drawn by `fold_in(key(seed), index)`
    temperature_B: jax.Array  # float32; 0: greedy
    top_p_B: jax.Array  # float32, of words
    max_thoughts_B: jax.Array  # int32
    max_tokens_B: jax.Array  # int32, at least 1
    speed_number_B: jax.Array  # float32, what the question's last token is told of the speed (`data.recipe.Told`)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Course:
    """How far each of `B` slots is. Invariant: `embed_BD` is what an active slot feeds next, and nothing is pending."""

    phase_B: jax.Array  # int32, of `SlotPhase`
    embed_BD: jax.Array
    length_B: jax.Array  # int32: positions that are fed, the question's included
    num_thoughts_B: jax.Array  # int32: drawn
    num_tokens_B: jax.Array  # int32: said


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slots:
    """All that stays on the devices between two steps. A layer's cache is `[B, K, S, H]` twice, `S` the room."""

    layers: tuple[LayerCache, ...]
    course: Course
    wish: Wish


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepEvent:
    """What `B` slots did in a step; of several steps, with an axis of steps behind that of slots."""

    kind_B: jax.Array  # int32, of `Act`
    token_B: jax.Array  # int32: the token that was said, or the word that was thought
    log_prob_B: jax.Array  # float32, of the thought or the token
    stop_log_prob_B: jax.Array  # float32, of the decision to go on thinking or to stop
    latent_BD: jax.Array  # float32: the thought as it is fed
    own_speed_B: jax.Array  # float32: the speed that the model has just chosen for a question; 0: it has not


def as_fed(model: Reasoner, course: Course, wish: Wish) -> tuple[jax.Array, jax.Array]:
    """What active slots feed next, `[B, D]`, and its rotary positions, `[B]`: a thought is told what comes after it."""
    if not counts_tokens(model):
        return course.embed_BD, course.length_B
    is_thought_B1 = (course.phase_B == SlotPhase.THINKING)[:, None]
    told_BD = told_next(model, course.num_thoughts_B, wish.speed_number_B).astype(course.embed_BD.dtype)
    skipped_B = skipped_positions(model, course.num_thoughts_B, wish.speed_number_B)
    return course.embed_BD + jnp.where(is_thought_B1, told_BD, 0), course.length_B + skipped_B


def decide(model: Reasoner, hidden_BD, course: Course, wish: Wish, ways: TracedWays) -> tuple[Course, StepEvent]:
    """What each slot feeds next, by the hidden state `[B, D]` after what it fed last; and the event that reports it."""
    is_thinking_B, is_answering_B = course.phase_B == SlotPhase.THINKING, course.phase_B == SlotPhase.ANSWERING
    is_sampled_B = (wish.temperature_B > 0) & (course.phase_B != SlotPhase.IDLE)

    def drawn(sampled: bool):
        def draw():
            greedy = ways.greedy_thought(model, hidden_BD), greedy_token(model.llama.logits(hidden_BD))
            if not sampled:
                return greedy
            other = _sampled(model, hidden_BD, course, wish, ways)
            return jax.tree.map(lambda a, b: jnp.where(_along(is_sampled_B, a), a, b), other, greedy)

        return draw

    # One branch for all: the sampled draws cost as much as a layer, and most requests are greedy.
    thought, (ids_B, log_probs_B) = jax.lax.cond(ways.anyone(is_sampled_B), drawn(True), drawn(False))

    may_stop_B = thought.stop_B & (course.num_thoughts_B >= ways.min_thoughts)
    is_cut_B = ~may_stop_B & (course.num_thoughts_B >= wish.max_thoughts_B)
    ends_B, thinks_B = is_thinking_B & (may_stop_B | is_cut_B), is_thinking_B & ~may_stop_B & ~is_cut_B
    num_tokens_B = course.num_tokens_B + is_answering_B
    is_last_B = is_answering_B & ((ids_B == ways.eos_id) | (num_tokens_B >= wish.max_tokens_B))

    dtype = course.embed_BD.dtype
    said_BD = model.llama.embed(jnp.where(ends_B, ways.separator_id, ids_B), dtype)
    kind_B = jnp.select(
        [thinks_B, ends_B & is_cut_B, ends_B, is_last_B, is_answering_B],
        [Act.THOUGHT, Act.CUT, Act.STOPPED, Act.LAST_TOKEN, Act.TOKEN],
        Act.NOTHING,
    ).astype(jnp.int32)
    phase_B = jnp.select([ends_B, is_last_B], [SlotPhase.ANSWERING, SlotPhase.IDLE], course.phase_B).astype(jnp.int32)
    following = Course(
        phase_B=phase_B,
        embed_BD=jnp.where(thinks_B[:, None], thought.embed_BD, said_BD),
        length_B=course.length_B,
        num_thoughts_B=course.num_thoughts_B + thinks_B,
        num_tokens_B=num_tokens_B,
    )
    word_B = thought.record if ways.in_words else ids_B
    event = StepEvent(
        kind_B=kind_B,
        token_B=jnp.where(thinks_B, word_B, ids_B),
        log_prob_B=jnp.where(thinks_B, thought.log_prob_B, log_probs_B),
        stop_log_prob_B=jnp.where(course.num_thoughts_B >= ways.min_thoughts, thought.stop_log_prob_B, 0.0),
        latent_BD=thought.embed_BD.astype(jnp.float32),
        own_speed_B=jnp.zeros_like(log_probs_B),
    )
    return following, event


def _sampled(model: Reasoner, hidden_BD, course: Course, wish: Wish, ways: TracedWays):
    """A thought and a token of each slot, by its own key, temperature and nucleus: as the decoder draws them."""

    def of_one(hidden_D, seed, index, temperature, top_p, num_thoughts, num_tokens):
        key, hidden_1D = jax.random.fold_in(jax.random.key(seed), index), hidden_D[None]
        of_thought, of_token = (
            jax.random.fold_in(jax.random.fold_in(key, part), count)[None]
            for part, count in ((THOUGHT_KEYS, num_thoughts), (ANSWER_KEYS, num_tokens))
        )
        thought = ways.sampled_thought(model, hidden_1D, of_thought, temperature, top_p)
        token = sampled_token(of_token, model.llama.logits(hidden_1D), temperature, top_p)
        return jax.tree.map(lambda leaf_1: leaf_1[0], (thought, token))

    temperature_B = jnp.where(wish.temperature_B > 0, wish.temperature_B, 1.0)
    wished = wish.seed_B, wish.index_B, temperature_B, wish.top_p_B
    return jax.vmap(of_one)(hidden_BD, *wished, course.num_thoughts_B, course.num_tokens_B)


def _along(mask_B, leaf_B):
    """A mask of slots with as many axes as `leaf_B`."""
    return mask_B.reshape(mask_B.shape + (1,) * (leaf_B.ndim - 1))
