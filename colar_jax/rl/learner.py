"""One iteration of reinforcement learning: ask, sample, judge, and update on what there is to learn."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from colar_jax.config import DecodeConfig, RlConfig
from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.loader import Recipe
from colar_jax.evaluation.judge import Judge
from colar_jax.metrics import Metric, merge
from colar_jax.rl.advantages import group_advantages, has_variance
from colar_jax.rl.objective import KINDS
from colar_jax.rl.questions import QuestionStream
from colar_jax.rl.rewards import Reward, rewards_of
from colar_jax.rl.rollout import Sampler
from colar_jax.rl.tree_batch import Rollouts, TreeBatch, assemble

# (state, batch) -> (state, metrics): one optimizer step, with everything else bound
Update = Callable[[Any, TreeBatch], tuple[Any, dict[str, Metric]]]


@dataclasses.dataclass(frozen=True)
class Judged:
    """An iteration's rollouts with what they are worth. `K` prompts a group: row `q * K + k` is of question `q`."""

    rollouts: Rollouts
    rewards_QG: np.ndarray
    right_QG: np.ndarray
    host_seconds: float


@dataclasses.dataclass
class Learner:
    """Everything that an iteration needs and that does not change, but for the stream's position."""

    config: RlConfig
    sampling: DecodeConfig
    encoded: EncodedProblems
    judge: Judge
    recipe: Recipe  # what prompts say
    sampler: Sampler
    stream: QuestionStream
    reward: Reward
    seed: int
    num_rows: int  # of a minibatch, a multiple of the devices
    hidden_size: int
    last_batch: TreeBatch | None = None

    def iterate(self, state, parameters_of: Callable, update: Update, iteration: int):
        """Iteration `iteration` (from 0): the state after it, its metrics, and the number of its rollouts."""
        begin = time.perf_counter()
        questions = self.stream.draw(self.config.num_questions)
        judged = self._judge(parameters_of(state), questions, iteration)
        rolled_out = time.perf_counter()
        self.stream.solved(questions[judged.right_QG.all(axis=1)])
        of_updates = []
        for batch in self._minibatches(judged, iteration):
            self.last_batch = batch
            state, metrics = update(state, batch)
            of_updates.append(metrics)
        metrics = _of_updates(jax.device_get(of_updates)) | self._of_rollouts(judged)
        end = time.perf_counter()
        num_chains = judged.rewards_QG.size
        num_positions = judged.rollouts.num_latents_BG.sum() + judged.rollouts.num_answer_tokens_BG.sum()
        metrics |= {
            "time/chains_per_second": Metric(num_chains, end - begin),
            "time/positions_per_second": Metric(num_positions, end - begin),
            "time/rollout_share": Metric(rolled_out - begin, end - begin),
            "time/host_share": Metric(judged.host_seconds, end - begin),
        }
        # As a checkpoint keeps them, and as a device gives them: a resumed run adds the same numbers up.
        return state, jax.tree.map(np.float32, metrics), num_chains

    def _judge(self, parameters, questions: np.ndarray, iteration: int) -> Judged:
        rng = np.random.default_rng((self.seed, 1, iteration))
        per_group = self.config.speeds_per_group
        asked = np.repeat(questions, per_group).tolist()
        problems = [self.encoded.problems[question] for question in asked]
        prompts = [
            np.append(self.encoded.prompt(question, self.recipe.said(*drawn)), np.int32(self.encoded.separator_id))
            for question, *drawn in zip(asked, *self.recipe.draw(rng, len(asked)), strict=True)
        ]
        key = jax.random.fold_in(jax.random.key(self.seed), iteration)
        parts, rewards, right, host_seconds = [], [], [], 0.0
        for place, part in self.sampler.run(parameters, prompts, key):
            begin = time.perf_counter()
            of_chains = [problem for problem in problems[place] for _ in range(part.num_latents_BG.shape[1])]
            _, answers = self.judge.read(
                part.answer_ids_BGA.reshape(-1, part.answer_ids_BGA.shape[-1]), part.num_answer_tokens_BG.reshape(-1)
            )
            rewards.append(rewards_of(self.reward, of_chains, answers, part.num_latents_BG.reshape(-1).tolist()))
            right.append(self.judge.judge(of_chains, answers))
            parts.append(part)
            host_seconds += time.perf_counter() - begin
        by_group = (len(questions), self.config.num_generations)
        rewards_QG, right_QG = (np.concatenate(of_parts).reshape(by_group) for of_parts in (rewards, right))
        return Judged(_concatenate(parts), rewards_QG, right_QG, host_seconds)

    def _minibatches(self, judged: Judged, iteration: int) -> Iterator[TreeBatch]:
        """Whole groups in a new order each time round, those without variance left out; the last may be smaller."""
        config, per_group = self.config, self.config.speeds_per_group
        advantages_QG = group_advantages(judged.rewards_QG, kind=config.advantage, eps=config.advantage_eps)
        kept = np.flatnonzero(has_variance(judged.rewards_QG))
        size = config.minibatch_size // config.num_generations
        for epoch in range(config.num_iterations):
            order = np.random.default_rng((self.seed, 2, iteration, epoch)).permutation(kept)
            for start in range(0, len(order), size):
                groups = order[start : start + size]
                rows = (groups[:, None] * per_group + np.arange(per_group)).reshape(-1)
                yield assemble(
                    judged.rollouts.take(rows),
                    advantages_QG[groups].reshape(len(rows), -1),
                    num_rows=self.num_rows,
                    prompt_room=self.sampler.prompt_room,
                    min_latents=self.sampling.min_latents,
                    aggregation=config.loss_aggregation,
                    configured_length=config.configured_length,
                    log_prob_scale=self.hidden_size if config.log_prob_reduction == "sum" else 1,
                )

    def _of_rollouts(self, judged: Judged) -> dict[str, Metric]:
        rollouts, right_QG, rewards_QG = judged.rollouts, judged.right_QG, judged.rewards_QG
        lengths_QG = rollouts.num_latents_BG.reshape(right_QG.shape)
        last_ids = np.take_along_axis(rollouts.answer_ids_BGA, rollouts.num_answer_tokens_BG[..., None] - 1, axis=2)
        return {
            "reward": _mean(rewards_QG),
            "accuracy": _mean(right_QG),
            "length": _mean(lengths_QG),
            "length/right": _mean(lengths_QG[right_QG]),
            "reward_spread": _mean(rewards_QG.std(axis=1, ddof=1)),
            "zero_variance": _mean(~has_variance(rewards_QG)),
            "forced_stops": _mean(rollouts.forced_stop_BG),
            "answer_tokens": _mean(rollouts.num_answer_tokens_BG),
            "unfinished_answers": _mean(last_ids != self.encoded.eos_id),
            "solved_questions": Metric(self.stream.num_solved, 1),
        }


def _mean(values: np.ndarray) -> Metric:
    return Metric(values.sum(), values.size)


def _of_updates(metrics: list[dict[str, Metric]]) -> dict[str, Metric]:
    """All updates added up; but the gap, which means something only before the first, and the last drift."""
    if not metrics:
        return {"updates": Metric(0, 1)}
    last = [f"log_ratio/{kind}" for kind in KINDS]
    gaps = {name: metric for name, metric in metrics[0].items() if name.startswith("gap/")}
    ends = {name: metrics[-1][name] for name in last}
    return merge(*metrics) | gaps | ends | {"updates": Metric(len(metrics), 1)}


def _concatenate(parts: list[Rollouts]) -> Rollouts:
    if len(parts) == 1:
        return parts[0]
    names = [field.name for field in dataclasses.fields(Rollouts) if field.name != "prompts"]
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Rollouts(prompts=[prompt for part in parts for prompt in part.prompts], **arrays)
