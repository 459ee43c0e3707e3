"""Forward passes on folders that our loader read: recorded models, and a trained Llama that tells a story."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden.base_folders import LAYOUTS, ROW, base_folder, forward_of
from golden.published import largest_difference

from colar_jax.decoding.decoder import decode
from colar_jax.decoding.loops import DecodeLimits
from colar_jax.decoding.prefill import Feeder, Prefilled, read_questions
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.decoding.thinking import word_thinker
from colar_jax.model.execution import Execution
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.reasoner import build_on
from colar_jax.model.visibility import packed as packed_rows
from colar_jax.weights.hf_config import read_config
from colar_jax.weights.loading import load_llama

TOLERANCE = 1e-5
STORIES = Path(__file__).parents[3] / "shared" / "weights" / "stories260K"
MODELS = pytest.mark.parametrize("model", ["llama", "qwen2"])


def loaded(folder: Path):
    config = read_config(folder)
    return build_on(config, LatentHeadConfig(8), load_llama(folder, config), seed=0)


@functools.partial(jax.jit, static_argnums=0)
def run(graph, parameters, ids_BT, position_ids_BT, segment_ids_BT):
    """Final hidden states and logits."""
    llama = nnx.merge(graph, parameters).llama
    sees = packed_rows(segment_ids_BT, Execution())
    hidden_BTD, _ = llama.run(llama.embedding[...][ids_BT], position_ids_BT, sees, Execution())
    return hidden_BTD, llama.logits(hidden_BTD)


@MODELS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_hidden_states_and_logits(model, layout, tmp_path):
    graph, parameters = loaded(base_folder(model, layout, tmp_path))
    forward = forward_of(model)
    is_real_BT = forward["attention_mask"] == 1
    position_ids_BT = np.maximum(np.cumsum(is_real_BT, axis=1) - 1, 0)
    hidden, logits = run(graph, parameters, forward["input_ids"], position_ids_BT, is_real_BT.astype(np.int32))
    assert largest_difference(hidden[is_real_BT], forward["hidden_2"][is_real_BT]) < TOLERANCE
    assert largest_difference(logits[ROW][is_real_BT[ROW]], forward["logits_row_2"]) < TOLERANCE

    ids = forward["input_ids"][:1]
    far, _ = run(graph, parameters, ids, forward["stretched_position_ids"], np.ones_like(ids))
    assert largest_difference(far, forward["stretched_last_hidden"]) < 1e-4  # angles are float32


@MODELS
def test_one_token_at_a_time_on_the_cache(model, tmp_path):
    graph, parameters = loaded(base_folder(model, "classic", tmp_path))
    forward = forward_of(model)
    ids = forward["input_ids"][ROW][forward["attention_mask"][ROW] == 1]
    packed = pack_prompts([ids[:-4]], shape_for([np.array([len(ids) - 4])]))

    @jax.jit
    def last_logits(parameters):
        model, compute = nnx.merge(graph, parameters), Execution()
        llama, embedding_VD = model.llama, model.llama.embedding[...]
        hidden_CD, prefix = read_questions(llama, embedding_VD[packed.token_ids_RS], packed, compute)
        feeder = Feeder.of(model, Prefilled(prefix, hidden_CD, packed.lengths_C), compute)
        suffix, logits = feeder.empty_suffix(4), []
        for token_id in ids[-4:]:
            fed = embedding_VD[token_id][None], suffix.num_written, jnp.ones(1, bool), suffix
            hidden_BD, suffix = feeder.feed(*fed)
            logits.append(llama.logits(hidden_BD)[0])
        return jnp.stack(logits)

    assert largest_difference(last_logits(parameters), forward["cached_last4_logits_row_2"]) < TOLERANCE


@pytest.mark.slow
@pytest.mark.skipif(not STORIES.is_dir(), reason="the trained weights are not part of the project")
def test_a_trained_llama_tells_its_story():
    """120 greedy tokens through the cached decoder, token for token, and the logits of the whole story."""
    with np.load(STORIES / "expected.npz") as arrays:
        expected = dict(arrays)
    story = expected["greedy_ids"]
    graph, parameters = loaded(STORIES)
    never = 511  # a separator that ends no thought: it is not in the story
    assert never not in story
    think = word_thinker(never, greedy=True, temperature=1.0, top_p=1.0)
    limits = DecodeLimits(
        max_thoughts=len(story) - 1,
        min_thoughts=0,
        max_answer_tokens=1,
        greedy=True,
        answer_temperature=1.0,
        answer_top_p=1.0,
        separator_id=never,
        eos_id=2,
    )
    prompts = pack_prompts([story[:1]], shape_for([np.array([1])]))
    keys_B = jax.random.split(jax.random.key(0), 1)

    @jax.jit
    def tell(parameters):
        return decode(nnx.merge(graph, parameters), prompts, keys_B, think, limits, Execution())

    told = tell(parameters).thoughts[0]
    np.testing.assert_array_equal(told, story[1:])
    words = json.loads((STORIES / "expected.json").read_text())
    assert "".join(words["pieces"][token_id] for token_id in told) == words["text"]

    positions = np.arange(len(story))[None]
    _, logits = run(graph, parameters, story[None], positions, np.ones_like(positions))
    assert largest_difference(logits[0], expected["logits"]) < TOLERANCE


@MODELS
def test_embed_std_is_the_published_tables(model, tmp_path):
    """The published code's table has 0.018 for the Llama and 0.03 for the Qwen2: two digits of what we measure."""
    _, parameters = loaded(base_folder(model, "classic", tmp_path))
    measured = float(parameters["latent_head"]["embed_std"])
    assert round(measured, 3 if model == "llama" else 2) == {"llama": 0.018, "qwen2": 0.03}[model]
    np.testing.assert_allclose(measured, np.asarray(parameters["llama"]["embedding"], np.float64).std(), rtol=1e-6)
