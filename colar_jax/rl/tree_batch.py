"""Rollouts as rows for the update: a row holds a prompt once, and after it the chains that continued it.

    prompt 0 .. P-1 | branch 0: l1 l2 .. ln ### a1 a2 .. | branch 1: l1 .. ### a1 .. | ...        (l: latent, a: answer)

A branch has room for `T = L + A` positions. `L`, the room for latents, is one of a few sizes (`latent_rooms`), each of
which is compiled once: most chains are far shorter than the longest that a rollout may have.
"""

import dataclasses

import jax
import numpy as np

from colar_jax.rl.policy_loss import term_weights


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """What `G` rollouts of each of `B` prompts did, on the host: `decoder.Decoded` by prompt."""

    prompts: list[np.ndarray]  # B of them, with the separator at their end
    latents_BGLD: np.ndarray  # as drawn, in units of embed_std
    latent_log_probs_BGL: np.ndarray  # means over the dimensions
    stop_log_probs_BGL1: np.ndarray  # [B, G, L + 1]
    num_latents_BG: np.ndarray
    forced_stop_BG: np.ndarray
    answer_ids_BGA: np.ndarray
    answer_log_probs_BGA: np.ndarray
    num_answer_tokens_BG: np.ndarray

    def take(self, rows: np.ndarray) -> "Rollouts":
        """The rollouts of these prompts only."""
        arrays = {f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self) if f.name != "prompts"}
        return Rollouts(prompts=[self.prompts[row] for row in rows], **arrays)


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
    latents_BGLD: np.ndarray
    answer_ids_BGA: np.ndarray
    num_latents_BG: np.ndarray
    advantages_BG: np.ndarray
    latents: Terms  # [B, G, L]
    decisions: Terms  # [B, G, L + 1]
    answers: Terms  # [B, G, A]
    share_B: np.ndarray  # float32, 1 / rows: a part's metrics count by its share of the whole minibatch


def latent_rooms(max_latents: int, num_sizes: int = 4) -> list[int]:
    """The sizes of L that are compiled, ascending: the limit itself, and halves of it."""
    return sorted({max(1, -(-max_latents // 2**level)) for level in range(num_sizes)})


def masks_of(rollouts: Rollouts, min_latents: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which latents, decisions and answer tokens the policy chose: bool `[B, G, L]`, `[B, G, L + 1]`, `[B, G, A]`.

    Decision `i` is taken after `i` latents. There is none before `min_latents`; and the end of a chain that was cut at
    the limit is none either: what the policy chose there (to go on) did not happen; what happened it did not choose.
    """
    lengths = rollouts.num_latents_BG[..., None]
    step_L1 = np.arange(rollouts.stop_log_probs_BGL1.shape[-1])
    latents = step_L1[:-1] < lengths
    is_last = step_L1 == lengths
    decisions = (step_L1 >= min_latents) & ((step_L1 < lengths) | (is_last & ~rollouts.forced_stop_BG[..., None]))
    answers = np.arange(rollouts.answer_ids_BGA.shape[-1]) < rollouts.num_answer_tokens_BG[..., None]
    return latents, decisions, answers


def assemble(
    rollouts: Rollouts,
    advantages_BG: np.ndarray,
    *,
    num_rows: int,
    prompt_room: int,
    min_latents: int,
    aggregation: str,
    configured_length: int,
    log_prob_scale: float,
) -> TreeBatch:
    """The minibatch of these rollouts, with empty rows after them up to `num_rows`.

    Args:
        prompt_room: P.
        log_prob_scale: 1, or the number of dimensions, where latents have the sum of their dimensions' densities.
    """
    longest = int(rollouts.num_latents_BG.max())
    max_latents = rollouts.latents_BGLD.shape[2]
    room = next(size for size in latent_rooms(max_latents) if size >= longest)
    masks = masks_of(rollouts, min_latents)
    old = (
        rollouts.latent_log_probs_BGL * np.float32(log_prob_scale),
        rollouts.stop_log_probs_BGL1,
        rollouts.answer_log_probs_BGA,
    )
    rooms = (room, room + 1, rollouts.answer_ids_BGA.shape[2])

    def fill(array: np.ndarray) -> np.ndarray:
        return np.concatenate([array, np.zeros((num_rows - len(array), *array.shape[1:]), array.dtype)])

    def terms(mask, old_log_probs, size) -> Terms:
        weights = term_weights(mask, aggregation, configured_length)
        # What stands after a chain's end was never written, or by a rollout that sat the step out.
        old_log_probs = np.where(mask, old_log_probs, 0).astype(np.float32)
        return Terms(*(fill(np.ascontiguousarray(array[..., :size])) for array in (mask, old_log_probs, weights)))

    parts = [terms(*part) for part in zip(masks, old, rooms, strict=True)]
    lengths = np.array([len(prompt) for prompt in rollouts.prompts], np.int32)
    prompt_ids_BP = np.zeros((num_rows, prompt_room), np.int32)
    for row, prompt in enumerate(rollouts.prompts):
        prompt_ids_BP[row, : len(prompt)] = prompt
    is_fed = masks[0][..., :room, None]
    return TreeBatch(
        prompt_ids_BP=prompt_ids_BP,
        prompt_lengths_B=np.concatenate([lengths, np.ones(num_rows - len(lengths), np.int32)]),
        latents_BGLD=fill(np.where(is_fed, rollouts.latents_BGLD[:, :, :room], 0).astype(np.float32)),
        answer_ids_BGA=fill(rollouts.answer_ids_BGA.astype(np.int32)),
        num_latents_BG=fill(rollouts.num_latents_BG.astype(np.int32)),
        advantages_BG=fill(advantages_BG.astype(np.float32)),
        latents=parts[0],
        decisions=parts[1],
        answers=parts[2],
        share_B=np.full(num_rows, 1 / num_rows, np.float32),
    )
