"""The `pico` preset with what `adaptive` brings, larger than at first: some chains stop early, some never."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from enlarged import enlarged
from flax import nnx
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
    return graph, enlarged(parameters, llama.hidden_size, seed=3)


def merged(parameters=None):
    """The model itself."""
    graph, own = model()
    return nnx.merge(graph, jax.tree.map(jnp.asarray, own if parameters is None else parameters))


def with_stop_rows(rows) -> dict:
    """The parameters with other rows of the choice."""
    return model()[1] | {"stop_choice": {"rows": np.asarray(rows, np.float32)}}
