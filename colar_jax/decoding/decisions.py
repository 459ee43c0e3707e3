"""The decision to stop thinking or to go on, as log-odds.

All follows from them: `log P(stop) = log sigmoid(odds)`, `log P(go on) = log sigmoid(-odds)`, and odds to the power of
`1 / temperature` are a division. From `log P(stop)`, `log(1 - P)` would lose its digits where a model is next to
certain: at `P = 0.9998` a rounding of `log P` by 1e-6 is one of `1 - P` by half a percent.
"""

import jax
import jax.numpy as jnp


def stop_log_odds(logits, separator_id):
    """`log(P / (1 - P))` of `###` against all other tokens together: logits `[..., V]` to float32 `[...]`.

    Args:
        separator_id: an int, or int `[...]`.
    """
    ids = jnp.broadcast_to(separator_id, logits.shape[:-1])
    is_separator = jax.nn.one_hot(ids, logits.shape[-1], dtype=bool)
    own = jnp.sum(jnp.where(is_separator, logits, 0.0), axis=-1)
    return own - jax.nn.logsumexp(jnp.where(is_separator, -jnp.inf, logits), axis=-1)


def decision_log_prob(log_odds, stop):
    """The log-probability of `stop`, a bool, under `log_odds`; both of any one shape, the result in float32."""
    return jax.nn.log_sigmoid(jnp.where(stop, log_odds, -log_odds))


def draw_stop(keys_B, log_odds_B):
    """Whether each row stops; one key a row, so that a decision does not depend on the batch that it is in."""
    return jnp.log(jax.vmap(jax.random.uniform)(keys_B)) < decision_log_prob(log_odds_B, True)
