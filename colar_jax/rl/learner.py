"""One iteration of reinforcement learning: ask, sample, judge, update."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from colar_jax.metrics import Metric, merge
from colar_jax.rl.annealing import Annealed, annealed
from colar_jax.rl.judging import Draw, Judged, Questioner
from colar_jax.rl.lengths import LengthWeight
from colar_jax.rl.questions import QuestionStream
from colar_jax.rl.tree_batch import TreeBatch, assemble

# (state, batch) -> (state, metrics): one optimizer step, with everything else bound
Update = Callable[[Any, TreeBatch], tuple[Any, dict[str, Metric]]]


@dataclasses.dataclass
class Learner:
    """Runs iterations. What changes: the stream's position, the weight of lengths, and `last_batch`, for diagnosis."""

    questioner: Questioner
    stream: QuestionStream
    length_weight: LengthWeight
    row_rooms: tuple[int, ...]  # sizes of a minibatch in rows that are compiled, ascending; multiples of the devices
    num_iterations: int = 1  # of the stage
    last_batch: TreeBatch | None = None

    @property
    def config(self):
        """The settings."""
        return self.questioner.config

    def iterate(self, state, parameters_of: Callable, update: Update, iteration: int):
        """Iteration `iteration` (from 0): the state after it, its metrics, and the number of its rollouts."""
        begin = time.perf_counter()
        draws = self._draw(parameters_of(state), iteration)
        judged = Judged.together(draws)
        rolled_out = time.perf_counter()
        self.stream.solved(judged.questions[judged.outcomes.right_QG.all(axis=1)])
        of_updates = []
        for batch in self._minibatches(judged, iteration):
            self.last_batch = batch
            state, metrics = update(state, batch)
            of_updates.append(metrics)
        metrics = _of_updates(jax.device_get(of_updates)) | self._of_rollouts(judged)
        if self.config.redraws:
            metrics["redraws"] = Metric(len(draws) - 1, 1)
        if (at := self._annealed(iteration)) is not None:
            annealing = {f"annealed/{field.name}": getattr(at, field.name) for field in dataclasses.fields(at)}
            metrics |= {name: Metric(value, 1) for name, value in annealing.items()}
        if self.config.length_credit != "none":
            metrics["length_weight"] = Metric(self.length_weight.value, 1)
        self.length_weight.follow(judged.outcomes.mean_spent(self.config))
        end = time.perf_counter()
        num_chains = judged.outcomes.rewards_QG.size
        num_positions = judged.decoded.num_thoughts_B.sum() + judged.decoded.num_answer_tokens_B.sum()
        metrics |= {
            "time/chains_per_second": Metric(num_chains, end - begin),
            "time/positions_per_second": Metric(num_positions, end - begin),
            "time/rollout_share": Metric(rolled_out - begin, end - begin),
            "time/host_share": Metric(judged.host_seconds, end - begin),
        }
        # float32, as checkpoints and devices have them, so that a resumed run adds up the same numbers.
        return state, jax.tree.map(np.float32, metrics), num_chains

    def memory(self) -> dict:
        """JSON that `recall` takes."""
        return {"questions": self.stream.memory(), "length_weight": self.length_weight.value}

    def recall(self, memory: dict) -> None:
        """Go on from what `memory` returned; an older one does not know the weight, which then never moved."""
        self.stream.recall(memory["questions"])
        self.length_weight.value = memory.get("length_weight", self.config.length_weight)

    def _draw(self, parameters, iteration: int) -> list[Judged]:
        """The rollouts of an iteration; with `rl.redraws` more questions are asked while too few groups teach anything.

        Dynamic sampling as in DAPO (arXiv 2503.14476), bounded.
        """
        config, draws = self.config, []
        for draw in range(1 + config.redraws):
            questions = self.stream.draw(config.num_questions)
            drawn = Draw(iteration, draw, self.length_weight.value, self._annealed(iteration))
            draws.append(self.questioner.ask(parameters, questions, drawn))
            if sum(judged.informative_Q.sum() for judged in draws) >= config.num_questions:
                break
        return draws

    def _minibatches(self, judged: Judged, iteration: int) -> Iterator[TreeBatch]:
        """Whole groups in a new order each time round, those without an advantage left out.

        `even`: all minibatches have as many groups, or one less, and a group counts the same in all of them: its share
        of a full one. An optimizer step on a few groups alone would otherwise move the policy as far as one on many.
        """
        config, per_group = self.config, self.config.speeds_per_group
        by_prompt = np.arange(judged.advantages_QG.size).reshape(len(judged.prompts), -1)
        kept = np.flatnonzero(judged.informative_Q)[: config.num_questions]
        size = config.minibatch_size // config.num_generations
        for epoch in range(config.num_iterations):
            order = np.random.default_rng((self.questioner.seed, 2, iteration, epoch)).permutation(kept)
            for groups in _parts(order, size, config.minibatches):
                rows = (groups[:, None] * per_group + np.arange(per_group)).reshape(-1)
                chains = by_prompt[rows].reshape(-1)
                batch = assemble(
                    [judged.prompts[row] for row in rows],
                    jax.tree.map(lambda leaf, chains=chains: leaf[chains], judged.decoded),
                    judged.advantages_QG[groups].reshape(len(rows), -1),
                    config,
                    num_rows=next(room for room in self.row_rooms if room >= len(rows)),
                    prompt_room=self.questioner.sampler.prompt_room,
                    min_thoughts=self.questioner.sampling.min_latents,
                )
                if self.questioner.chooses:
                    batch = batch.choosing(
                        jax.tree.map(lambda leaf, chains=chains: leaf[chains], judged.decoded),
                        judged.choice_advantages_QG[groups].reshape(len(rows), -1),
                        config,
                        alone=self.questioner.learns == "speeds",
                    )
                batch = batch.under(self._annealed(iteration))
                yield batch.counting(len(groups) / size) if config.minibatches == "even" else batch

    def _annealed(self, iteration: int) -> Annealed | None:
        return annealed(self.config, self.questioner.sampling, iteration, self.num_iterations)

    def _of_rollouts(self, judged: Judged) -> dict[str, Metric]:
        decoded, outcomes = judged.decoded, judged.outcomes
        last_ids = np.take_along_axis(decoded.answer_ids_BA, decoded.num_answer_tokens_B[:, None] - 1, axis=1)
        of_choices = {"chosen_speed": _mean(decoded.own_speeds_B)} if self.questioner.chooses else {}
        return of_choices | {
            "reward": _mean(outcomes.rewards_QG),
            "accuracy": _mean(outcomes.right_QG),
            "length": _mean(outcomes.lengths_QG),
            "forward_passes": _mean(outcomes.passes_QG),
            "length/right": _mean(outcomes.lengths_QG[outcomes.right_QG]),
            "reward_spread": _mean(outcomes.rewards_QG.std(axis=1, ddof=1)),
            "zero_variance": _mean(~judged.informative_Q),
            "forced_stops": _mean(outcomes.forced_QG),
            "answer_tokens": _mean(decoded.num_answer_tokens_B),
            "unfinished_answers": _mean(last_ids != self.questioner.encoded.eos_id),
            "solved_questions": Metric(self.stream.num_solved, 1),
        }


def _parts(order: np.ndarray, size: int, minibatches: str) -> list[np.ndarray]:
    """Groups in minibatches of at most `size`."""
    if minibatches == "filled":
        return [order[start : start + size] for start in range(0, len(order), size)]
    return np.array_split(order, -(-len(order) // size)) if len(order) else []


def _mean(values: np.ndarray) -> Metric:
    return Metric(values.sum(), values.size)


def _of_updates(metrics: list[dict[str, Metric]]) -> dict[str, Metric]:
    """All updates added up; but the gap, which means something only before the first, and the last drift."""
    if not metrics:
        return {"updates": Metric(0, 1)}
    last = [name for name in metrics[-1] if name.startswith(("log_ratio/", "lost/"))]
    gaps = {name: metric for name, metric in metrics[0].items() if name.startswith("gap/")}
    ends = {name: metrics[-1][name] for name in last}
    return merge(*metrics) | gaps | ends | {"updates": Metric(len(metrics), 1)}
