"""The ways to think: from the last hidden state to the next input embedding, or to the decision that thinking is over.

A way to think is a function, so that one decode loop serves latents, words and whatever comes next:

    think(model, hidden_BD, keys_B) -> Thought
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from colar_jax.decoding.decisions import decision_log_prob, draw_stop, stop_log_odds
from colar_jax.decoding.sampling import greedy_token, sampled_token
from colar_jax.model.reasoner import Reasoner


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Thought:
    """What `B` rollouts would do next: stop thinking, or feed an embedding."""

    embed_BD: jax.Array  # fed by those that go on
    record: Any  # pytree of [B, ...]: what is kept of the thought (the latent itself; the word's id)
    log_prob_B: jax.Array  # of the thought, given that thinking goes on
    stop_B: jax.Array  # bool: the decision
    stop_log_prob_B: jax.Array  # of the decision, whichever it was
    end_log_prob_B: jax.Array | None = None  # of the decision to stop; None where it has no distribution of its own

    @classmethod
    def undrawn(cls, embed_BD, stop_B) -> "Thought":
        """One that is a function of the hidden state, as its decision is: both have log-probability 0."""
        zeros_B = jnp.zeros(stop_B.shape, jnp.float32)
        return cls(embed_BD, embed_BD, zeros_B, stop_B, zeros_B)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Determined:
    """The record of a thought that is a function of the question: nothing of it is kept, for it can be made again.

    `maker.project(model, hidden)` makes it, and `maker.stop_log_odds(model, hidden)` says how likely it is that
    thinking is over instead.
    """

    nothing: jax.Array  # [..., 1]
    maker: Any = dataclasses.field(metadata={"static": True})


Think = Callable[[Reasoner, jax.Array, jax.Array], Thought]


def greedy_latent_thinker(separator_id: int, *, stops_at_half: bool = False) -> Think:
    """CoLaR without drawing: feed the Gaussian's mean; stop where `###` is the most probable token.

    Args:
        stops_at_half: stop where `###` has a probability of at least one half instead. Where it is the most probable
            token depends on the speed: inside the reasoning the head predicts any one of the next c tokens, so that it
            is from about 1 / (c + 1) on.
    """

    def think(model: Reasoner, hidden_BD, keys_B) -> Thought:
        logits_BV = model.llama.logits(hidden_BD)
        log_odds_B = stop_log_odds(logits_BV, separator_id)
        stop_B = log_odds_B >= 0 if stops_at_half else jnp.argmax(logits_BV, axis=-1) == separator_id
        latent_BD = model.latent_head(hidden_BD).mean
        return _latent(model, hidden_BD, latent_BD, jnp.zeros(hidden_BD.shape[0], jnp.float32), log_odds_B, stop_B)

    return think


def latent_thinker(
    separator_id: int,
    *,
    latent_temperature: float,
    stop_temperature: float,
    stop_odds_temperature: float = 1.0,
    min_std: float = 0.0,
    one_sided: bool = False,
) -> Think:
    """CoLaR: sample the next compressed embedding; draw whether to stop by how probable `###` is.

    A latent's log-probability is the mean over its dimensions (as in the paper) of the density, under the tempered
    Gaussian, in units of `embed_std`.

    Args:
        min_std: a floor of the Gaussian's standard deviation, before the temperature.
        one_sided: sample half of the Gaussian: the size of the normal draw in each dimension, so that all latents lie
            above the mean.
    """

    def think(model: Reasoner, hidden_BD, keys_B) -> Thought:
        logits_BV = model.llama.logits(hidden_BD)
        predicted = model.latent_head(hidden_BD).with_min_std(min_std)
        latent_key_B, stop_key_B = _split(keys_B)
        noise_BD = jax.vmap(lambda key: jax.random.normal(key, hidden_BD.shape[1:]))(latent_key_B)
        noise_BD = jnp.abs(noise_BD) if one_sided else noise_BD
        latent_BD = predicted.sample(noise_BD, latent_temperature)
        log_prob_B = latent_log_prob(predicted, latent_BD, latent_temperature, one_sided=one_sided)
        log_odds_B = stop_log_odds(logits_BV / stop_temperature, separator_id) / stop_odds_temperature
        return _latent(model, hidden_BD, latent_BD, log_prob_B, log_odds_B, draw_stop(stop_key_B, log_odds_B))

    return think


def _latent(model: Reasoner, hidden_BD, latent_BD, log_prob_B, log_odds_B, stop_B) -> Thought:
    embed_BD = (latent_BD * model.latent_head.embed_std[...]).astype(hidden_BD.dtype)
    decision_B, end_B = decision_log_prob(log_odds_B, stop_B), decision_log_prob(log_odds_B, True)
    return Thought(embed_BD, latent_BD, log_prob_B, stop_B, decision_B, end_B)


def word_thinker(separator_id: int, *, greedy: bool, temperature: float, top_p: float) -> Think:
    """Chain of thought: sample the next token; stop when it is `###`."""

    def think(model: Reasoner, hidden_BD, keys_B) -> Thought:
        logits_BV = model.llama.logits(hidden_BD)
        ids_B, log_prob_B = greedy_token(logits_BV) if greedy else sampled_token(keys_B, logits_BV, temperature, top_p)
        embed_BD = model.llama.embed(ids_B, hidden_BD.dtype)
        # One draw decides both what is thought and whether thinking ends, so the decision has none of its own.
        return Thought(embed_BD, ids_B, log_prob_B, ids_B == separator_id, jnp.zeros_like(log_prob_B))

    return think


def _split(keys_B):
    pairs = jax.vmap(jax.random.split)(keys_B)
    return pairs[:, 0], pairs[:, 1]


def latent_log_prob(predicted, latent, temperature, *, one_sided: bool = False):
    """Mean over dimensions of the tempered log density, `[..., D]` to `[...]`; zero for a head without a density.

    Half of a Gaussian is twice as dense. A latent below the mean, which it did not come from, keeps the density that it
    would have above.
    """
    densities = jnp.where(predicted.std > 0, predicted.log_prob(latent, temperature), 0.0)
    mean = jnp.mean(densities, axis=-1)
    return mean + jnp.log(2.0) if one_sided else mean
