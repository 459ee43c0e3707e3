"""A few problems learned by heart are decoded as they were taught: mixtures of tokens, their number, and the answer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from pico_thoughts import COMPUTE, EOS, SEPARATOR, VOCABULARY, problems

from colar_jax.config import DecodeConfig
from colar_jax.data.grouping import num_groups
from colar_jax.data.prompts import AUTO_SPEED
from colar_jax.decoding.decoder import decode
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.methods.adaptive import Adaptive
from colar_jax.methods.coconut import Coconut
from colar_jax.methods.codi import Codi
from colar_jax.methods.kava import Kava
from colar_jax.methods.latent_sft import LatentSft
from colar_jax.methods.method import decode_limits
from colar_jax.methods.pccot import Pccot
from colar_jax.methods.ruplar import ColarKhot, Ruplar
from colar_jax.methods.sim_cot import SimCodi
from colar_jax.model.execution import Execution
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import build

ENCODED = problems(8)
ENCODED = dataclasses.replace(ENCODED, tails=dict.fromkeys(("auto", "1", "2"), ENCODED.tails["auto"]))
METHODS = {
    "ruplar": Ruplar(),
    "colar_khot": ColarKhot(speeds="2"),
    "coconut": Coconut(num_stages=2, latents_per_stage=1, epochs_per_stage=20, rescale=True, uniform_probability=0.2),
    "codi": Codi(num_latents=2, projection_size=32),
    "pccot": Pccot(num_latents=3, num_sweeps=2, projection_size=32),
    "kava": Kava(num_latents=3, num_sweeps=2, projection_size=32),
    "sim_codi": SimCodi(num_latents=2, projection_size=32),
    "latent_sft": LatentSft(top_k=4),
    "adaptive": Adaptive(num_latents=4, base_latents=0, projection_size=32),
}
DECODE = DecodeConfig(max_latents=12, max_answer_tokens=6)


def learned(method, updates: int):
    """Parameters after so many updates on all problems."""
    llama = dataclasses.replace(PRESETS["pico"], vocab_size=VOCABULARY)
    graph, parameters = build(llama, LatentHeadConfig(24), 0, modules=method.modules)
    loader = method.make_loader(ENCODED, seed=0, rows=2, row_positions=200)
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, updates))

    @jax.jit
    def update(parameters, state, batch, key):
        def loss(parameters):
            keys = jax.random.split(key, len(batch.row_ids_B))
            return method.objective(nnx.merge(graph, parameters), batch, keys, method.count(batch), COMPUTE)[0]

        changes, state = optimizer.update(jax.grad(loss)(parameters), state)
        return optax.apply_updates(parameters, changes), state

    state = optimizer.init(parameters)
    for step in range(updates):
        batch = jax.tree.map(jnp.asarray, loader.batch(step))
        parameters, state = update(parameters, state, batch, jax.random.key(step))
    return graph, parameters


@pytest.mark.slow
@pytest.mark.parametrize("name", list(METHODS))
def test_what_was_learned_by_heart_is_decoded(name):
    method = METHODS[name]
    graph, parameters = learned(method, updates=250)
    thinking = method.thinking(DECODE, SEPARATOR, greedy=True)
    limits = decode_limits(thinking, DECODE, separator_id=SEPARATOR, eos_id=EOS, greedy=True)
    prompts = [np.append(ENCODED.prompt(i, AUTO_SPEED), np.int32(SEPARATOR)) for i in range(len(ENCODED))]
    rows = pack_prompts(prompts, shape_for([np.array([len(prompt) for prompt in prompts])]))
    keys = jax.random.split(jax.random.key(0), len(ENCODED))
    model = nnx.merge(graph, parameters)
    outcome = jax.device_get(jax.jit(lambda: decode(model, rows, keys, thinking.think, limits, Execution()))())
    right = [
        ids[:count].tolist() == answer.tolist()
        for ids, count, answer in zip(outcome.answer_ids_BA, outcome.num_answer_tokens_B, ENCODED.answers, strict=True)
    ]
    assert sum(right) >= len(ENCODED) - 1
    if name in ("ruplar", "colar_khot", "latent_sft", "adaptive"):
        by_step = name in ("ruplar", "adaptive")
        expected = [len(starts) for starts in ENCODED.step_starts] if by_step else num_groups(ENCODED.step_lengths, 2)
        assert np.mean(outcome.num_thoughts_B == np.asarray(expected)) > 0.8
