"""What the decoder's two loops go over, and their limits."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from colar_jax.decoding.thinking import Thought
from colar_jax.model.cache import Suffix
from colar_jax.model.timeline import VaryingSpeed

# What is folded into a rollout's key for each of the things that are drawn by it.
THOUGHT_KEYS, ANSWER_KEYS, DROPOUT_KEYS, SPEED_KEYS = range(4)


@dataclasses.dataclass(frozen=True)
class DecodeLimits:
    """Settings of a decode; `cut_at` and the temperature may be traced, so that one program serves many values."""

    max_thoughts: int  # 0: answer at once; sizes the buffers
    min_thoughts: int
    max_answer_tokens: int
    greedy: bool
    answer_temperature: float
    answer_top_p: float
    separator_id: int
    eos_id: int
    num_rollouts: int = 1  # G, for each question
    drops_out: bool = False  # whether adapters drop out, each rollout one mask
    draws_speed: bool = False  # a speed that the model chooses itself is drawn; False: by `speed_certainty`
    speed_certainty: float = 0.0  # `SpeedChoice.chosen`
    changes_speed: bool = False  # whether a speed that the model chooses itself is chosen anew where lines end
    latents_see_question: bool = True  # False: each after the first is made of the one before it alone
    sweeps: int | None = None  # thoughts are made all at once, in so many sweeps (`swept`); None: one after the other
    cut_at: jax.Array | None = None  # int32 scalar, traced: thinking is cut there already; None: at max_thoughts


@dataclasses.dataclass(frozen=True)
class Loop:
    """One of the two loops: run it whole, or step by step from `start` for as long as it `goes_on`."""

    start: Any
    goes_on: Callable[[Any], jax.Array]  # state -> bool scalar
    step: Callable[[Any], Any]  # state -> state

    def run(self):
        """The state in which the last rollout has ended, or the limit is reached."""
        return jax.lax.while_loop(self.goes_on, self.step, self.start)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ThinkingState:
    """State of the thinking loop. Invariant: `next` is what each rollout would do after `num_thoughts` of its thoughts;
    rollouts with `done` have stopped, for good."""

    step: jax.Array
    suffix: Suffix
    next: Thought
    done_B: jax.Array
    num_thoughts_B: jax.Array
    records: Any
    log_probs_BL: jax.Array
    stop_log_probs_BL: jax.Array
    pace: VaryingSpeed | None = None  # after these thoughts; None: each chain has one speed
    speeds_BL: jax.Array | None = None  # [B, L + 1], of each thought, and the one told with the last; None likewise


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AnsweringState:
    """State of the answer loop. Invariant: `step` tokens of the answer are written, the last of them not yet fed."""

    step: jax.Array
    suffix: Suffix
    done_B: jax.Array
    num_tokens_B: jax.Array
    ids_BA: jax.Array
    log_probs_BA: jax.Array
