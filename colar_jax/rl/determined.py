"""Rescoring where latents are functions of the question: they are made again, and gradients flow through them.

    question -> its keys and values -> L latents, one after the other -> G answers, each after as many latents as it had

The rollouts of a prompt differ in when they stop and in what they answer, so that question and latents are computed
once for all of them. Their actions are decisions and tokens: the policy gradient of these is exact, for a latent is
part of how likely they are.
"""

import dataclasses

import jax
import jax.numpy as jnp

from colar_jax.config import DecodeConfig
from colar_jax.methods.thinking.thought_chain import run_latents, run_tail, run_trunk
from colar_jax.methods.thinking.thought_rows import ThoughtBatch
from colar_jax.model.execution import Execution
from colar_jax.model.reasoner import Reasoner
from colar_jax.rl.term_scores import Rescored, decision_log_probs, token_log_probs
from colar_jax.rl.tree_batch import TreeBatch


def rescore_determined(
    model: Reasoner, batch: TreeBatch, separator_id: int, sampling: DecodeConfig, compute: Execution
) -> Rescored:
    """As `rescoring.rescore`, of a batch whose thoughts are `Determined`."""
    batch = jax.tree.map(jnp.asarray, batch)
    maker, (B, G, L, _) = batch.thoughts_BGLD.maker, batch.latents_shape
    rows = _rows(batch, separator_id)
    trunk = run_trunk(model, rows, compute)
    latents = run_latents(model, trunk, rows, L, maker.project, compute)
    with jax.named_scope("decisions"):
        states_BLD = jnp.concatenate([latents.states_BLED[:, :, 0], latents.last_hidden_BED], axis=1)
        log_odds_BL1 = maker.stop_log_odds(model, states_BLD) / sampling.stop_temperature
        by_row_B = batch.stop_odds_temperature_B
        decisions_BGL1 = decision_log_probs(
            jnp.broadcast_to(log_odds_BL1[:, None], (B, G, L + 1)),
            sampling.stop_odds_temperature if by_row_B is None else by_row_B,
            batch.num_thoughts_BG,
        )
    with jax.named_scope("answers"):

        def for_each_answer(leaf):
            return jnp.repeat(leaf, G, axis=0)

        trunk, latents = (
            dataclasses.replace(part, caches=jax.tree.map(for_each_answer, part.caches)) for part in (trunk, latents)
        )
        hidden_RAD, _ = run_tail(model, trunk, latents, _answers(rows, batch), compute)
        hidden_BGAD = hidden_RAD.reshape(B, G, *hidden_RAD.shape[1:])
        answers_BGA = token_log_probs(
            model, hidden_BGAD, batch.answer_ids_BGA, sampling.answer_temperature, sampling.top_p, compute.logits_chunk
        )
    nothing_BGL = jnp.zeros((B, G, L), jnp.float32)
    return Rescored({"latent": nothing_BGL, "decision": decisions_BGL1, "answer": answers_BGA})


def _rows(batch: TreeBatch, separator_id: int) -> ThoughtBatch:
    """A row a prompt, whose latents are all real; the tail is of one answer, the first rollout's."""
    B, P = batch.prompt_ids_BP.shape
    at_BP = jnp.broadcast_to(jnp.arange(P)[None], (B, P))
    is_prompt_BP, zeros_B1 = at_BP < batch.prompt_lengths_B[:, None], jnp.zeros((B, 1), jnp.int32)
    first_BA = batch.answer_ids_BGA[:, 0]
    return ThoughtBatch(
        trunk_ids_BP=batch.prompt_ids_BP,
        trunk_positions_BP=at_BP,
        trunk_segments_BP=is_prompt_BP.astype(jnp.int32),
        is_question_BP=is_prompt_BP,
        supervised_BM=zeros_B1,
        trunk_labels_BM=zeros_B1 - 1,
        last_BE=batch.prompt_lengths_B[:, None] - 1,
        question_lengths_BE=batch.prompt_lengths_B[:, None],
        num_latents_BE=jnp.full((B, 1), batch.latents_shape[2], jnp.int32),
        first_labels_BE=zeros_B1 - 1,
        tail_ids_BT=jnp.concatenate([zeros_B1 + separator_id, first_BA[:, :-1]], axis=1),
        tail_positions_BT=jnp.zeros_like(first_BA),
        tail_segments_BT=jnp.ones_like(first_BA),
        tail_labels_BT=first_BA,
        matched_trunk_BE=zeros_B1,
        matched_tail_BE=zeros_B1,
        row_ids_B=jnp.arange(B),
    )


def _answers(rows: ThoughtBatch, batch: TreeBatch) -> ThoughtBatch:
    """A row a rollout: its answer after as many latents as it thought."""
    B, G, A = batch.answer_ids_BGA.shape
    repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf, G, axis=0), rows)
    ids_RA, num_thoughts_R1 = batch.answer_ids_BGA.reshape(B * G, A), batch.num_thoughts_BG.reshape(B * G, 1)
    return dataclasses.replace(
        repeated,
        num_latents_BE=num_thoughts_R1,
        tail_ids_BT=jnp.concatenate([repeated.tail_ids_BT[:, :1], ids_RA[:, :-1]], axis=1),
        tail_positions_BT=repeated.question_lengths_BE + num_thoughts_R1 + jnp.arange(A)[None],
        tail_labels_BT=ids_RA,
    )
