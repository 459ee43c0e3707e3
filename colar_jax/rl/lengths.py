"""What short chains are paid besides their rewards: `rl.length_credit`, a function under a name.

Correctness and length are two wishes, and in one sum of rewards one hides the other. So a length credit says by itself
what it adds, to the rewards before they are compared or to the advantages after that.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from colar_jax.config import RlConfig
from colar_jax.rl.credit import advantages_of, find, has_variance, registers_in


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """What came of an iteration's rollouts: `Q` groups of `G`, the rollouts of one prompt side by side."""

    rewards_QG: np.ndarray
    right_QG: np.ndarray  # bool
    lengths_QG: np.ndarray  # #L
    forced_QG: np.ndarray  # bool: cut at the limit
    max_latents: int
    answer_tokens_QG: np.ndarray | float = 0.0  # eos included
    question_passes: int = 1  # 2 where the model reads it to choose its speed, and again when it is told

    @property
    def passes_QG(self) -> np.ndarray:
        """Forward passes, as `evaluation.cost` counts them: the question, each latent, each token of the answer."""
        return self.question_passes + self.lengths_QG + self.answer_tokens_QG

    def mean_spent(self, rl: RlConfig) -> float:
        """What `rl.budget` is compared with: mean forward passes where they are what is paid, else mean #L."""
        return (self.passes_QG if rl.length_credit == "cost" else self.lengths_QG).mean()

    def by_prompt(self, rl: RlConfig) -> "Outcomes":
        """The same with the groups' prompts as groups of their own, where they are compared by prompt."""
        rows = len(self.rewards_QG) * rl.prompts_to_centre
        return self.each(lambda values_QG: np.reshape(values_QG, (rows, -1)))

    def each(self, of: Callable[..., np.ndarray], *others: "Outcomes") -> "Outcomes":
        """The same with what `of` makes of each array, beside those of `others`."""
        names = ("rewards_QG", "right_QG", "lengths_QG", "forced_QG", "answer_tokens_QG")
        arrays = {name: [np.asarray(getattr(one, name)) for one in (self, *others)] for name in names}
        return dataclasses.replace(self, **{name: of(*found) for name, found in arrays.items() if found[0].ndim})


@dataclasses.dataclass(frozen=True)
class LengthCredit:
    """What is added: to the rewards, and to the advantages that come of them; float64 `[Q, G]` or 0."""

    reward_QG: np.ndarray | float = 0.0
    advantage_QG: np.ndarray | float = 0.0


# (outcomes, a group of which is one prompt's rollouts; settings; the weight) -> what is added
MakeLengthCredit = Callable[[Outcomes, RlConfig, float], LengthCredit]
LENGTH_CREDITS: dict[str, MakeLengthCredit] = {}
length_credit = registers_in(LENGTH_CREDITS)

# Bonus of a right answer for its length, as a share of the range of lengths (arXiv 2511.21581, its released settings).
LENGTHEN, SHORTEN = 0.1, 1e-4


@length_credit("none")
def nothing(outcomes: Outcomes, rl: RlConfig, weight: float) -> LengthCredit:
    """Lengths count as far as the rewards say."""
    return LengthCredit()


@length_credit("penalty")
def penalty(outcomes: Outcomes, rl: RlConfig, weight: float) -> LengthCredit:
    """A right answer's reward loses `weight * #L / L_max`: the price of thinking, in one sum with correctness."""
    return LengthCredit(reward_QG=-weight * outcomes.right_QG * outcomes.lengths_QG / outcomes.max_latents)


@length_credit("cost")
def cost(outcomes: Outcomes, rl: RlConfig, weight: float) -> LengthCredit:
    """Every reward, of a wrong answer too, loses `weight * forward passes / L_max`: what an answer costs, as a price.

    That of a model that chooses its own speed: what is wrong at any speed is then thought as fast as can be.
    """
    return LengthCredit(reward_QG=-weight * outcomes.passes_QG / outcomes.max_latents)


@length_credit("among_right")
def among_right(outcomes: Outcomes, rl: RlConfig, weight: float) -> LengthCredit:
    """A second advantage: `weight * min(1, accuracy / target) * (mean - #L) / std`, both of the right rollouts.

    Wrong rollouts have none, so no length makes up for a wrong answer. It is worth less in a group that is rarely
    right, and nothing where nothing is, or where all right chains are equally long. Right chains compared with right
    ones are from arXiv 2502.04463 (there within one reward); an advantage for each wish is from arXiv 2601.05242.
    """
    right_QG, lengths_QG = outcomes.right_QG, outcomes.lengths_QG.astype(np.float64)
    num_right_Q1 = right_QG.sum(axis=1, keepdims=True)
    mean_Q1 = (lengths_QG * right_QG).sum(axis=1, keepdims=True) / np.maximum(num_right_Q1, 1)
    shorter_QG = np.where(right_QG, mean_Q1 - lengths_QG, 0.0)
    variance_Q1 = np.square(shorter_QG).sum(axis=1, keepdims=True) / np.maximum(num_right_Q1 - 1, 1)
    # Lengths are whole numbers: two that differ have a spread far above this.
    normalised_QG = shorter_QG / np.maximum(np.sqrt(variance_Q1), 1e-6)
    trust_Q1 = np.minimum(1.0, right_QG.mean(axis=1, keepdims=True) / rl.length_target)
    return LengthCredit(advantage_QG=weight * trust_Q1 * normalised_QG)


