import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colar_jax.evaluation.cost import CostModel, cost_of
from colar_jax.model.execution import Execution
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.model.reasoner import build
from colar_jax.model.visibility import packed

SIZES = dict(vocab_size=50, hidden_size=16, num_heads=4, num_kv_heads=2, head_dim=4, intermediate_size=24)
ONE_LAYER = LlamaConfig(num_layers=1, **SIZES)


def flops_of_xla(positions: int) -> float:
    """What XLA counts for one layer over a row; attention of a packed row computes all pairs, not the causal half."""
    graph, parameters = build(ONE_LAYER, LatentHeadConfig(8), seed=0)

    def forward(parameters, embeds_BTD, ids_BT):
        llama = nnx.merge(graph, parameters).llama
        compute = Execution(scan_layers=False)
        return llama.logits(llama.run(embeds_BTD, ids_BT, packed(jnp.ones_like(ids_BT), compute), compute)[0])

    arguments = parameters, jnp.ones((1, positions, 16)), jnp.arange(positions)[None]
    return jax.jit(forward).lower(*arguments).compile().cost_analysis()["flops"]


def test_flops_of_matrix_products_are_most_of_those_that_xla_counts():
    positions = 64
    model = CostModel(ONE_LAYER, latent_head_size=0, bytes_per_value=4)
    ours = model.flops(np.array([positions]), np.array([0]), np.array([0]))[0]
    causal = 4 * 4 * 4 * positions * (positions - 1) / 2  # the pairs that a decode never computes
    heads = 2 * 50 * 16 * (positions - 1)  # XLA was asked for logits at every position
    assert 0.85 < (ours + causal + heads) / flops_of_xla(positions) < 1.0


def test_costs_in_closed_form():
    model = CostModel(LlamaConfig(num_layers=3, **SIZES), latent_head_size=8, bytes_per_value=2)
    prompt, thoughts, answer = (np.array([n]) for n in (10, 4, 3))
    weights = 3 * (16 * 16 * 2 + 16 * 8 * 2 + 3 * 16 * 24)
    seen = 17 * 18 / 2
    heads = 2 * 50 * 16 * 8 + 2 * (16 * 8 + 8 * 8 + 2 * 8 * 16) * 5
    assert model.flops(prompt, thoughts, answer)[0] == 2 * weights * 17 + 4 * 3 * 16 * seen + heads
    assert model.kv_bytes(prompt, thoughts, answer)[0] == 2 * 3 * 2 * 4 * 2 * 17


def test_a_question_that_is_read_twice_costs_its_layers_twice():
    sizes = dict(llama=ONE_LAYER, latent_head_size=8, bytes_per_value=2)
    prompt, thoughts, answer = (np.array([n]) for n in (10, 4, 3))
    once, twice = CostModel(**sizes), CostModel(**sizes, question_reads=2)
    of_question = 2 * (16 * 16 * 2 + 16 * 8 * 2 + 3 * 16 * 24) * 10 + 4 * 16 * 10 * 11 / 2
    assert twice.flops(prompt, thoughts, answer) - once.flops(prompt, thoughts, answer) == of_question
    assert twice.passes(thoughts, answer) - once.passes(thoughts, answer) == 1
    assert twice.kv_bytes(prompt, thoughts, answer) == once.kv_bytes(prompt, thoughts, answer)


def test_a_language_head_that_thinking_does_not_read_costs_nothing():
    sizes = dict(llama=ONE_LAYER, latent_head_size=0, bytes_per_value=2)
    prompt, thoughts, answer = (np.array([n]) for n in (10, 4, 3))
    reads, silent = CostModel(**sizes), CostModel(**sizes, reads_words=False)
    assert reads.flops(prompt, thoughts, answer) - silent.flops(prompt, thoughts, answer) == 2 * 50 * 16 * (1 + 4)


@pytest.mark.parametrize("reads", [True, False])
def test_a_mixture_of_all_words_reads_their_embeddings_at_each_decision(reads):
    sizes = dict(llama=ONE_LAYER, latent_head_size=0, bytes_per_value=2, reads_words=reads)
    prompt, thoughts, answer = (np.array([n]) for n in (10, 4, 3))
    plain, mixes = CostModel(**sizes), CostModel(**sizes, mixes_words=True)
    assert mixes.flops(prompt, thoughts, answer) - plain.flops(prompt, thoughts, answer) == 2 * 50 * 16 * (1 + 4)
    assert mixes.flops(prompt, thoughts, answer, 2) - plain.flops(prompt, thoughts, answer, 2) == 2 * 50 * 16 * 7


def test_a_projection_is_read_once_a_thought_and_round():
    sizes = dict(llama=ONE_LAYER, latent_head_size=0, bytes_per_value=2, reads_words=False)
    numbers = tuple(np.array([n]) for n in (10, 4, 3))
    for sweeps, rounds in ((None, 1), (0, 0), (3, 3)):
        bare, projected = (CostModel(**sizes, sweeps=sweeps, projection_size=size).flops(*numbers) for size in (0, 5))
        assert projected - bare == 2 * 2 * 16 * 5 * 4 * rounds


def test_what_was_thought_in_vain_is_computed_and_not_kept():
    """The answer does not see it: it costs what a chain that goes on for so long does, before any answer."""
    model = CostModel(ONE_LAYER, latent_head_size=0, bytes_per_value=4)
    prompt, thoughts, answer, discarded = (np.array([n]) for n in (10, 4, 3, 6))
    kept = model.flops(prompt, thoughts, answer)
    in_vain = model.flops(prompt, thoughts, answer, discarded) - kept
    nothing = np.zeros(1, int)
    assert in_vain == model.flops(prompt, thoughts + discarded, nothing) - model.flops(prompt, thoughts, nothing)


def test_means_are_over_examples():
    def decode(thoughts, seconds, **measured):
        ones_N = np.ones(len(thoughts), int)
        counts = dict(prompt_tokens_N=5 * ones_N, lengths_N=np.array(thoughts), answer_tokens_N=2 * ones_N)
        return types.SimpleNamespace(**counts, seconds=seconds, measured=measured)

    model = CostModel(ONE_LAYER, latent_head_size=0, bytes_per_value=4)
    cost = cost_of(model, [decode([1, 2, 6], 0.9), decode([3], 0.3)])
    assert cost.forward_passes == 1 + 3 + 2
    assert cost.seconds_per_question == pytest.approx(0.3)
    assert cost.kv_bytes == pytest.approx(2 * 1 * 2 * 4 * 4 * (5 + 3 + 2))
    in_vain = cost_of(model, [decode([1, 2, 6], 0.9), decode([3], 0.3, discarded_thoughts=np.array([8]))])
    assert in_vain.forward_passes == cost.forward_passes + 2, "what is discarded was computed"
    assert in_vain.flops > cost.flops and in_vain.kv_bytes == cost.kv_bytes, "and is not there when the answer ends"
