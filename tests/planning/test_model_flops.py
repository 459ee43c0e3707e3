"""What a step needs by its definition, against the closed forms of the literature."""

import dataclasses

import pytest

from colar_jax.config import LoraSettings, ModelConfig
from colar_jax.model.presets import PRESETS
from colar_jax.planning.model_flops import StepShape, layer_weights, step_flops

LLAMA = PRESETS["llama-3.2-1b"]
SHAPE = StepShape(rows=3, positions=512, supervised=512)


def attention(llama) -> float:
    """Scores and weighted sum of every query with every key, forward and twice backward."""
    return 12 * SHAPE.rows * SHAPE.positions**2 * llama.num_layers * llama.num_heads * llama.head_dim


@pytest.mark.parametrize(("preset", "parameters"), [("llama-3.2-1b", 1.2358e9), ("llama-3.1-8b", 8.0303e9)])
def test_full_training_is_six_times_parameters_times_tokens(preset, parameters):
    llama = PRESETS[preset]
    tokens = SHAPE.rows * SHAPE.positions
    flops = step_flops(llama, ModelConfig(), SHAPE, has_latents=False) - attention(llama)
    embedding = 0 if llama.tied_head else llama.vocab_size * llama.hidden_size  # looked up, not multiplied
    assert flops == pytest.approx(6 * (parameters - embedding) * tokens, rel=1e-4)  # but for the norms


def test_frozen_weights_have_no_gradients():
    tokens = SHAPE.rows * SHAPE.positions
    model = ModelConfig(lora=LoraSettings(rank=128))
    flops = step_flops(LLAMA, model, SHAPE, has_latents=False) - attention(LLAMA)
    frozen = LLAMA.num_layers * sum(layer_weights(LLAMA).values()) + LLAMA.vocab_size * LLAMA.hidden_size
    adapters = LLAMA.num_layers * 128 * (2048 + 2048 + 2048 + 512)  # on query and value
    assert flops == 4 * frozen * tokens + 6 * adapters * tokens


def test_questions_need_no_logits():
    fewer = dataclasses.replace(SHAPE, supervised=100)
    model = ModelConfig()
    saved = step_flops(LLAMA, model, SHAPE, has_latents=True) - step_flops(LLAMA, model, fewer, has_latents=True)
    latent_head = 4 * 2048 * 2048
    assert saved == 6 * 3 * 412 * (128256 * 2048 + latent_head)
