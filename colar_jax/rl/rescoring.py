"""Rollouts scored again: the log-probability of every term of a `TreeBatch` under the model as it is now.

Log-probabilities are computed exactly as the decoder computed them when it sampled: the same temperatures, the same
floor of the latents' standard deviation, and the same nucleus. At unchanged parameters both agree to rounding.

As the policy changes, so does its nucleus (top-p). Log-probabilities are those of the nucleus of the *current* model,
and the recorded token always counts as inside: otherwise its log-probability would be -inf once it has fallen out, and
no gradient could bring it back.
"""

import jax
import jax.numpy as jnp

from colar_jax.config import DecodeConfig
from colar_jax.decoding.decoder import dropout_keys
from colar_jax.decoding.khot import KhotLatents, mixed
from colar_jax.decoding.prefill import last_slots, with_speeds
from colar_jax.decoding.thinking import Determined, latent_log_prob
from colar_jax.model.execution import Execution
from colar_jax.model.latent_head import Gaussian
from colar_jax.model.llama import LastLayer, Reading
from colar_jax.model.lora import BranchKeys
from colar_jax.model.reasoner import Reasoner
from colar_jax.model.timeline import counts_tokens, skipped_positions, told_next
from colar_jax.model.visibility import packed, tree, tree_ends, tree_positions
from colar_jax.rl.determined import rescore_determined
from colar_jax.rl.term_scores import Rescored, decision_log_probs, khot_log_probs, separator_log_odds, token_log_probs
from colar_jax.rl.tree_batch import CHOICE, TreeBatch


def rescore(
    model: Reasoner, batch: TreeBatch, separator_id: int, sampling: DecodeConfig, compute: Execution
) -> Rescored:
    """One forward pass over tree rows, and the heads where something was decided. Nothing flows into what was fed.

    Latents that are functions of the question are made again instead (`rl.determined`). Where the choice of a speed is
    the only kind of terms, the questions alone are read.
    """
    if batch.terms.keys() == {CHOICE}:
        return _rescore_choice(model, batch, compute)
    if isinstance(batch.thoughts_BGLD, Determined):
        return rescore_determined(model, batch, separator_id, sampling, compute)
    has_choice = CHOICE in batch.terms
    num_ends = 2 if has_choice else 1
    B, G, L, _ = batch.latents_shape
    A, P = batch.answer_ids_BGA.shape[2], batch.prompt_ids_BP.shape[1]
    embeds_BSD = _embed(model, batch, separator_id, jnp.dtype(compute.dtype))
    shape = batch.prompt_lengths_B, P, G, L + A
    positions_BS = tree_positions(*shape)
    if counts_tokens(model):
        positions_BS = positions_BS.at[:, P:].add(_skipped(model, batch, L + A))
    reading = Reading(last=LastLayer(*tree_ends(*shape, num_ends)))
    keys = None
    if batch.key_data_BGK is not None:
        keys = BranchKeys(dropout_keys(jax.random.wrap_key_data(batch.key_data_BGK)), L + A)
    hidden_BMD, _ = model.llama.run(
        embeds_BSD, positions_BS, tree(*shape), compute, dropout_keys_B=keys, reading=reading
    )
    D = hidden_BMD.shape[-1]
    branches_BGTD = hidden_BMD[:, num_ends:].reshape(B, G, L + A, D)
    # State `i` is the hidden state after `i` latents; state 0 of every branch is the end of the prompt.
    ends_BG1D = jnp.broadcast_to(hidden_BMD[:, None, num_ends - 1 : num_ends], (B, G, 1, D))
    states_BGLD = jnp.concatenate([ends_BG1D, branches_BGTD[:, :, :L]], axis=2)
    raw, sampled, decisions_BGL1 = None, None, jnp.zeros((B, G, L + 1), jnp.float32)
    with jax.named_scope("latents"):
        if isinstance(batch.thoughts_BGLD, KhotLatents):
            is_good_BG1 = (batch.advantages_BG > 0)[..., None]
            before_BGLD, chunk = states_BGLD[:, :, :L], compute.logits_chunk
            latents_BGL = khot_log_probs(model, before_BGLD, batch.thoughts_BGLD, is_good_BG1, chunk)
        else:
            raw = model.latent_head(states_BGLD[:, :, :L])
            sampled = raw.with_min_std(floor_of(batch, sampling))
            latents_BGL = _latent_log_probs(sampled, batch, sampling)
    with jax.named_scope("decisions"):
        if not isinstance(batch.thoughts_BGLD, KhotLatents):
            decisions_BGL1 = _decisions(model, states_BGLD, batch, separator_id, sampling, compute)
    with jax.named_scope("answers"):
        at_BGA = batch.num_thoughts_BG[..., None] + jnp.arange(A)[None, None]
        answer_BGAD = jnp.take_along_axis(branches_BGTD, at_BGA[..., None], axis=2)
        answers_BGA = token_log_probs(
            model, answer_BGAD, batch.answer_ids_BGA, sampling.answer_temperature, sampling.top_p, compute.logits_chunk
        )
    log_probs = {"latent": latents_BGL, "decision": decisions_BGL1, "answer": answers_BGA}
    if not has_choice:
        return Rescored(log_probs, raw, sampled)
    choice_BG1, entropy_B = _choice(model, hidden_BMD[:, 0], batch)
    return Rescored(log_probs | {CHOICE: choice_BG1}, raw, sampled, entropy_B)


