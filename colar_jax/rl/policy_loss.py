"""The clipped policy-gradient loss, and how the terms of many chains become one number.

A *term* is one action: a latent, a decision to stop or to go on, a token of the answer. The loss is a weighted sum of
terms; the weights hold all there is to averaging, so that parts of a batch (devices, microbatches) only need adding up.
"""

import jax.numpy as jnp
import numpy as np


def clipped_loss(log_probs, old_log_probs, advantages, *, epsilon: float, epsilon_high: float):
    """`-min(ratio * A, clip(ratio, 1 - epsilon, 1 + epsilon_high) * A)` of each term, and its ratio.

    GRPO and PPO have one epsilon; DAPO's clip-higher a larger `epsilon_high`, which leaves room for unlikely actions to
    become likely.
    """
    ratios = jnp.exp(log_probs - old_log_probs)
    clipped = jnp.clip(ratios, 1 - epsilon, 1 + epsilon_high)
    return -jnp.minimum(ratios * advantages, clipped * advantages), ratios


def k3_divergence(log_probs, reference_log_probs):
    """The estimator `exp(d) - d - 1`, `d = reference - own`, of the KL divergence to a reference policy.

    Never negative, unbiased for actions drawn from the policy itself, and of lower variance than `-d`.
    """
    difference = reference_log_probs - log_probs
    return jnp.expm1(difference) - difference


def term_weights(mask: np.ndarray, aggregation: str, configured_length: int) -> np.ndarray:
    """What each term of a minibatch counts in the loss: float32, of the shape of `mask` `[chains..., terms]`.

    `chain_mean`: 1 / (terms of the chain * chains): each chain counts its mean (the paper's averaging): a long chain
    weighs no more than a short one. `configured_length`: 1 / (length * chains): a sum over
    the chain, divided by a constant. `token`: 1 / (terms of the minibatch): all terms count the same (DAPO).
    """
    terms = mask.sum(axis=-1, keepdims=True)
    num_chains = np.prod(mask.shape[:-1])
    if aggregation == "token":
        share = 1 / max(int(terms.sum()), 1)
    elif aggregation == "configured_length":
        share = 1 / (configured_length * num_chains)
    else:
        share = 1 / (np.maximum(terms, 1) * num_chains)
    return (mask * share).astype(np.float32)
