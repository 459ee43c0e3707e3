"""The trainer of reinforcement learning: a step of its stage is one iteration of `rl.learner`."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

import jax
import numpy as np
import optax

from colar_jax.config import DecodeConfig, RlConfig, StageConfig
from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.problems import Problem
from colar_jax.engine import Engine
from colar_jax.evaluation.evaluator import Outcome
from colar_jax.evaluation.judge import Judge
from colar_jax.methods import Method
from colar_jax.metrics import Metric, divide
from colar_jax.model.execution import Execution
from colar_jax.parallel.mesh import rows_that_divide
from colar_jax.rl.health import Collapsed, Health
from colar_jax.rl.judging import Questioner
from colar_jax.rl.learner import Learner
from colar_jax.rl.lengths import LengthWeight
from colar_jax.rl.questions import QuestionStream
from colar_jax.rl.reward_list import make_reward, rewards_of
from colar_jax.rl.rollout import ControlTokens, Sampler, ways_to_sample
from colar_jax.rl.tree_batch import TreeBatch
from colar_jax.rl.update import policy_loss
from colar_jax.rl.words import SaidInWords, as_answers, thinks_in_words
from colar_jax.training.optimizer import at_update
from colar_jax.training.state import REFERENCE, TrainState, Tree, join
from colar_jax.training.step import Merge, TrainStep, compile_step
from colar_jax.training.trainer import Step


def make_policy_step(
    engine: Engine,
    stage: StageConfig,
    sampling: DecodeConfig,
    separator_id: int,
    optimizer: optax.GradientTransformation,
) -> TrainStep:
    """The compiled update on a `TreeBatch`; with `rl.beta`, `frozen` has the first policy's trained part as well."""

    def loss(merge: Merge, compute: Execution, trainable, frozen, batch: TreeBatch, key, counts):
        frozen = dict(frozen)
        reference = frozen.pop(REFERENCE, None)
        model = merge(join(trainable, frozen))
        reference = None if reference is None else merge(join(reference, frozen))
        return policy_loss(model, reference, batch, separator_id, stage.rl, sampling, compute)

    # The batch has its weights with it, so nothing has to be counted.
    return compile_step(engine, loss, optimizer, count=lambda batch: (), accumulation=stage.accumulation)


class GrpoTrainer:
    """Takes iterations. It remembers its place among the questions, and how the policy did so far.

    Args:
        reference: what is trained of the stage's first policy; needed where `rl.beta` is not 0. It shares the rest.
    """

    num_tokens = 0  # counted by nobody
    advice = (
        "Ratios explode where the latents have next to no standard deviation, as after soft_mse without an entropy "
        "term: raise rl.min_std (0.2 of the embedding scale is stable), or lower optimizer.learning_rate"
    )

    def __init__(
        self, engine: Engine, learner: Learner, health: Health, step: TrainStep, *, reference: Tree | None = None
    ):
        self._engine, self.learner, self._health, self._step = engine, learner, health, step
        self._reference = reference
        self._memory = self._remember()
        self._evidence: TreeBatch | None = None

    def steps(self, state: TrainState, frozen: Tree, key: jax.Array, start: int, stop: int) -> Iterator[Step]:
        fixed = frozen if self._reference is None else frozen | {REFERENCE: self._reference}

        def update(state: TrainState, batch: TreeBatch):
            return self._step(state, fixed, self._engine.put_rows(batch), key)

        for iteration in range(start, stop):
            # By iterations: the number of updates in one depends on how many groups have different rewards.
            state = at_update(state, iteration * most_updates(self.learner.config))
            state, metrics, num_chains = self.learner.iterate(
                state, lambda state: join(state.trainable, frozen), update, iteration
            )
            values = divide(metrics)
            is_finite = all(math.isfinite(values.get(name, 0.0)) for name in ("loss", "gradient_norm"))
            if self._evidence is None and not is_finite:
                self._evidence = self.learner.last_batch
            # A policy that is not finite stays so, whatever later iterations look like; it ends at the next log line.
            if self._evidence is None:
                self._look(iteration + 1, values, metrics)
            self._memory = self._remember()
            yield state, metrics, num_chains

    def _look(self, iteration: int, values: dict[str, float], metrics: dict[str, Metric]) -> None:
        try:
            self._health.look(iteration, values)
        except Collapsed as error:
            error.metrics = metrics
            raise

    def memory(self) -> dict:
        return self._memory

    def recall(self, memory: dict) -> None:
        if not memory:  # of parameters that were imported as the stage's first
            return
        self.learner.recall(memory)
        self._health.recall(memory["health"])
        self._memory = self._remember()

    def evidence(self, step: int) -> dict:
        """The last minibatch of the first iteration that went wrong."""
        leaves = jax.tree.leaves_with_path(self._evidence)
        return {jax.tree_util.keystr(path, simple=True, separator="_"): leaf for path, leaf in leaves}

    def appraise(self, problems: Sequence[Problem], outcome: Outcome) -> dict[str, float]:
        questioner = self.learner.questioner
        rewards_N = rewards_of(questioner.reward, problems, outcome.predictions, outcome.lengths_N.tolist())
        if price := questioner.config.length_price:
            rewards_N = rewards_N - price * outcome.right_N * outcome.lengths_N / questioner.sampling.max_latents
        return {"reward": float(rewards_N.mean())}

    def _remember(self) -> dict:
        return self.learner.memory() | {"health": self._health.memory()}


