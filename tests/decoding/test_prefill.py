"""What questions leave behind, packed into rows and read at their ends alone, is what each by itself leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import fast
from flax import nnx

from colar_jax.decoding.prefill import embed_questions, read_questions
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.model.execution import Execution
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.model.reasoner import build
from colar_jax.model.visibility import packed
from colar_jax.weights.families import FAMILIES

SIZES = dict(vocab_size=60, hidden_size=20, num_heads=4, num_kv_heads=2, head_dim=8, intermediate_size=36)
MODELS = {
    "one layer": {"num_layers": 1},
    "llama": {"num_layers": 3},
    "layers that differ": {"num_layers": 3, "layers": ("full", "no_rope", "full"), "family": "smollm3"},
    "norms after": {"num_layers": 3, "family": "olmo2"},
}


@pytest.mark.parametrize("held", fast(["float32", "bfloat16"], "float32"))
@pytest.mark.parametrize("model", fast(list(MODELS), "layers that differ"))
def test_questions_in_rows_leave_what_each_leaves_by_itself(model, held):
    settings = {"family": "llama"} | MODELS[model]
    config = LlamaConfig(**SIZES, **FAMILIES[settings["family"]].features, **settings)
    graph, parameters = build(config, LatentHeadConfig(8), 0)
    rng = np.random.default_rng(1)
    parameters = jax.tree.map(lambda leaf: (leaf + 0.3 * rng.normal(size=leaf.shape)).astype(held), parameters)
    questions = [rng.integers(2, 60, length) for length in (70, 50, 9, 1)]
    prompts = pack_prompts(questions, shape_for([np.array([len(question) for question in questions])]))
    assert len(prompts.token_ids_RS) < len(questions)

    @jax.jit
    def in_rows(parameters):
        model = nnx.merge(graph, parameters)
        embeds_RSD = embed_questions(model, prompts, jnp.dtype("float32"))
        return read_questions(model.llama, embeds_RSD, prompts, Execution())

    @jax.jit
    def by_itself(parameters, ids):
        llama, compute = nnx.merge(graph, parameters).llama, Execution(scan_layers=False)
        sees = packed(jnp.ones_like(ids), compute, keeps=True)
        return llama.run(llama.embed(ids, "float32"), jnp.arange(ids.shape[1])[None], sees, compute)

    hidden_CD, prefix = in_rows(parameters)
    for place, question in enumerate(questions):
        alone, layers = by_itself(parameters, question[None])
        np.testing.assert_allclose(hidden_CD[place], alone[0, -1], rtol=1e-4, atol=1e-4)
        for kept, own in zip(jax.tree.leaves(prefix.layers), jax.tree.leaves(layers), strict=True):
            np.testing.assert_allclose(kept[place, :, : len(question)], own[0], rtol=1e-4, atol=1e-4)
