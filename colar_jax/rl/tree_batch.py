"""Rollouts as rows for the update: a row holds a prompt once, and after it the chains that continued it.

    prompt 0 .. P-1 | branch 0: l1 l2 .. ln ### a1 a2 .. | branch 1: l1 .. ### a1 .. | ...        (l: latent, a: answer)

A branch has room for `T = L + A` positions. `L`, the room for latents, is one of a few sizes (`latent_rooms`), each of
which is compiled once: most chains are far shorter than the longest that a rollout may have.
"""

import dataclasses

import jax
import numpy as np

from colar_jax.config import RlConfig
from colar_jax.decoding.decoder import Decoded
from colar_jax.rl.credit import term_weights

KINDS = ("latent", "decision", "answer")  # of actions


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
    thoughts_BGLD: np.ndarray  # as drawn, in units of embed_std
    num_thoughts_BG: np.ndarray
    answer_ids_BGA: np.ndarray
    advantages_BG: np.ndarray
    terms: dict[str, Terms]  # by kind: [B, G, L], [B, G, L + 1], [B, G, A]
    share_B: np.ndarray  # float32, 1 / rows: a part's metrics count by its share of the whole minibatch


def latent_rooms(max_latents: int, num_sizes: int = 4) -> list[int]:
    """The sizes of L that are compiled, ascending: the limit itself, and halves of it."""
    return sorted({max(1, -(-max_latents // 2**level)) for level in range(num_sizes)})


def masks_of(decoded: Decoded, min_thoughts: int) -> dict[str, np.ndarray]:
    """Which latents, decisions and answer tokens the policy chose, by kind: bool `[B, L]`, `[B, L + 1]`, `[B, A]`.

    Decision `i` is taken after `i` latents. There is none before `min_thoughts`; and the end of a chain that was cut at
    the limit is none either: what the policy chose there (to go on) did not happen; what happened it did not choose.
    """
    lengths_B1 = decoded.num_thoughts_B[:, None]
    step_1L1 = np.arange(decoded.stop_log_probs_BL.shape[1])[None]
    is_last = (step_1L1 == lengths_B1) & ~decoded.forced_stop_B[:, None]
    return {
        "latent": step_1L1[:, :-1] < lengths_B1,
        "decision": (step_1L1 >= min_thoughts) & ((step_1L1 < lengths_B1) | is_last),
        "answer": np.arange(decoded.answer_ids_BA.shape[1])[None] < decoded.num_answer_tokens_B[:, None],
    }


def assemble(
    prompts: list[np.ndarray],
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
    longest, (_, max_thoughts, hidden_size) = int(decoded.num_thoughts_B.max()), decoded.thoughts.shape
    room = next(size for size in latent_rooms(max_thoughts) if size >= longest)
    masks = masks_of(decoded, min_thoughts)
    scale = hidden_size if rl.log_prob_reduction == "sum" else 1
    log_probs = {
        "latent": decoded.thought_log_probs_BL * np.float32(scale),
        "decision": decoded.stop_log_probs_BL,
        "answer": decoded.answer_log_probs_BA,
    }
    rooms = {"latent": room, "decision": room + 1, "answer": decoded.answer_ids_BA.shape[1]}

    def trees(array: np.ndarray) -> np.ndarray:
        """By prompt, and with the empty rows: `[B * G, ...]` to `[num_rows, G, ...]`."""
        array = array.reshape(len(prompts), -1, *array.shape[1:])
        return np.concatenate([array, np.zeros((num_rows - len(array), *array.shape[1:]), array.dtype)])

    def terms(kind: str) -> Terms:
        mask = masks[kind]
        weights = term_weights(mask.reshape(len(prompts), -1, mask.shape[1]), rl).reshape(mask.shape)
        # Entries after a chain's end are meaningless: never written, or written while other rollouts went on.
        old_log_probs = np.where(mask, log_probs[kind], 0).astype(np.float32)
        return Terms(*(trees(array[:, : rooms[kind]]) for array in (mask, old_log_probs, weights)))

    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    prompt_ids_BP = np.zeros((num_rows, prompt_room), np.int32)
    for row, prompt in enumerate(prompts):
        prompt_ids_BP[row, : len(prompt)] = prompt
    is_fed = masks["latent"][:, :room, None]
    return TreeBatch(
        prompt_ids_BP=prompt_ids_BP,
        prompt_lengths_B=np.concatenate([lengths, np.ones(num_rows - len(lengths), np.int32)]),
        thoughts_BGLD=trees(np.where(is_fed, decoded.thoughts[:, :room], 0).astype(np.float32)),
        num_thoughts_BG=trees(decoded.num_thoughts_B.astype(np.int32)),
        answer_ids_BGA=trees(decoded.answer_ids_BA.astype(np.int32)),
        advantages_BG=trees(advantages_BG.reshape(-1).astype(np.float32)),
        terms={kind: terms(kind) for kind in KINDS},
        share_B=np.full(num_rows, 1 / num_rows, np.float32),
    )
