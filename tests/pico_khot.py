"""The `pico` preset, larger than at first, and encoded problems at several speeds: for latents that are mixtures."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from enlarged import enlarged
from flax import nnx
from pico_thoughts import VOCABULARY, problems

from colar_jax.model.execution import Execution
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import build
from colar_jax.model.visibility import packed

ENCODED = problems(20)
ENCODED = dataclasses.replace(ENCODED, tails=dict.fromkeys(("auto", "1", "2", "3"), ENCODED.tails["auto"]))


@functools.cache
def model():
    """Graph and parameters."""
    llama = dataclasses.replace(PRESETS["pico"], vocab_size=VOCABULARY)
    graph, parameters = build(llama, LatentHeadConfig(24), 0)
    return graph, enlarged(parameters, llama.hidden_size, seed=0)


def merged(parameters=None):
    """The model itself."""
    graph, own = model()
    return nnx.merge(graph, jax.tree.map(jnp.asarray, own if parameters is None else parameters))


@jax.jit
def _log_probs(padded_1TD, segments_1T, positions_1T):
    own = merged()
    hidden_1TD, _ = own.llama.run(padded_1TD, positions_1T, packed(segments_1T, Execution()), Execution())
    return jax.nn.log_softmax(own.llama.logits(hidden_1TD), axis=-1)


def log_probs_after(prompt_ids, latents_LD, padding: int) -> np.ndarray:
    """Of the words that follow a prompt and each of its latents, fed at once after some padding: `[L + 1, V]`."""
    embeds = np.concatenate([np.asarray(merged().llama.embedding[...])[prompt_ids], latents_LD])
    padded = np.concatenate([np.ones((padding, embeds.shape[1]), np.float32), embeds])[None]
    segments = np.concatenate([np.zeros(padding), np.ones(len(embeds))])[None].astype(np.int32)
    positions = np.maximum(np.arange(len(padded[0])) - padding, 0)[None]
    return np.asarray(_log_probs(padded, segments, positions))[0][padding + len(prompt_ids) - 1 :]
