"""A base that is held in bfloat16 and computed with in float32: what it computes, and what its decode holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colar_jax.decoding.decoder import decode
from colar_jax.decoding.loops import DecodeLimits
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.decoding.thinking import greedy_latent_thinker
from colar_jax.model.execution import Execution
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.model.lora import LoraConfig, cast_base
from colar_jax.model.reasoner import build
from colar_jax.model.visibility import packed

SIZES = LlamaConfig(64, 128, 6, 4, 4, 32, 384)
LIMITS = DecodeLimits(3, 3, 3, True, 1.0, 1.0, separator_id=3, eos_id=4)
# Times the wide layers. With XLA's fusion emitters, which tests turn off where jax still can (conftest.py), a CPU
# copies the bits of a narrow stack that a loop reads, half as large (`model.llama.as_bits`).
MOST_HELD = 1.5 if jax.__version_info__ < (0, 11) else 2.0
PROMPTS = [np.arange(5, 15, dtype=np.int32)] * 2


def narrow_model():
    graph, parameters = build(SIZES, LatentHeadConfig(8), 0, LoraConfig(2, 4.0, ("query",)))
    return graph, cast_base(parameters, jnp.bfloat16)


def lower_decode(graph, parameters):
    prompts = pack_prompts(PROMPTS, shape_for([np.array([len(prompt) for prompt in PROMPTS])]))
    think = greedy_latent_thinker(3)

    def run(parameters, keys_B):
        return decode(nnx.merge(graph, parameters), prompts, keys_B, think, LIMITS, Execution())

    keys_B = jax.random.split(jax.random.key(0), len(PROMPTS))
    return jax.jit(run).lower(parameters, keys_B).compile(), keys_B


@pytest.mark.slow
def test_the_decode_of_a_narrow_base_is_that_of_its_wide_copy_and_holds_one():
    graph, narrow = narrow_model()
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), narrow)
    of_narrow, keys_B = lower_decode(graph, narrow)
    of_wide, _ = lower_decode(graph, wide)
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.device_get(of_narrow(narrow, keys_B)),
        jax.device_get(of_wide(wide, keys_B)),
    )
    # Both hold the layers one by one, besides their arguments, and the rest is small here.
    layers = sum(leaf.nbytes for leaf in jax.tree.leaves(wide["llama"]["blocks"]))
    temporary = of_narrow.memory_analysis().temp_size_in_bytes
    assert layers < temporary < MOST_HELD * layers, (layers, temporary)


@pytest.mark.slow
def test_training_adapters_on_a_narrow_base_holds_one_wide_copy():
    """That of the backward pass, which reads all kernels; there was one more before the scan over the layers."""
    graph, narrow = narrow_model()
    compute, ids = Execution(), np.arange(16)[None]

    def loss(adapters, parameters):
        blocks = parameters["llama"]["blocks"]
        parameters = parameters | {
            "llama": parameters["llama"] | {"blocks": blocks | {"query": blocks["query"] | {"adapter": adapters}}}
        }
        llama = nnx.merge(graph, parameters).llama
        sees = packed(np.ones((1, 16), np.int32), compute)
        hidden, _ = llama.run(llama.embed(ids, "float32"), np.arange(16)[None], sees, compute)
        return jnp.sum(jnp.square(hidden))

    def gradients_of(parameters):
        adapters = parameters["llama"]["blocks"]["query"]["adapter"]
        compiled = jax.jit(jax.grad(loss)).lower(adapters, parameters).compile()
        return jax.device_get(compiled(adapters, parameters)), compiled.memory_analysis().temp_size_in_bytes

    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), narrow)
    (of_narrow, temporary), (of_wide, _) = gradients_of(narrow), gradients_of(wide)
    jax.tree.map(np.testing.assert_array_equal, of_narrow, of_wide)
    assert temporary < MOST_HELD * sum(leaf.nbytes for leaf in jax.tree.leaves(wide["llama"]["blocks"]))