@dataclasses.dataclass(frozen=True, eq=False)
class RewardedStage:
    """A stage that learns from the rewards of its rollouts, and the questions that it asks."""

    name: str
    config: StageConfig
    method: Method
    decode: DecodeConfig  # of the run; `sampling_of` says how rollouts are sampled
    encoded: EncodedProblems
    judge: Judge
    seed: int


def make_grpo_trainer(
    engine: Engine, stage: RewardedStage, optimizer: optax.GradientTransformation, reference: Tree | None
) -> GrpoTrainer:
    """The trainer of a stage; `reference` as `GrpoTrainer` has it."""
    rl, encoded, method, judge = stage.config.rl, stage.encoded, stage.method, stage.judge
    sampling, tokenizer = rollout_sampling(method, stage.decode, stage.config), judge.tokenizer
    in_words = thinks_in_words(method, stage.decode)
    limits = sampling.max_latents, stage.decode.max_answer_tokens
    questioner = Questioner(
        config=rl,
        sampling=sampling,
        encoded=encoded,
        judge=judge,
        recipe=method.recipe,
        sampler=make_sampler(engine, method, stage.config, stage.decode, encoded, tokenizer),
        reward=make_reward(rl, judge.is_right, sampling.max_latents),
        seed=stage.seed,
        said_in_words=SaidInWords(tokenizer.separator_id, tokenizer.eos_id, *limits) if in_words else None,
        learns=what_is_learned(method),
    )
    learner = Learner(
        questioner=questioner,
        stream=QuestionStream(len(encoded), stage.seed, skip_solved=rl.skip_solved),
        length_weight=LengthWeight(rl, rl.length_weight),
        row_rooms=row_rooms(stage.config, engine.num_shards),
        num_iterations=iterations(stage.config, len(encoded)),
    )
    health = Health(stage.name, rl, sampling.min_latents, engine.compute.dtype, in_words)
    step = make_policy_step(engine, stage.config, sampling, tokenizer.separator_id, optimizer)
    return GrpoTrainer(engine, learner, health, step, reference=reference)


def what_is_learned(method: Method) -> str:
    """Of `Questioner.learns`: the actions that have a gradient."""
    if not method.chooses_speed:
        return "chains"
    return "chains and speeds" if "latent_head" in method.trains else "speeds"


def make_sampler(
    engine: Engine,
    method: Method,
    stage: StageConfig,
    decode: DecodeConfig,
    encoded: EncodedProblems,
    vocabulary: ControlTokens,
) -> Sampler:
    """What samples a stage's rollouts."""
    rl, speeds, in_words = stage.rl, method.recipe.prompt_speeds, thinks_in_words(method, decode)
    method, sampling = as_answers(method, sampling_of(decode, stage))
    ways_at = functools.partial(
        ways_to_sample,
        engine,
        method,
        sampling,
        vocabulary,
        num_generations=rl.rollouts_per_prompt,
        drops_out=rl.rollout_dropout,
    )
    if method.recipe.ranges:  # hundreds of speeds, whose prompts are as long as each other but for a digit or two
        speeds = (max(speeds, key=encoded.tail_length),)
    return Sampler(
        engine,
        ways_at(),
        batch_size=(rl.rollout_questions or rl.num_questions) * rl.speeds_per_group,
        prompt_lengths=np.concatenate([encoded.prompt_lengths(speed) + (not in_words) for speed in speeds]),
        ways_at=lambda at: ways_at(at=at),
    )


def rows_of_minibatch(stage: StageConfig, num_shards: int) -> int:
    """Tree rows of an update: those that a minibatch needs, and empty ones that make them divide by the devices."""
    return row_rooms(stage, num_shards)[-1]


def row_rooms(stage: StageConfig, num_shards: int) -> tuple[int, ...]:
    """The sizes of a minibatch in tree rows: a full one, and where minibatches are even three and two quarters of it.

    Few minibatches are full then, and rows without a group cost as much as any.
    """
    rows = stage.rl.minibatch_size // stage.rl.num_generations * stage.rl.speeds_per_group
    quarters = (2, 3, 4) if stage.rl.minibatches == "even" else (4,)
    needed = (-(-rows * quarter // 4) for quarter in quarters)
    return tuple(sorted({rows_that_divide(few, num_shards, stage.accumulation) for few in needed}))


def iterations(stage: StageConfig, num_questions: int) -> int:
    """How many iterations a stage takes, of so many questions that there are."""
    of_epochs = stage.epochs * (stage.rl.questions_per_epoch or num_questions) / stage.rl.num_questions
    return stage.steps or math.ceil(of_epochs)


def most_updates(rl: RlConfig) -> int:
    """The optimizer steps of an iteration in which every group has something to learn from."""
    return rl.num_iterations * -(-rl.num_questions * rl.num_generations // rl.minibatch_size)


def rollout_sampling(method: Method, decode: DecodeConfig, stage: StageConfig) -> DecodeConfig:
    """`sampling_of`, as the rollouts of a method are decoded."""
    return as_answers(method, sampling_of(decode, stage))[1]


def sampling_of(decode: DecodeConfig, stage: StageConfig) -> DecodeConfig:
    """How a stage's rollouts are sampled: as a sampled evaluation is, with the policy's floor."""
    return dataclasses.replace(
        decode,
        min_latent_std=stage.rl.min_std,
        latent_noise=stage.rl.noise,
        stop_odds_temperature=stage.rl.stop_odds_temperature,
    )
