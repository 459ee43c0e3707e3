"""What a step needs by its definition, against the closed forms of the literature."""

import pytest

from colar_jax.config import LoraSettings, ModelConfig
from colar_jax.model.presets import PRESETS
from colar_jax.planning.model_flops import layer_weights, packed_rows, step_flops, tree_rows

LLAMA = PRESETS["llama-3.2-1b"]
SHAPE = packed_rows(3, 512, 512, has_latents=False)


def attention(llama) -> float:
    """Scores and weighted sum of every query with every key, forward and twice backward."""
    return 12 * SHAPE.rows * SHAPE.positions**2 * llama.num_layers * llama.num_heads * llama.head_dim


@pytest.mark.parametrize(("preset", "parameters"), [("llama-3.2-1b", 1.2358e9), ("llama-3.1-8b", 8.0303e9)])
def test_full_training_is_six_times_parameters_times_tokens(preset, parameters):
    llama = PRESETS[preset]
    tokens = SHAPE.rows * SHAPE.positions
    flops = step_flops(llama, ModelConfig(), SHAPE) - attention(llama)
    embedding = 0 if llama.tied_head else llama.vocab_size * llama.hidden_size  # looked up, not multiplied
    assert flops == pytest.approx(6 * (parameters - embedding) * tokens, rel=1e-4)  # but for the norms


def test_frozen_weights_have_no_gradients():
    tokens = SHAPE.rows * SHAPE.positions
    model = ModelConfig(lora=LoraSettings(rank=128))
    flops = step_flops(LLAMA, model, SHAPE) - attention(LLAMA)
    frozen = LLAMA.num_layers * sum(layer_weights(LLAMA).values()) + LLAMA.vocab_size * LLAMA.hidden_size
    adapters = LLAMA.num_layers * 128 * (2048 + 2048 + 2048 + 512)  # on query and value
    assert flops == 4 * frozen * tokens + 6 * adapters * tokens


def test_questions_need_no_logits():
    model = ModelConfig()
    all_read, fewer = (packed_rows(3, 512, supervised, has_latents=True) for supervised in (512, 100))
    saved = step_flops(LLAMA, model, all_read) - step_flops(LLAMA, model, fewer)
    latent_head = 4 * 2048 * 2048
    assert saved == 6 * 3 * 412 * (128256 * 2048 + latent_head)


def test_a_branch_of_a_tree_reads_the_prompt_and_itself():
    # Two prompt positions; two branches of one latent and one answer token each.
    shape = tree_rows(1, 2, 2, 1, 1)
    sees = [2] * 2 + [4] * 4  # keys that each query is computed against
    assert (shape.positions, shape.scores) == (len(sees), sum(sees))
    assert shape.words == 2 * (2 + 1)  # stop or go on, before the latent and after it; the answer token
    assert shape.latents == 2
    alone = tree_rows(1, 2, 1, 1, 1)
    assert shape.scores - alone.scores == 8
