"""What a report's FLOPs assume of a method's thinking: whether it asks the language head, and mixes all embeddings."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from colar_jax.config import DecodeConfig, ModelConfig
from colar_jax.methods import METHODS
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import abstract
from colar_jax.runs.sweep.member import _cost_model
from colar_jax.runs.sweep.stage_cells import StageCells

VOCABULARY, SEPARATOR, ROWS = 101, 9, 3


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_products_with_the_vocabulary_are_where_a_method_says(name, greedy):
    method = METHODS[name]()
    thinking = method.thinking(DecodeConfig(), SEPARATOR, greedy=greedy)
    if not thinking.max_thoughts:
        return
    llama = dataclasses.replace(PRESETS["pico"], vocab_size=VOCABULARY)
    graph, parameters = abstract(llama, LatentHeadConfig(24), None, method.modules)
    hidden = jax.ShapeDtypeStruct((ROWS, llama.hidden_size), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), ROWS))

    def think(parameters, hidden_BD, keys_B):
        return thinking.think(nnx.merge(graph, parameters), hidden_BD, keys_B)

    program = jax.jit(think).lower(parameters, hidden, keys).as_text()
    products = [line for line in program.splitlines() if "dot_general" in line]
    assert any(f"-> tensor<{ROWS}x{VOCABULARY}x" in line for line in products) == thinking.reads_words
    from_all_words = [line for line in products if f"(tensor<{ROWS}x{VOCABULARY}x" in line]
    assert bool(from_all_words) == thinking.mixes_words


@pytest.mark.parametrize("name", ["ruplar", "colar_khot", "codi", "cot"])
def test_a_report_counts_what_thinking_says(name):
    method = METHODS[name]()
    llama = dataclasses.replace(PRESETS["pico"], vocab_size=VOCABULARY)
    graph, shapes = abstract(llama, LatentHeadConfig(24), None, method.modules)
    thinking = method.thinking(DecodeConfig(), SEPARATOR, greedy=True)
    run = types.SimpleNamespace(
        graph=graph,
        shapes=shapes,
        config=types.SimpleNamespace(model=ModelConfig()),
        method={"own": method}.get,
        thinking={"own": thinking}.get,
    )
    counted = _cost_model(StageCells("", run, "own", {}, {}))
    assert (counted.reads_words, counted.mixes_words) == (thinking.reads_words, thinking.mixes_words)
    assert counted.llama == llama
