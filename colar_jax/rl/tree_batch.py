"""Rollouts as rows for the update: a row holds a prompt once, and after it the chains that continued it.

    prompt 0 .. P-1 | branch 0: l1 l2 .. ln ### a1 a2 .. | branch 1: l1 .. ### a1 .. | ...        (l: latent, a: answer)

A branch has room for `T = L + A` positions. `L`, the room for latents, is one of a few sizes (`latent_rooms`), each of
which is compiled once: most chains are far shorter than the longest that a rollout may have.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from colar_jax.config import RlConfig
from colar_jax.data.encoding import Prompt
from colar_jax.decoding.decoder import Decoded
from colar_jax.decoding.khot import KhotLatents
from colar_jax.decoding.thinking import Determined
from colar_jax.rl.annealing import Annealed
from colar_jax.rl.credit import term_weights
from colar_jax.settings.speeds import NO_NUMBER

KINDS = ("latent", "decision", "answer")  # of actions of a chain
CHOICE = "choice"  # the action before it, where the model chooses its speed: one term a rollout


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Terms:
    """Actions of one kind: those with `mask` were chosen by the policy, with these log-probabilities."""

    mask: np.ndarray  # bool
    old_log_probs: np.ndarray  # float32
    weights: np.ndarray  # float32, what each counts in the loss


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TreeBatch:
    """`B` tree rows: the only thing that goes from the host to an update."""

    prompt_ids_BP: np.ndarray  # int32, right-padded
    prompt_lengths_B: np.ndarray  # int32, at least 1
    speeds_B: np.ndarray  # float32, what the prompt's last position is told of the speed (`data.recipe.Told.number`)
    thoughts_BGLD: Any  # as drawn, in units of embed_std; or a `KhotLatents` of [B, G, L, K], or `Determined`
    num_thoughts_BG: np.ndarray
    answer_ids_BGA: np.ndarray
    advantages_BG: np.ndarray
    terms: dict[str, Terms]  # by kind: [B, G, L], [B, G, L + 1], [B, G, A]; of a choice [B, G, 1]
    share_B: np.ndarray  # float32, 1 / rows: a part's metrics count by its share of the whole minibatch
    # How the rollouts were sampled, where that changes from iteration to iteration (`rl.annealing`).
    min_std_B: np.ndarray | None = None
    stop_odds_temperature_B: np.ndarray | None = None
    key_data_BGK: np.ndarray | None = None  # of the rollouts' keys, where adapters dropped out (`rl.rollout_dropout`)
    # Of the speeds that the model chose itself, which are compared within a whole group.
    choice_advantages_BG: np.ndarray | None = None

    @property
    def latents_shape(self) -> tuple[int, int, int, int]:
        """`B`, `G`, `L`, and over how many numbers the log-probability of a latent is a mean."""
        return jax.tree.leaves(self.thoughts_BGLD)[0].shape

    def under(self, at: Annealed | None) -> "TreeBatch":
        """The same with what held when its rollouts were sampled."""
        if at is None:
            return self
        return dataclasses.replace(
            self,
            min_std_B=np.full_like(self.share_B, at.min_std),
            stop_odds_temperature_B=np.full_like(self.share_B, at.stop_odds_temperature),
        )

    def choosing(self, decoded: Decoded, advantages_BG: np.ndarray, rl: RlConfig, *, alone: bool) -> "TreeBatch":
        """The same where the model chose each prompt's speed: told of it, and with the choice as a term of its own.

        Args:
            decoded: the same rollouts.
            alone: whether nothing but the choice is learned; then it is the only kind of terms.
        """
        rows, per_prompt = advantages_BG.shape
        speeds_B, advantages = self.speeds_B.copy(), np.zeros((len(self.speeds_B), per_prompt), np.float32)
        speeds_B[:rows], advantages[:rows] = decoded.own_speeds_B.reshape(rows, -1)[:, 0], advantages_BG
        mask, old_log_probs = np.zeros((*advantages.shape, 1), bool), np.zeros((*advantages.shape, 1), np.float32)
        mask[:rows], old_log_probs[:rows, :, 0] = True, decoded.own_log_probs_B.reshape(rows, per_prompt)
        weights = np.zeros(mask.shape, np.float32)
        weights[:rows] = term_weights(mask[:rows], rl)
        choice = {CHOICE: Terms(mask, old_log_probs, weights)}
        return dataclasses.replace(
            self,
            speeds_B=speeds_B,
            terms=choice if alone else self.terms | choice,
            choice_advantages_BG=advantages,
        )

    def counting(self, factor: float) -> "TreeBatch":
        """The same with every term's weight times `factor`."""
        terms = {
            kind: dataclasses.replace(of_kind, weights=of_kind.weights * np.float32(factor))
            for kind, of_kind in self.terms.items()
        }
        return dataclasses.replace(self, terms=terms)


