"""The `pico` preset, larger than at first, and encoded problems at several speeds: for latents that are mixtures."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from enlarged import enlarged
from flax import nnx
from pico_thoughts import VOCABULARY, problems

from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import build

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
