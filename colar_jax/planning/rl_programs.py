"""What an iteration of reinforcement learning runs: the rollouts, and the updates on them."""

import jax
import numpy as np

from colar_jax.decoding.decoder import Decoded
from colar_jax.decoding.thinking import Determined
from colar_jax.planning.lowering import Lowered, PlannedStage, StageLength
from colar_jax.planning.model_flops import forward_flops, step_flops, tree_rows
from colar_jax.rl.grpo import (
    REFERENCE,
    iterations,
    make_policy_step,
    make_sampler,
    most_updates,
    rollout_sampling,
    rows_of_minibatch,
    what_is_learned,
)
from colar_jax.rl.rollout import Sampler
from colar_jax.rl.tree_batch import CHOICE, TreeBatch, assemble
from colar_jax.rl.words import thinks_in_words, without_thoughts
from colar_jax.training.optimizer import make_optimizer


def lower_rollouts(setting: PlannedStage) -> tuple[Lowered, Sampler]:
    """The sampled decode of the prompts that are decoded at a time, every loop to its limit."""
    config, stage, rl, data = setting.config, setting.stage, setting.stage.rl, setting.data
    sampler = make_sampler(setting.engine, setting.method, stage, config.decode, data.train, data.vocabulary)
    parameters = setting.placed_parameters()
    at_a_time = rl.rollout_questions or rl.num_questions
    times, fewer = -(-rl.num_questions // at_a_time), -(-at_a_time // 2)
    lowered = Lowered(
        "sampling",
        sampler.lower(parameters),
        {"parameters": parameters},
        number=rl.num_questions * rl.num_generations / times,
        unit="rollouts",
        smaller_batch=f"--config.stages.{setting.name}.rl.rollout_questions={fewer} decodes fewer at a time",
        times=times,
    )
    return lowered, sampler


def lower_update(setting: PlannedStage, sampler: Sampler) -> tuple[Lowered, StageLength]:
    """The optimizer step on a minibatch of the longest chains, and the stage's schedule, in iterations."""
    config, stage, rl = setting.config, setting.stage, setting.stage.rl
    num_iterations = iterations(stage, setting.data.num_examples)
    optimizer = make_optimizer(stage.optimizer, num_iterations * most_updates(rl), setting.logical_axes)
    state, frozen = setting.placed_state(optimizer)
    if rl.beta:
        frozen = frozen | {REFERENCE: state.trainable}
    rows = rows_of_minibatch(stage, setting.engine.num_shards)
    thoughts = sampler.shapes(setting.placed_parameters()).thoughts
    row = _longest_row(setting, sampler, thoughts)
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype), row)
    batch = setting.engine.shapes_of_rows(batch)
    sampling = rollout_sampling(setting.method, config.decode, stage)
    separator_id = setting.data.vocabulary.separator_id
    step = make_policy_step(setting.engine, stage, sampling, separator_id, optimizer)
    lowered = Lowered(
        "update",
        step.lower(state, frozen, batch, setting.placed_key()),
        {"trained": state.trainable, "optimizer": state.optimizer, "frozen": frozen, "batch": batch},
        number=rl.minibatch_size,
        unit="rollouts",
        smaller_batch=_smaller_batch(setting),
        is_training=True,
        times=most_updates(rl),
        useful_flops=_useful_flops(setting, row),
    )
    return lowered, StageLength(num_iterations, rl.num_questions * rl.num_generations, "rollouts")


def _smaller_batch(setting: PlannedStage) -> str:
    stage, shards = setting.stage, setting.engine.num_shards
    if rows_of_minibatch(stage, shards) // shards > stage.accumulation:
        return f"--config.stages.{setting.name}.accumulation={2 * stage.accumulation} computes a minibatch in parts"
    limit = "max_step_tokens" if thinks_in_words(setting.method, setting.config.decode) else "max_latents"
    return f"--config.decode.{limit}={getattr(setting.config.decode, limit) // 2} shortens the chains"


def _longest_row(setting: PlannedStage, sampler: Sampler, thoughts) -> TreeBatch:
    """A tree row whose chains think to the limit; `thoughts` has the shapes of what rollouts keep, `[B, L, ...]`.

    Chains in words are a part of the answer (`rl.words`).
    """
    rl, sampling = setting.stage.rl, rollout_sampling(setting.method, setting.config.decode, setting.stage)
    in_words = thinks_in_words(setting.method, setting.config.decode)
    branches, answer = rl.num_generations // rl.speeds_per_group, sampling.max_answer_tokens
    latents = 0 if in_words else sampling.max_latents
    decoded = Decoded(
        thoughts=jax.tree.map(lambda leaf: np.zeros((branches, latents, *leaf.shape[2:]), leaf.dtype), thoughts),
        thought_log_probs_BL=np.zeros((branches, latents), np.float32),
        stop_log_probs_BL=np.zeros((branches, latents + 1), np.float32),
        num_thoughts_B=np.full(branches, latents, np.int32),
        forced_stop_B=np.zeros(branches, bool),
        answer_ids_BA=np.zeros((branches, answer), np.int32),
        answer_log_probs_BA=np.zeros((branches, answer), np.float32),
        num_answer_tokens_B=np.full(branches, answer, np.int32),
        own_speeds_B=np.zeros(branches, np.float32),
        own_log_probs_B=np.zeros(branches, np.float32),
    )
    row = assemble(
        [np.zeros(1, np.int32)],
        without_thoughts(decoded) if in_words else decoded,
        np.zeros((1, branches), np.float32),
        rl,
        num_rows=1,
        prompt_room=sampler.prompt_room,
        min_thoughts=sampling.min_latents,
    )
    learned = what_is_learned(setting.method)
    if learned == "chains":
        return row
    return row.choosing(decoded, row.advantages_BG, rl, alone=learned == "speeds")


def _useful_flops(setting: PlannedStage, row: TreeBatch) -> float:
    """Of the rows that a minibatch fills; rows that only make it divide by the chips are no work.

    0 where latents are made again one after the other: such an update has no closed form here.
    """
    if isinstance(row.thoughts_BGLD, Determined):
        return 0.0
    rl, (_, branches, latents, _) = setting.stage.rl, row.latents_shape
    filled = rl.minibatch_size // rl.num_generations * rl.speeds_per_group
    if row.terms.keys() == {CHOICE}:  # questions are read, and nothing in the model is trained but a small head
        shape = tree_rows(filled, row.prompt_ids_BP.shape[1], 0, 0, 0)
        return (2 if rl.beta else 1) * sum(forward_flops(setting.llama, setting.config.model, shape).values())
    shape = tree_rows(filled, row.prompt_ids_BP.shape[1], branches, latents, row.answer_ids_BGA.shape[2])
    of_reference = sum(forward_flops(setting.llama, setting.config.model, shape).values()) if rl.beta else 0.0
    return step_flops(setting.llama, setting.config.model, shape) + of_reference