def latent_rooms(max_latents: int, num_sizes: int = 4) -> list[int]:
    """The sizes of L that are compiled, ascending: the limit itself, and halves of it."""
    return sorted({max(1, -(-max_latents // 2**level)) for level in range(num_sizes)})


def sum_over(size: int, reduction: str) -> float:
    """What a mean over `size` dimensions is multiplied by to give the reduction (`rl.log_prob_reduction`)."""
    return {"mean": 1.0, "root": size**0.5, "sum": float(size)}[reduction]


def masks_of(decoded: Decoded, min_thoughts: int, rl: RlConfig) -> dict[str, np.ndarray]:
    """Which latents, decisions and answer tokens the policy chose, by kind: bool `[B, L]`, `[B, L + 1]`, `[B, A]`.

    Decision `i` is taken after `i` latents. There is none before `min_thoughts`; and the end of a chain that was cut at
    the limit is none either: what the policy chose there (to go on) did not happen; what happened it did not choose.
    With `rl.credit_forced_stops` it counts as a stop all the same; with `rl.stop_credit = answer` going on is no term.
    K-hot latents have no decision: `###` ends them where it is the most probable token, for certain. Latents that are
    functions of the question are no actions.
    """
    lengths_B1 = decoded.num_thoughts_B[:, None]
    step_1L1 = np.arange(decoded.stop_log_probs_BL.shape[1])[None]
    is_last = step_1L1 == lengths_B1
    if not rl.credit_forced_stops:
        is_last &= ~decoded.forced_stop_B[:, None]
    is_decision = is_last if rl.stop_credit == "answer" else (step_1L1 < lengths_B1) | is_last
    is_decision &= not isinstance(decoded.thoughts, KhotLatents)
    return {
        "latent": (step_1L1[:, :-1] < lengths_B1) & (not isinstance(decoded.thoughts, Determined)),
        "decision": (step_1L1 >= min_thoughts) & is_decision,
        "answer": np.arange(decoded.answer_ids_BA.shape[1])[None] < decoded.num_answer_tokens_B[:, None],
    }


def weights_of(masks: dict[str, np.ndarray], rl: RlConfig) -> dict[str, np.ndarray]:
    """What each term counts, by kind, of masks `[B, G, terms]`; with `rl.stop_credit = answer` the stop is the first
    term of the answer, averaged with its tokens."""
    if rl.stop_credit == "decision":
        return {kind: term_weights(masks[kind], rl) for kind in KINDS}
    stops_BG1 = masks["decision"].any(axis=-1, keepdims=True)
    together = term_weights(np.concatenate([stops_BG1, masks["answer"]], axis=-1), rl)
    decisions = (masks["decision"] * together[..., :1]).astype(np.float32)
    return {"latent": term_weights(masks["latent"], rl), "decision": decisions, "answer": together[..., 1:]}


def _only_the_best_first(weights: dict[str, np.ndarray], log_probs_B: np.ndarray, advantages_BG: np.ndarray) -> None:
    """Of a prompt's good rollouts only that with the highest mean log-probability keeps its first latent's term.

    All others lose it, bad ones too, so that one first step wins; where none is good all stay (arXiv 2604.27998, code).
    """
    is_good_BG = advantages_BG > 0
    likely_BG = np.where(is_good_BG, log_probs_B.reshape(advantages_BG.shape), -np.inf)
    is_best_BG = np.arange(advantages_BG.shape[1])[None] == likely_BG.argmax(axis=1)[:, None]
    keeps_BG = is_best_BG | ~is_good_BG.any(axis=1, keepdims=True)
    weights["latent"][..., 0] *= keeps_BG


def assemble(
    prompts: Sequence[Prompt | np.ndarray],
    decoded: Decoded,
    advantages_BG: np.ndarray,
    rl: RlConfig,
    *,
    num_rows: int,
    prompt_room: int,
    min_thoughts: int,
) -> TreeBatch:
    """The minibatch of these rollouts, with empty rows after them up to `num_rows`.

    Args:
        prompts: with the separator at their end; `decoded` has as many rollouts of each, one prompt's after another's.
        prompt_room: P.
    """
    longest, max_thoughts = int(decoded.num_thoughts_B.max()), decoded.thought_log_probs_BL.shape[1]
    room = next(size for size in latent_rooms(max_thoughts) if size >= longest)
    masks, log_probs = masks_of(decoded, min_thoughts, rl), _log_probs_of(decoded)
    G = len(decoded.num_thoughts_B) // len(prompts)
    by_prompt = {kind: mask.reshape(len(prompts), G, mask.shape[1]) for kind, mask in masks.items()}
    all_weights = weights_of(by_prompt, rl)
    if rl.first_latent != "all":
        kinds = ("latent", "answer") if rl.first_latent == "best_response" else ("latent",)
        sum_B = sum(np.where(masks[kind], log_probs[kind], 0).sum(axis=1) for kind in kinds)
        count_B = sum(masks[kind].sum(axis=1) for kind in kinds)
        _only_the_best_first(all_weights, sum_B / np.maximum(count_B, 1), advantages_BG)
    rooms = {"latent": room, "decision": room + 1, "answer": decoded.answer_ids_BA.shape[1]}

    def trees(array: np.ndarray) -> np.ndarray:
        """By prompt, and with the empty rows: `[B * G, ...]` to `[num_rows, G, ...]`."""
        array = array.reshape(len(prompts), G, *array.shape[1:])
        return np.concatenate([array, np.zeros((num_rows - len(array), *array.shape[1:]), array.dtype)])

    def terms(kind: str) -> Terms:
        mask = masks[kind]
        weights = all_weights[kind].reshape(mask.shape)
        # Entries after a chain's end are meaningless: never written, or written while other rollouts went on.
        old_log_probs = np.where(mask, log_probs[kind], 0).astype(np.float32)
        return Terms(*(trees(array[:, : rooms[kind]]) for array in (mask, old_log_probs, weights)))

    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    prompt_ids_BP, speeds_B = np.zeros((num_rows, prompt_room), np.int32), np.full(num_rows, NO_NUMBER, np.float32)
    for row, prompt in enumerate(prompts):
        prompt_ids_BP[row, : len(prompt)] = prompt.ids if isinstance(prompt, Prompt) else prompt
        speeds_B[row] = prompt.speed_number if isinstance(prompt, Prompt) else NO_NUMBER
    is_fed = masks["latent"][:, :room, None]
    return TreeBatch(
        prompt_ids_BP=prompt_ids_BP,
        prompt_lengths_B=np.concatenate([lengths, np.ones(num_rows - len(lengths), np.int32)]),
        speeds_B=speeds_B,
        thoughts_BGLD=jax.tree.map(
            lambda leaf: trees(np.where(is_fed, leaf[:, :room], 0).astype(_kept_as(leaf))), decoded.thoughts
        ),
        num_thoughts_BG=trees(decoded.num_thoughts_B.astype(np.int32)),
        answer_ids_BGA=trees(decoded.answer_ids_BA.astype(np.int32)),
        advantages_BG=trees(advantages_BG.reshape(-1).astype(np.float32)),
        terms={kind: terms(kind) for kind in KINDS},
        share_B=np.full(num_rows, 1 / num_rows, np.float32),
        key_data_BGK=None if decoded.key_data_BK is None else trees(decoded.key_data_BK),
    )


def _kept_as(leaf: np.ndarray):
    return np.int32 if np.issubdtype(leaf.dtype, np.integer) else np.float32


def _log_probs_of(decoded: Decoded) -> dict[str, np.ndarray]:
    """Of the decoder, by kind: a latent's is the mean over its dimensions, and a forced stop's that of `###` there."""
    decisions_BL = decoded.stop_log_probs_BL
    if decoded.end_log_prob_B is not None:
        is_forced_BL = np.arange(decisions_BL.shape[1])[None] == decoded.num_thoughts_B[:, None]
        is_forced_BL &= decoded.forced_stop_B[:, None]
        decisions_BL = np.where(is_forced_BL, decoded.end_log_prob_B[:, None], decisions_BL)
    return {
        "latent": decoded.thought_log_probs_BL,
        "decision": decisions_BL,
        "answer": decoded.answer_log_probs_BA,
    }
