"""The list of weighted rewards that `rl.reward` is: plain Python functions, called while the device goes on.

    reward(problems, answers, num_latents) -> one number for each rollout

with a `Problem`, the extracted answer (text) and #L for each rollout. `rl.reward` is a list of them, with commas and
weights: `correctness,0.1*brevity,0.5*package.module:function`. Each is one of `credit.REWARDS`, or a function of the
user's own by its import path.
"""

import dataclasses
import inspect
import math

import numpy as np

from colar_jax.config import RlConfig, is_import_path, split_names
from colar_jax.data.answers import Verifier
from colar_jax.errors import UserError
from colar_jax.rl.credit import ADVANTAGES, AGGREGATIONS, REWARDS, MakeReward, Reward, find
from colar_jax.rl.lengths import LENGTH_CREDITS
from colar_jax.settings.checks import is_finite


@dataclasses.dataclass(frozen=True)
class WeightedReward:
    """One reward of the list, before it knows the run's settings."""

    text: str  # as the user wrote it
    weight: float
    make: MakeReward


def reward_terms(text: str) -> list[WeightedReward]:
    """The terms of `rl.reward`, looked up and imported, so that a wrong one is found before anything is trained.

    Raises:
        UserError: there is none, one is there twice, a weight is no finite number or 0, or what a term names does not
            exist or cannot be called as a reward.
    """
    terms = [_term(part) for part in split_names(text)]
    if not terms:
        raise UserError(f"rl.reward={text!r} is empty: name at least one of {', '.join(REWARDS)}")
    names = [term.text.rpartition("*")[2].strip() for term in terms]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"rl.reward={text!r} has {name!r} twice: give it one weight")
    return terms


def check_credit(rl: RlConfig) -> None:
    """UserError where `rl.reward`, `rl.advantage`, `rl.loss_aggregation` or `rl.length_credit` names nothing."""
    reward_terms(rl.reward)
    find("rl.advantage", rl.advantage, ADVANTAGES)
    find("rl.loss_aggregation", rl.loss_aggregation, AGGREGATIONS)
    find("rl.length_credit", rl.length_credit, LENGTH_CREDITS)


def make_reward(config: RlConfig, is_right: Verifier, max_latents: int) -> Reward:
    """The weighted sum of the rewards that `config.reward` lists. UserError where there is none."""
    terms = [(term, term.make(config, is_right, max_latents)) for term in reward_terms(config.reward)]

    def reward(problems, answers, num_latents):
        values = [_finite(term.text, of_term(problems, answers, num_latents), len(answers)) for term, of_term in terms]
        return sum(term.weight * of_term for (term, _), of_term in zip(terms, values, strict=True))

    return reward


def rewards_of(reward: Reward, problems, answers, num_latents) -> np.ndarray:
    """One finite float64 for each rollout. UserError where a function of the user's gives something else."""
    return _finite("", reward(problems, answers, num_latents), len(answers))


def _term(text: str) -> WeightedReward:
    weight_text, star, name = (part.strip() for part in text.rpartition("*"))
    weight = 1.0
    if star:
        try:
            weight = float(weight_text)
        except ValueError:
            weight = math.nan
        if not is_finite(weight) or weight == 0:
            raise UserError(
                f"rl.reward: {text!r} has {weight_text!r} as weight: write a number before the star, as in 0.5*{name}"
            )
    return WeightedReward(text, weight, _find(name))


def _find(name: str) -> MakeReward:
    reward = find("rl.reward", name, REWARDS)
    if not is_import_path(name):
        return reward
    try:
        inspect.signature(reward).bind(None, None, None)
    except TypeError as error:
        raise UserError(
            f"rl.reward={name!r} cannot be called as reward(problems, answers, num_latents): {error}"
        ) from None
    except ValueError:
        pass  # some built-in functions do not say what they take
    return lambda *of_run: reward


def _finite(text: str, given, count: int) -> np.ndarray:
    try:
        values_N = np.asarray(given)
    except ValueError:  # lists of different lengths
        values_N = np.empty(0)
    if values_N.shape != (count,) or values_N.dtype.kind not in "biuf" or not np.all(is_finite(values_N)):
        name = f" {text}" if text else ""
        raise UserError(
            f"the reward function{name} gave {given!r:.200} for {count} rollouts: one finite number each is wanted"
        )
    return values_N.astype(np.float64)
