"""The `pico` preset with what `adaptive` brings, larger than at first: some chains stop early, some never."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util
from pico_thoughts import VOCABULARY

from colar_jax.methods.adaptive import Adaptive
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import build

METHOD = Adaptive(num_latents=5, base_latents=1, projection_size=16)


@functools.cache
def model(vocabulary: int = VOCABULARY):
    """Graph and parameters."""
    llama = dataclasses.replace(PRESETS["pico"], vocab_size=vocabulary)
    graph, parameters = build(llama, LatentHeadConfig(24), 0, modules=METHOD.modules)
    rng = np.random.default_rng(3)

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


def with_stop_rows(rows) -> dict:
    """The parameters with other rows of the choice."""
    return model()[1] | {"stop_choice": {"rows": np.asarray(rows, np.float32)}}
