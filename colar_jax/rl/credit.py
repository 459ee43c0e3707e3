"""Credit for actions: rewards of rollouts, advantages within their groups, and the weight of each term.

Each is a function under a name, and `rl.reward`, `rl.advantage` and `rl.loss_aggregation` are such names. A new one is
a decorated function here; or, in a module of the user's own, a function that a setting names as package.module:NAME.

A *term* is one action: a latent, a decision to stop or to go on, a token of the answer.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from colar_jax.config import RlConfig, import_object, is_import_path, unknown_name
from colar_jax.data.answers import Verifier
from colar_jax.data.problems import Problem
from colar_jax.errors import UserError
from colar_jax.settings.checks import is_finite

# (problems, answers, num_latents) -> one number for each rollout
Reward = Callable[[Sequence[Problem], Sequence[str], Sequence[int]], Sequence[float]]
MakeReward = Callable[[RlConfig, Verifier, int], Reward]  # (settings, is_right, decode.max_latents)
# (rewards_QG, settings) -> advantages_QG of `Q` groups of `G` rollouts
Advantage = Callable[[np.ndarray, RlConfig], np.ndarray]
# (terms of each chain [chains..., 1], number of chains, settings) -> the weight of each term of a chain
Aggregation = Callable[[np.ndarray, int, RlConfig], Any]

_DIGIT = re.compile(r"\d")

REWARDS: dict[str, MakeReward] = {}
ADVANTAGES: dict[str, Advantage] = {}
AGGREGATIONS: dict[str, Aggregation] = {}


def registers_in(registry: dict[str, Callable]):
    """A decorator, `@named("name")`, that puts functions into a registry."""

    def named(name: str):
        def register(function: Callable) -> Callable:
            if name in registry:
                raise ValueError(f"{name!r} is registered twice")
            registry[name] = function
            return function

        return register

    return named


# Decorators: @reward("name"), @advantage("name"), @aggregation("name").
reward, advantage, aggregation = map(registers_in, (REWARDS, ADVANTAGES, AGGREGATIONS))


@reward("correctness")
def correctness(config: RlConfig, is_right: Verifier, max_latents: int) -> Reward:
    """1 for a right answer, less `length_penalty * #L / max_latents`; 0 for a wrong one.

    Only right answers lose something by their length: a wrong one is worth nothing, however short.
    """

    def of_rollouts(problems, answers, num_latents):
        return [
            (1.0 - config.length_penalty * length / max_latents) if is_right(answer, problem.answer) else 0.0
            for problem, answer, length in zip(problems, answers, num_latents, strict=True)
        ]

    return of_rollouts


@reward("brevity")
def brevity(config: RlConfig, is_right: Verifier, max_latents: int) -> Reward:
    """`1 - #L / max_latents`, right or wrong: give it a small weight beside correctness, or nothing is thought."""
    return lambda problems, answers, num_latents: [1.0 - length / max_latents for length in num_latents]


@reward("well_formed")
def well_formed(config: RlConfig, is_right: Verifier, max_latents: int) -> Reward:
    """-1 for an answer without a digit, else 0: beside correctness, what arXiv 2511.21581 takes for a bad format."""
    return lambda problems, answers, num_latents: [0.0 if _DIGIT.search(answer) else -1.0 for answer in answers]


@advantage("group")
def standardised(rewards_QG: np.ndarray, rl: RlConfig) -> np.ndarray:
    """GRPO: (reward - mean) / (standard deviation + eps), the unbiased one (of G - 1).

    Where a group has several prompts, each has its own mean, and all share one standard deviation about them. Where all
    rewards are equal there is nothing to divide, whatever eps is.
    """
    centred_QG = centred(rewards_QG, rl)
    free = rewards_QG.shape[1] - rl.prompts_to_centre
    std_Q1 = np.sqrt(np.square(centred_QG).sum(axis=1, keepdims=True) / free)
    return centred_QG / np.where(has_variance(rewards_QG, rl)[:, None], std_Q1 + rl.advantage_eps, np.inf)


@advantage("dr_grpo")
def centred(rewards_QG: np.ndarray, rl: RlConfig) -> np.ndarray:
    """Dr. GRPO: reward - mean. A question that is nearly always (or never) solved does not weigh more than others.

    The mean is that of the prompt, as `rl.centre` says. Were it the group's, a prompt that is right more often than the
    group's other prompts (a slower speed) would have advantages above 0 in the mean. What every chain of a prompt gets
    has no gradient in the sum over a chain, but it has one in the mean over a chain: it makes chains shorter.
    """
    by_prompt = rewards_QG.reshape(len(rewards_QG) * rl.prompts_to_centre, -1)
    return (by_prompt - by_prompt.mean(axis=1, keepdims=True)).reshape(rewards_QG.shape)


@aggregation("chain_mean")
def chain_mean(num_terms: np.ndarray, num_chains: int, rl: RlConfig):
    """1 / (terms of the chain * chains), the paper's: each chain counts its mean, a long one no more than a short."""
    return 1 / (np.maximum(num_terms, 1) * num_chains)


