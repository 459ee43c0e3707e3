"""Sample tokens, each with its log-probability under the distribution that it was drawn from."""

import jax
import jax.numpy as jnp


def greedy_token(logits_BV):
    """The most probable token and its log-probability (at temperature 1): int32 `[B]` and float32 `[B]`."""
    ids_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    return ids_B, log_prob_of(logits_BV, ids_B)


def sampled_token(keys_B, logits_BV, temperature: float, top_p: float):
    """A token from the top-p nucleus of the tempered distribution, and its log-probability there.

    One key a row, so that what is drawn for a question does not depend on the batch that it is in.
    """
    filtered_BV = nucleus(logits_BV / temperature, top_p)
    ids_B = jax.vmap(jax.random.categorical)(keys_B, filtered_BV).astype(jnp.int32)
    return ids_B, log_prob_of(filtered_BV, ids_B)


def log_prob_of(logits_BV, ids_B):
    """`log softmax(logits)[id]` for each row."""
    picked_B = jnp.take_along_axis(logits_BV, ids_B[:, None], axis=-1)[:, 0]
    return picked_B - jax.nn.logsumexp(logits_BV, axis=-1)


def nucleus(logits_BV, top_p: float):
    """Logits with -inf outside the nucleus: the most probable tokens, until their probabilities sum to `top_p`.

    No sort: the smallest probability inside is found by bisection over the bit patterns of non-negative floats (which
    are ordered as the floats are), in 31 passes that are exact. Tokens that tie with it are all inside. `top_p` may be
    traced; a traced 1 keeps every token, by the same passes.
    """
    if not isinstance(top_p, jax.Array) and top_p >= 1:
        return logits_BV
    probs_BV = jax.nn.softmax(logits_BV, axis=-1)
    bits_BV = jax.lax.bitcast_convert_type(probs_BV, jnp.int32)
    # Invariant: the tokens with bits >= low hold at least top_p; those with bits >= high do not.
    high_B = jnp.max(bits_BV, axis=-1) + 1
    low_B = jnp.zeros_like(high_B)

    def halve(_, bounds):
        low_B, high_B = bounds
        middle_B = low_B + (high_B - low_B) // 2
        mass_B = jnp.sum(jnp.where(bits_BV >= middle_B[:, None], probs_BV, 0.0), axis=-1)
        enough_B = mass_B >= top_p
        return jnp.where(enough_B, middle_B, low_B), jnp.where(enough_B, high_B, middle_B)

    low_B, _ = jax.lax.fori_loop(0, 31, halve, (low_B, high_B))
    is_inside_BV = bits_BV >= low_B[:, None]
    if isinstance(top_p, jax.Array):  # rounding may let the probabilities sum to 1 before the last
        is_inside_BV |= top_p >= 1
    return jnp.where(is_inside_BV, logits_BV, -jnp.inf)
