"""The whole model: a Llama with the latent head beside its language head, and how tokens become positions."""

import jax
import jax.numpy as jnp
from flax import nnx

from colar_jax.model.latent_head import LatentHead, LatentHeadConfig
from colar_jax.model.llama import Llama
from colar_jax.model.presets import LlamaConfig


class Reasoner(nnx.Module):
    """Two heads over one hidden state: words, and latent thoughts."""

    def __init__(self, llama: LlamaConfig, latent_head: LatentHeadConfig, *, rngs: nnx.Rngs):
        self.llama = Llama(llama, rngs=rngs)
        self.latent_head = LatentHead(llama.hidden_size, latent_head, rngs=rngs)


def build(llama: LlamaConfig, latent_head: LatentHeadConfig, seed: int):
    """A model with random weights: its graph (static) and its parameters (a nested dict of arrays).

    Everything else in the project is a function of the two: `nnx.merge(graph, parameters)` inside jit costs nothing.
    """
    with nnx.use_eager_sharding(False):
        graph, state = nnx.split(Reasoner(llama, latent_head, rngs=nnx.Rngs(seed)))
    parameters = nnx.to_pure_dict(state)
    return graph, calibrate(parameters)


def build_on(llama: LlamaConfig, latent_head: LatentHeadConfig, llama_parameters: dict, seed: int):
    """As `build`, on the parameters of a base model: only the latent head is random. Nothing else is ever made."""
    with nnx.use_eager_sharding(False):
        graph, _ = nnx.split(nnx.eval_shape(lambda: Reasoner(llama, latent_head, rngs=nnx.Rngs(0))))
        head = LatentHead(llama.hidden_size, latent_head, rngs=nnx.Rngs(seed))
    return graph, calibrate({"llama": llama_parameters, "latent_head": nnx.to_pure_dict(nnx.state(head))})


def calibrate(parameters: dict) -> dict:
    """The parameters with the latent head's `embed_std` measured on their own embedding matrix.

    The published code looks it up in a table of five model names; the standard deviation over all entries of the matrix
    is what that table holds (METHOD.md section 3).
    """
    embed_std = _std_of_all(parameters["llama"]["embedding"])
    return parameters | {"latent_head": parameters["latent_head"] | {"embed_std": embed_std}}


@jax.jit
def _std_of_all(matrix_VD):
    """The standard deviation of all entries, in float32 and compiled, so that no array of this size is made.

    In two steps: one float32 sum over the 262 million entries of a Llama-3 embedding would stop growing.
    """

    def mean(x_VD):
        return jnp.mean(jnp.mean(x_VD, axis=1))

    matrix_VD = matrix_VD.astype(jnp.float32)
    return jnp.sqrt(mean(jnp.square(matrix_VD - mean(matrix_VD))))


def embed_positions(embedding_VD, token_ids_BT, token_positions_BT, scale_BS, dtype):
    """Add tokens into positions: `sum of the embeddings of a position's tokens * scale`, `[B, S, D]`.

    Tokens whose position is `S` (padding) fall off the end. With one token a position and scale 1 this is the ordinary
    embedding look-up; groups of step tokens have scale 1/sqrt(tokens), which keeps the variance of an embedding.
    """
    num_positions = scale_BS.shape[1]
    embeds_BTD = embedding_VD[token_ids_BT]

    def add_tokens(embeds_TD, positions_T):
        return jax.ops.segment_sum(embeds_TD, positions_T, num_positions, indices_are_sorted=True)

    embeds_BSD = jax.vmap(add_tokens)(embeds_BTD, token_positions_BT)
    return (embeds_BSD * scale_BS[..., None]).astype(dtype)
