"""The trainer of reinforcement learning: a step of its stage is one iteration of `rl.learner`."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from colar_jax.config import AUTOMATIC, DecodeConfig, ModelConfig, ParallelConfig, RlConfig, StageConfig
from colar_jax.data.answers import VERIFIERS
from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.problems import Problem
from colar_jax.data.tokenizers import Tokenizer
from colar_jax.errors import UserError
from colar_jax.evaluation.evaluator import Outcome
from colar_jax.methods import Method
from colar_jax.metrics import divide
from colar_jax.parallel.mesh import num_shards, put_rows
from colar_jax.rl.health import Health
from colar_jax.rl.learner import Learner
from colar_jax.rl.objective import objective
from colar_jax.rl.questions import QuestionStream
from colar_jax.rl.rewards import make_reward, rewards_of
from colar_jax.rl.rollout import Sampler
from colar_jax.rl.tree_batch import TreeBatch
from colar_jax.training.state import TrainState, Tree, at_update, join
from colar_jax.training.step import Merge, TrainStep, compile_step
from colar_jax.training.trainer import Step

REFERENCE = "reference"  # the name of the first policy among what is frozen


def make_policy_step(
    graph,
    stage: StageConfig,
    sampling: DecodeConfig,
    compute: ModelConfig,
    separator_id: int,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    parallel: ParallelConfig = AUTOMATIC,
) -> TrainStep:
    """The compiled update on a `TreeBatch`; with `rl.beta`, `frozen` has the first policy under "reference"."""

    def loss(merge: Merge, trainable, frozen, batch: TreeBatch, key, counts):
        frozen = dict(frozen)
        reference = frozen.pop(REFERENCE, None)
        model = merge(join(trainable, frozen))
        reference = None if reference is None else merge(reference)
        return objective(model, reference, batch, separator_id, stage.rl, sampling, compute)

    # The batch brings its own weights: there is nothing to count.
    return compile_step(
        loss, graph, optimizer, mesh, compute, parallel, count=lambda batch: (), accumulation=stage.accumulation
    )


class GrpoTrainer:
    """Takes iterations. It remembers its place among the questions, and how the policy did so far.

    Args:
        reference: parameters of the stage's first policy; needed where `rl.beta` is not 0.
    """

    advice = (
        "Ratios explode where the latents have next to no standard deviation, as after soft_mse without an entropy "
        "term: raise rl.min_std (0.2 of the embedding scale is stable), or lower optimizer.learning_rate"
    )

    def __init__(self, learner: Learner, health: Health, step: TrainStep, mesh: Mesh, *, reference: Tree | None = None):
        self.learner, self._health, self._step, self._mesh = learner, health, step, mesh
        self._reference = reference
        self._memory = self._remember()
        self._evidence: TreeBatch | None = None

    def steps(self, state: TrainState, frozen: Tree, key: jax.Array, start: int, stop: int) -> Iterator[Step]:
        fixed = frozen if self._reference is None else frozen | {REFERENCE: self._reference}

        def update(state: TrainState, batch: TreeBatch):
            return self._step(state, fixed, put_rows(batch, self._mesh), key)

        for iteration in range(start, stop):
            # By iterations: how many updates one has depends on how many groups have anything to tell apart.
            state = at_update(state, iteration * most_updates(self.learner.config))
            state, metrics, num_chains = self.learner.iterate(
                state, lambda state: join(state.trainable, frozen), update, iteration
            )
            values = divide(metrics)
            if all(math.isfinite(values.get(name, 0.0)) for name in ("loss", "gradient_norm")):
                self._evidence = None
            elif self._evidence is None:  # kept until someone looks, which may be some iterations later
                self._evidence = self.learner.last_batch
            self._health.look(iteration + 1, values)
            self._memory = self._remember()
            yield state, metrics, num_chains

    def memory(self) -> dict:
        return self._memory

    def recall(self, memory: dict) -> None:
        self.learner.stream.recall(memory["questions"])
        self._health.recall(memory["health"])
        self._memory = self._remember()

    def evidence(self, step: int) -> dict:
        """The last minibatch of the first iteration that went wrong."""
        leaves = jax.tree.leaves_with_path(self._evidence)
        return {jax.tree_util.keystr(path, simple=True, separator="_"): leaf for path, leaf in leaves}

    def appraise(self, problems: Sequence[Problem], outcome: Outcome) -> dict[str, float]:
        rewards_N = rewards_of(self.learner.reward, problems, outcome.predictions, outcome.lengths_N.tolist())
        return {"reward": float(rewards_N.mean())}

    def _remember(self) -> dict:
        return {"questions": self.learner.stream.memory(), "health": self._health.memory()}


def make_grpo_trainer(
    name: str,
    stage: StageConfig,
    method: Method,
    graph,
    *,
    decode: DecodeConfig,
    compute: ModelConfig,
    encoded: EncodedProblems,
    tokenizer: Tokenizer,
    verifier: str,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    parallel: ParallelConfig,
    seed: int,
    first: Tree,
) -> GrpoTrainer:
    """The trainer of a stage that starts from the parameters `first`. UserError where its settings cannot be met."""
    rl = stage.rl
    if rl.num_questions > len(encoded):
        raise UserError(
            f"stages.{name}.rl.num_questions={rl.num_questions}, but there are only {len(encoded)} training questions"
        )
    sampling, is_right = sampling_of(decode, stage), VERIFIERS[verifier]
    sampler = make_sampler(
        graph, method, stage, decode, compute, mesh, encoded=encoded, vocabulary=tokenizer, parallel=parallel
    )
    learner = Learner(
        config=rl,
        sampling=sampling,
        encoded=encoded,
        tokenizer=tokenizer,
        recipe=method.recipe(stage),
        sampler=sampler,
        stream=QuestionStream(len(encoded), seed, skip_solved=rl.skip_solved),
        reward=make_reward(rl, is_right, decode.max_latents),
        is_right=is_right,
        seed=seed,
        num_rows=rows_of_minibatch(stage, num_shards(mesh)),
        hidden_size=first["llama"]["embedding"].shape[1],
    )
    health = Health(name, rl, decode.min_latents, compute.dtype)
    step = make_policy_step(graph, stage, sampling, compute, tokenizer.separator_id, optimizer, mesh, parallel)
    # A copy: the first state is made of the same buffers, and is donated.
    reference = jax.tree.map(jnp.copy, first) if rl.beta else None
    return GrpoTrainer(learner, health, step, mesh, reference=reference)


def make_sampler(
    graph,
    method: Method,
    stage: StageConfig,
    decode: DecodeConfig,
    compute: ModelConfig,
    mesh: Mesh,
    *,
    encoded: EncodedProblems,
    vocabulary: Tokenizer,
    parallel: ParallelConfig,
) -> Sampler:
    """What samples a stage's rollouts; of the `vocabulary` it needs the separator and the eos only."""
    rl, speeds = stage.rl, method.recipe(stage).prompt_speeds
    return Sampler(
        graph,
        method,
        sampling_of(decode, stage),
        compute,
        mesh,
        separator_id=vocabulary.separator_id,
        eos_id=vocabulary.eos_id,
        num_generations=rl.num_generations // rl.speeds_per_group,
        batch_size=(rl.rollout_questions or rl.num_questions) * rl.speeds_per_group,
        prompt_lengths=np.concatenate([encoded.prompt_lengths(speed) + 1 for speed in speeds]),
        parallel=parallel,
    )


def rows_of_minibatch(stage: StageConfig, num_shards: int) -> int:
    """Tree rows of an update: those that a minibatch needs, and empty ones that make them divide by the devices."""
    rows, parts = stage.rl.minibatch_size // stage.rl.num_generations * stage.rl.speeds_per_group, stage.accumulation
    return num_shards * parts * -(-rows // (num_shards * parts))


def iterations(stage: StageConfig, num_questions: int) -> int:
    """How many iterations a stage takes, of so many questions that there are."""
    of_epochs = stage.epochs * (stage.rl.questions_per_epoch or num_questions) / stage.rl.num_questions
    return stage.steps or math.ceil(of_epochs)


def most_updates(rl: RlConfig) -> int:
    """The optimizer steps of an iteration in which every group has something to learn from."""
    return rl.num_iterations * -(-rl.num_questions * rl.num_generations // rl.minibatch_size)


def sampling_of(decode: DecodeConfig, stage: StageConfig) -> DecodeConfig:
    """How a stage's rollouts are sampled: as a sampled evaluation is, with the policy's floor."""
    return dataclasses.replace(
        decode, min_latent_std=stage.rl.min_std, stop_odds_temperature=stage.rl.stop_odds_temperature
    )