@length_credit("when_solved")
def when_solved(outcomes: Outcomes, rl: RlConfig, weight: float) -> LengthCredit:
    """Shorten what is solved, lengthen what is not: right rollouts get `k * (#L - mean) / (max - min)`, of right ones.

    `k` is -1e-4 where all rollouts of the prompt are right, and 0.1 where not, both times `weight / 0.5`
    (arXiv 2511.21581). A group that is all right is told apart by nothing else, so a small `k` is enough: `rl.advantage
    = group` divides by the spread. Where all right chains are equally long there is no bonus.
    """
    right_QG, lengths_QG = outcomes.right_QG, outcomes.lengths_QG.astype(np.float64)
    longest_Q1 = np.where(right_QG, lengths_QG, -np.inf).max(axis=1, keepdims=True)
    shortest_Q1 = np.where(right_QG, lengths_QG, np.inf).min(axis=1, keepdims=True)
    mean_Q1 = (lengths_QG * right_QG).sum(axis=1, keepdims=True) / np.maximum(right_QG.sum(axis=1, keepdims=True), 1)
    range_Q1 = np.where(longest_Q1 > shortest_Q1, longest_Q1 - shortest_Q1, 1.0)
    factor_Q1 = np.where(right_QG.all(axis=1, keepdims=True), -SHORTEN, LENGTHEN) * weight / 0.5
    differs_Q1 = longest_Q1 > shortest_Q1
    return LengthCredit(reward_QG=np.where(right_QG & differs_Q1, factor_Q1 * (lengths_QG - mean_Q1) / range_Q1, 0.0))


def rollout_advantages(outcomes: Outcomes, rl: RlConfig, weight: float) -> tuple[np.ndarray, np.ndarray]:
    """The advantage of each rollout, float32 `[Q, G]`, and which groups have anything to learn from, bool `[Q]`.

    Args:
        weight: of the length credit.
    """
    shape = outcomes.rewards_QG.shape
    make = find("rl.length_credit", rl.length_credit, LENGTH_CREDITS)
    credit = make(outcomes.by_prompt(rl), rl, weight)
    rewards_QG = outcomes.rewards_QG + np.reshape(np.broadcast_to(credit.reward_QG, _prompts(shape, rl)), shape)
    lengths_QG = np.reshape(np.broadcast_to(credit.advantage_QG, _prompts(shape, rl)), shape).astype(np.float32)
    if rl.overlong == "left_out":
        advantages_QG = _of_those_that_ended(rewards_QG, outcomes.forced_QG, rl)
    else:
        advantages_QG = advantages_of(rewards_QG, rl)
    advantages_QG = np.where(has_variance(rewards_QG, rl)[:, None], advantages_QG, np.float32(0)) + lengths_QG
    if rl.overlong != "count":
        advantages_QG = np.where(outcomes.forced_QG, np.float32(0), advantages_QG)
    return advantages_QG, (advantages_QG != 0).any(axis=1)


def choice_advantages(outcomes: Outcomes, rl: RlConfig, weight: float) -> np.ndarray:
    """The advantage of the speed that each rollout's prompt was told, float32 `[Q, G]`.

    The speeds of a group are alternatives of one choice, so they are compared with the mean of the whole group,
    whatever the rollouts of one prompt are compared with.
    """
    return rollout_advantages(outcomes, dataclasses.replace(rl, centre="group"), weight)[0]


def _prompts(shape: tuple[int, int], rl: RlConfig) -> tuple[int, int]:
    return shape[0] * rl.prompts_to_centre, shape[1] // rl.prompts_to_centre


def _of_those_that_ended(rewards_QG: np.ndarray, forced_QG: np.ndarray, rl: RlConfig) -> np.ndarray:
    """Advantages within what is left of each group without its overlong rollouts; 0 where fewer than two are, or where
    these are worth the same: what rounding leaves of their differences is nothing to learn from."""
    advantages_QG = np.zeros(rewards_QG.shape, np.float32)
    for group, ended_G in enumerate(~forced_QG):
        left_1E = rewards_QG[group : group + 1, ended_G]
        if left_1E.size > 1 and has_variance(left_1E, rl).any():
            advantages_QG[group, ended_G] = advantages_of(left_1E, rl)[0]
    return advantages_QG


@dataclasses.dataclass
class LengthWeight:
    """The weight of the length credit. With `rl.budget` it follows the rollouts' mean #L, or their mean cost.

    After each iteration `weight += rate * (mean / budget - 1)`, never below 0: the multiplier of a bound on the mean,
    by dual ascent. The cost is that of `rl.length_credit = cost`, forward passes.
    """

    rl: RlConfig
    value: float

    def follow(self, mean: float) -> None:
        """Take note of an iteration's mean (`Outcomes.mean_spent`)."""
        if self.rl.budget:
            self.value = max(0.0, self.value + self.rl.budget_rate * (mean / self.rl.budget - 1))
