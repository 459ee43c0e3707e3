"""A pico model that is told its speed as a number, and problems for it."""

import dataclasses
import functools

import jax
import numpy as np
from pico_model import EMBED_STD, SEPARATOR, VOCABULARY

from colar_jax.data.encoding import EncodedProblems
from colar_jax.methods.colar import Colar
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import build
from colar_jax.settings import DecodeConfig

LLAMA = dataclasses.replace(PRESETS["pico"], vocab_size=VOCABULARY)
DECODE = DecodeConfig(max_latents=3, min_latents=3, max_answer_tokens=3)


@functools.cache
def model(conditioning="both", *, is_trained=True, timeline="latents"):
    """Its graph and parameters; not `is_trained`: the embedding of the speed as it is at first."""
    modules = Colar(conditioning=conditioning, timeline=timeline).modules
    graph, parameters = build(LLAMA, LatentHeadConfig(24), 0, modules=modules)
    rng = np.random.default_rng(0)

    def larger(path, leaf):
        if path[-1].key == "embed_std":
            return EMBED_STD
        is_speed = path[0].key == "speed"
        return leaf + (is_trained or not is_speed) * 0.3 * rng.normal(size=leaf.shape).astype(np.float32)

    return graph, jax.tree_util.tree_map_with_path(larger, parameters)


@functools.cache
def problems() -> EncodedProblems:
    """Four, of nine step tokens each."""
    rng = np.random.default_rng(1)
    parts = [tuple(rng.integers(10, VOCABULARY, n).astype(np.int32) for n in (5 + i, 9, 3)) for i in range(4)]
    prompts, steps, answers = zip(*parts, strict=True)
    tails = {text: np.array([70 + i], np.int32) for i, text in enumerate(("", "2.5", "auto"))}
    return EncodedProblems((None,) * 4, prompts, tails, steps, answers, separator_id=SEPARATOR, eos_id=1)
