"""The `pico` preset, larger than at first, and encoded problems at several speeds: for latents that are mixtures."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util
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
    rng = np.random.default_rng(0)

    def larger(path, leaf):
        shift = 1.0 if path[-1] in ("scale", "norm_scale", "embed_std") else 0.0
        fan_in = leaf.shape[-2] if path[-1] == "kernel" else llama.hidden_size
        return (shift + rng.normal(size=leaf.shape) / np.sqrt(fan_in)).astype(np.float32)

    flat = traverse_util.flatten_dict(parameters)
    return graph, traverse_util.unflatten_dict({path: larger(path, leaf) for path, leaf in sorted(flat.items())})


def merged(parameters=None):
    """The model itself."""
    graph, own = model()
    return nnx.merge(graph, jax.tree.map(jnp.asarray, own if parameters is None else parameters))
