"""Asking and judging: questions become rollouts, and rollouts what they are worth."""

import dataclasses
import time
from typing import Literal

import jax
import numpy as np

from colar_jax.config import DecodeConfig, RlConfig
from colar_jax.data.encoding import EncodedProblems, Prompt
from colar_jax.data.recipe import Recipe
from colar_jax.decoding.decoder import Decoded
from colar_jax.evaluation.judge import Judge
from colar_jax.parallel.hosts import as_the_first_has
from colar_jax.rl.annealing import Annealed
from colar_jax.rl.credit import Reward
from colar_jax.rl.lengths import Outcomes, choice_advantages, rollout_advantages
from colar_jax.rl.reward_list import rewards_of
from colar_jax.rl.rollout import Sampler
from colar_jax.rl.words import ReadSaid, said_in_latents, without_separator, without_thoughts


@dataclasses.dataclass(frozen=True)
class Judged:
    """Rollouts with what they are worth. `K` prompts a group: prompt `q * K + k` is of question `q`."""

    questions: np.ndarray
    prompts: list[Prompt]
    decoded: Decoded  # on the host
    outcomes: Outcomes
    advantages_QG: np.ndarray
    choice_advantages_QG: np.ndarray  # of the speeds that the model chose, where it does
    informative_Q: np.ndarray  # bool: which groups have anything to learn from
    host_seconds: float

    @classmethod
    def together(cls, parts: "list[Judged]") -> "Judged":
        """Those of several draws, one after another."""
        if len(parts) == 1:
            return parts[0]
        first, *others = (part.outcomes for part in parts)
        return cls(
            questions=np.concatenate([part.questions for part in parts]),
            prompts=[prompt for part in parts for prompt in part.prompts],
            decoded=jax.tree.map(lambda *leaves: np.concatenate(leaves), *(part.decoded for part in parts)),
            outcomes=first.each(lambda *of_parts: np.concatenate(of_parts), *others),
            advantages_QG=np.concatenate([part.advantages_QG for part in parts]),
            choice_advantages_QG=np.concatenate([part.choice_advantages_QG for part in parts]),
            informative_Q=np.concatenate([part.informative_Q for part in parts]),
            host_seconds=sum(part.host_seconds for part in parts),
        )


@dataclasses.dataclass(frozen=True)
class Draw:
    """Which draw of questions it is, and what holds in its iteration."""

    iteration: int
    number: int  # 0: the iteration's first; each has randomness of its own
    length_weight: float
    annealed: Annealed | None = None


@dataclasses.dataclass(frozen=True)
class Questioner:
    """Asks questions of the policy, and judges what it answers."""

    config: RlConfig
    sampling: DecodeConfig
    encoded: EncodedProblems
    judge: Judge
    recipe: Recipe  # what prompts say
    sampler: Sampler
    reward: Reward
    seed: int
    said_in_words: ReadSaid | None = None  # of chains in words; None: chains are latents
    learns: Literal["chains", "chains and speeds", "speeds"] = "chains"  # speeds: those that the model chooses

    @property
    def chooses(self) -> bool:
        """Whether the model chooses its speed."""
        return self.learns != "chains"

    def ask(self, parameters, questions: np.ndarray, draw: Draw) -> Judged:
        """The rollouts of some questions, and what they are worth."""
        redrawn = (draw.number,) if draw.number else ()
        rng = np.random.default_rng((self.seed, 1, draw.iteration, *redrawn))
        asked = np.repeat(questions, self.config.speeds_per_group).tolist()
        problems = [self.encoded.problems[question] for question in asked]
        prompts = [
            self.encoded.ask(question, self.recipe.told_of_drawn(*drawn))
            for question, *drawn in zip(asked, *self.recipe.draw(rng, len(asked)), strict=True)
        ]
        if self.said_in_words is not None:
            prompts = [without_separator(prompt) for prompt in prompts]
        key = jax.random.fold_in(jax.random.key(self.seed), draw.iteration)
        if draw.number:
            key = jax.random.fold_in(key, np.uint32(2**32 - draw.number))  # no rollout has such a number
        parts, rewards, right, of_chains_said, host_seconds = [], [], [], [], 0.0
        for place, part in self.sampler.run(parameters, prompts, key, draw.annealed):
            begin = time.perf_counter()
            said = said_in_latents(part) if self.said_in_words is None else self.said_in_words(part)
            part = part if self.said_in_words is None else without_thoughts(part)
            per_prompt = len(part.num_thoughts_B) // len(problems[place])
            of_chains = [problem for problem in problems[place] for _ in range(per_prompt)]
            _, answers = self.judge.read(said.answer_ids_BA, said.num_answer_tokens_B)
            rewards.append(rewards_of(self.reward, of_chains, answers, said.lengths_B.tolist()))
            right.append(self.judge.judge(of_chains, answers))
            parts.append(part)
            of_chains_said.append((said.lengths_B, said.forced_B, said.num_answer_tokens_B))
            host_seconds += time.perf_counter() - begin
        decoded = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        lengths_B, forced_B, answer_tokens_B = map(np.concatenate, zip(*of_chains_said, strict=True))
        # A reward may be drawn, or asked of a service.
        rewards_B, right_B = as_the_first_has((np.concatenate(rewards), np.concatenate(right)))
        of_groups = (rewards_B, right_B, lengths_B, forced_B, answer_tokens_B)
        *by_group, answer_tokens_QG = (
            values.reshape(len(questions), self.config.num_generations) for values in of_groups
        )
        outcomes = Outcomes(*by_group, self.sampling.max_latents, answer_tokens_QG, 2 if self.chooses else 1)
        return Judged(questions, prompts, decoded, outcomes, *self._advantages(outcomes, draw), host_seconds)

    def _advantages(self, outcomes: Outcomes, draw: Draw) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of chains, of chosen speeds (0 where none is chosen), and which groups have anything to learn from."""
        advantages_QG, informative_Q = rollout_advantages(outcomes, self.config, draw.length_weight)
        if not self.chooses:
            return advantages_QG, np.zeros_like(advantages_QG), informative_Q
        of_choices_QG = choice_advantages(outcomes, self.config, draw.length_weight)
        is_told_apart_Q = (of_choices_QG != 0).any(axis=1) | (self.config.choice_entropy_weight > 0)
        return advantages_QG, of_choices_QG, is_told_apart_Q | (informative_Q & (self.learns != "speeds"))