def _rescore_choice(model: Reasoner, batch: TreeBatch, compute: Execution) -> Rescored:
    """Of the hidden state before the separator, which no chain is seen from."""
    lengths_B, size = batch.prompt_lengths_B, batch.prompt_ids_BP.shape[1]
    positions_BP = jnp.broadcast_to(jnp.arange(size)[None], batch.prompt_ids_BP.shape)
    segment_ids_BP = (positions_BP < lengths_B[:, None]).astype(jnp.int32)
    embeds_BPD = model.llama.embed(batch.prompt_ids_BP, jnp.dtype(compute.dtype))
    hidden_BPD, _ = model.llama.run(embeds_BPD, positions_BP, packed(segment_ids_BP, compute), compute)
    before_B11 = jnp.maximum(lengths_B - 2, 0)[:, None, None]
    choice_BG1, entropy_B = _choice(model, jnp.take_along_axis(hidden_BPD, before_B11, axis=1)[:, 0], batch)
    return Rescored({CHOICE: choice_BG1}, choice_entropy_B=entropy_B)


def _choice(model: Reasoner, before_BD, batch: TreeBatch):
    """The log-probability of the speed that each row's prompt is told, once for each rollout, and the entropy there."""
    with jax.named_scope("choice"):
        log_probs_B, entropy_B = model.speed_choice.log_prob(before_BD, batch.speeds_B)
        return jnp.broadcast_to(log_probs_B[:, None, None], batch.terms[CHOICE].mask.shape), entropy_B


def _decisions(
    model: Reasoner, states_BGLD, batch: TreeBatch, separator_id: int, sampling: DecodeConfig, compute: Execution
):
    """`[B, G, L + 1]`, by what the language head says of `###`."""
    num_states = states_BGLD.shape[2]
    # Where nothing is decided no words are weighed: before the least number of latents.
    first = min(sampling.min_latents, num_states - 1)
    log_odds_BGL1 = separator_log_odds(
        model, states_BGLD[:, :, first:], separator_id, sampling.stop_temperature, compute.logits_chunk
    )
    log_odds_BGL1 = jnp.pad(log_odds_BGL1, ((0, 0), (0, 0), (first, 0)))
    by_row_B = batch.stop_odds_temperature_B
    odds_temperature = sampling.stop_odds_temperature if by_row_B is None else by_row_B
    return decision_log_probs(log_odds_BGL1, odds_temperature, batch.num_thoughts_BG)


def floor_of(batch: TreeBatch, sampling: DecodeConfig):
    """The least standard deviation of latents, which broadcasts over `[B, G, L, D]`."""
    return sampling.min_latent_std if batch.min_std_B is None else batch.min_std_B[:, None, None, None]


def _latent_log_probs(sampled: Gaussian, batch: TreeBatch, sampling: DecodeConfig):
    """`[B, G, L]`, of a latent the mean over its dimensions.

    With one-sided noise a drawn value lies above the mean; once the mean has moved past it, the gradient of its density
    points the other way, and what was bad would be pulled near. So values of bad rollouts are mirrored to above the
    mean: their density stays, and the mean moves down from them (arXiv 2604.27998 does so for its Gumbel noise).
    """
    value, one_sided = batch.thoughts_BGLD, sampling.latent_noise == "one_sided"
    if one_sided:
        mirrored = jax.lax.stop_gradient(sampled.mean + jnp.abs(value - sampled.mean))
        value = jnp.where((batch.advantages_BG > 0)[..., None, None], value, mirrored)
    return latent_log_prob(sampled, value, sampling.latent_temperature, one_sided=one_sided)


def _embed(model: Reasoner, batch: TreeBatch, separator_id: int, dtype):
    """The input of tree rows: tokens by their embeddings, latents as they were fed."""
    B, G, L, _ = batch.latents_shape
    A = batch.answer_ids_BGA.shape[2]
    in_branch_BGT = jnp.broadcast_to(jnp.arange(L + A)[None, None], (B, G, L + A))
    after_BGT = in_branch_BGT - batch.num_thoughts_BG[..., None]  # 0 at the separator that closes the reasoning
    answer_BGT = jnp.take_along_axis(batch.answer_ids_BGA, jnp.clip(after_BGT - 1, 0, A - 1), axis=2)
    token_BGT = jnp.where(after_BGT == 0, separator_id, answer_BGT)
    latents_BGLD = _fed(model, batch.thoughts_BGLD, dtype)
    if counts_tokens(model):
        told_BLD = told_next(model, jnp.arange(1, L + 1)[None], batch.speeds_B[:, None])
        latents_BGLD += told_BLD[:, None].astype(dtype)
    latents_BGTD = jnp.pad(latents_BGLD, ((0, 0), (0, 0), (0, A), (0, 0)))
    branches_BGTD = jnp.where((after_BGT < 0)[..., None], latents_BGTD, model.llama.embed(token_BGT, dtype))
    prompts_BPD = model.llama.embed(batch.prompt_ids_BP, dtype)
    last_B = last_slots(batch.prompt_lengths_B, prompts_BPD.shape[1])
    prompts_BPD = with_speeds(model, prompts_BPD, last_B, batch.speeds_B)
    return jnp.concatenate([prompts_BPD, branches_BGTD.reshape(B, G * (L + A), -1)], axis=1)


def _skipped(model: Reasoner, batch: TreeBatch, size: int):
    """How far each position of the branches is from where it was if positions counted latents, `[B, G * size]`."""
    num_latents_BGT = jnp.minimum(jnp.arange(1, size + 1)[None, None], batch.num_thoughts_BG[..., None])
    skipped_BGT = skipped_positions(model, num_latents_BGT, batch.speeds_B[:, None, None])
    return skipped_BGT.reshape(len(batch.speeds_B), -1)


def _fed(model: Reasoner, thoughts, dtype):
    """Recorded latents as embeddings, `[..., D]`, without a gradient."""
    if isinstance(thoughts, KhotLatents):
        return mixed(model, thoughts, dtype)
    return (thoughts * jax.lax.stop_gradient(model.latent_head.embed_std[...])).astype(dtype)