@aggregation("configured_length")
def configured_length(num_terms: np.ndarray, num_chains: int, rl: RlConfig):
    """1 / (`rl.configured_length` * chains): a sum over the chain, divided by a constant."""
    return 1 / (rl.configured_length * num_chains)


@aggregation("token")
def token(num_terms: np.ndarray, num_chains: int, rl: RlConfig):
    """1 / (terms of the minibatch), DAPO's: all terms count the same."""
    return 1 / max(int(num_terms.sum()), 1)


def advantages_of(rewards_QG: np.ndarray, rl: RlConfig) -> np.ndarray:
    """How much better each rollout did than the others of its group: float32 `[Q, G]`, as `rl.advantage` says.

    Raises:
        UserError: a function of the user's own gives something else.
    """
    given = np.asarray(find("rl.advantage", rl.advantage, ADVANTAGES)(np.asarray(rewards_QG, np.float64), rl))
    if given.shape != rewards_QG.shape or given.dtype.kind not in "biuf" or not np.all(is_finite(given)):
        raise UserError(
            f"rl.advantage={rl.advantage!r} gave {given!r:.200} for rewards of shape {rewards_QG.shape}: one finite "
            "number for each is wanted"
        )
    return given.astype(np.float32)


def has_variance(rewards_QG: np.ndarray, rl: RlConfig) -> np.ndarray:
    """Which groups have anything to tell apart, bool `[Q]`: where rewards that are compared are equal there is none."""
    by_prompt = rewards_QG.reshape(len(rewards_QG), rl.prompts_to_centre, -1)
    return (by_prompt.max(axis=2) > by_prompt.min(axis=2)).any(axis=1)


def term_weights(mask: np.ndarray, rl: RlConfig) -> np.ndarray:
    """What each term of a minibatch counts in the loss: float32, of the shape of `mask` `[chains..., terms]`.

    The weights hold all there is to averaging, so that parts of a batch (devices, microbatches) only need adding up.
    """
    share = find("rl.loss_aggregation", rl.loss_aggregation, AGGREGATIONS)
    num_terms = mask.sum(axis=-1, keepdims=True)
    return (mask * share(num_terms, int(np.prod(mask.shape[:-1])), rl)).astype(np.float32)


def find(setting: str, name: str, registry: dict[str, Callable]) -> Callable:
    """What a setting names. UserError, with the nearest right name, where there is nothing."""
    if name in registry:
        return registry[name]
    if not is_import_path(name):
        raise unknown_name(setting, name, registry, "A function")
    found = import_object(setting, name)
    if not callable(found):
        raise UserError(f"{setting}={name!r} is of type {type(found).__name__}: it is no function")
    return found
