"""One iteration of reinforcement learning: ask, sample, judge, update."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from colar_jax.config import DecodeConfig, RlConfig
from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.loader import Recipe
from colar_jax.decoding.decoder import Decoded
from colar_jax.evaluation.judge import Judge
from colar_jax.metrics import Metric, merge
from colar_jax.rl.credit import Reward, advantages_of, has_variance
from colar_jax.rl.questions import QuestionStream
from colar_jax.rl.reward_list import rewards_of
from colar_jax.rl.rollout import Sampler
from colar_jax.rl.tree_batch import KINDS, TreeBatch, assemble

# (state, batch) -> (state, metrics): one optimizer step, with everything else bound
Update = Callable[[Any, TreeBatch], tuple[Any, dict[str, Metric]]]


@dataclasses.dataclass(frozen=True)
class Judged:
    """An iteration's rollouts with what they are worth. `K` prompts a group: prompt `q * K + k` is of question `q`."""

    prompts: list[np.ndarray]  # with the separator at their end
    decoded: Decoded  # on the host
    rewards_QG: np.ndarray
    right_QG: np.ndarray
    host_seconds: float


@dataclasses.dataclass
class Learner:
    """Runs iterations. Two of its fields change: the stream's position, and `last_batch`, kept for diagnosis."""

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
        num_positions = judged.decoded.num_thoughts_B.sum() + judged.decoded.num_answer_tokens_B.sum()
        metrics |= {
            "time/chains_per_second": Metric(num_chains, end - begin),
            "time/positions_per_second": Metric(num_positions, end - begin),
            "time/rollout_share": Metric(rolled_out - begin, end - begin),
            "time/host_share": Metric(judged.host_seconds, end - begin),
        }
        # float32, as checkpoints and devices have them, so that a resumed run adds up the same numbers.
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
            per_prompt = len(part.num_thoughts_B) // len(problems[place])
            of_chains = [problem for problem in problems[place] for _ in range(per_prompt)]
            _, answers = self.judge.read(part.answer_ids_BA, part.num_answer_tokens_B)
            rewards.append(rewards_of(self.reward, of_chains, answers, part.num_thoughts_B.tolist()))
            right.append(self.judge.judge(of_chains, answers))
            parts.append(part)
            host_seconds += time.perf_counter() - begin
        by_group = (len(questions), self.config.num_generations)
        rewards_QG, right_QG = (np.concatenate(of_parts).reshape(by_group) for of_parts in (rewards, right))
        decoded = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        return Judged(prompts, decoded, rewards_QG, right_QG, host_seconds)

    def _minibatches(self, judged: Judged, iteration: int) -> Iterator[TreeBatch]:
        """Whole groups in a new order each time round, those without variance left out; the last may be smaller."""
        config, per_group = self.config, self.config.speeds_per_group
        advantages_QG = advantages_of(judged.rewards_QG, config)
        by_prompt = np.arange(judged.rewards_QG.size).reshape(len(judged.prompts), -1)
        kept = np.flatnonzero(has_variance(judged.rewards_QG))
        size = config.minibatch_size // config.num_generations
        for epoch in range(config.num_iterations):
            order = np.random.default_rng((self.seed, 2, iteration, epoch)).permutation(kept)
            for start in range(0, len(order), size):
                groups = order[start : start + size]
                rows = (groups[:, None] * per_group + np.arange(per_group)).reshape(-1)
                chains = by_prompt[rows].reshape(-1)
                yield assemble(
                    [judged.prompts[row] for row in rows],
                    jax.tree.map(lambda leaf, chains=chains: leaf[chains], judged.decoded),
                    advantages_QG[groups].reshape(len(rows), -1),
                    config,
                    num_rows=self.num_rows,
                    prompt_room=self.sampler.prompt_room,
                    min_thoughts=self.sampling.min_latents,
                )

    def _of_rollouts(self, judged: Judged) -> dict[str, Metric]:
        decoded, right_QG, rewards_QG = judged.decoded, judged.right_QG, judged.rewards_QG
        lengths_QG = decoded.num_thoughts_B.reshape(right_QG.shape)
        last_ids = np.take_along_axis(decoded.answer_ids_BA, decoded.num_answer_tokens_B[:, None] - 1, axis=1)
        return {
            "reward": _mean(rewards_QG),
            "accuracy": _mean(right_QG),
            "length": _mean(lengths_QG),
            "length/right": _mean(lengths_QG[right_QG]),
            "reward_spread": _mean(rewards_QG.std(axis=1, ddof=1)),
            "zero_variance": _mean(~has_variance(rewards_QG)),
            "forced_stops": _mean(decoded.forced_stop_B),
            "answer_tokens": _mean(decoded.num_answer_tokens_B),
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
