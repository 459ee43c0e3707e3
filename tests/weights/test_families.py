"""Each family against transformers, where rows are padded, shifted, cached, or fed as embeddings; and as a whole."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import fast
from flax import nnx
from golden.published import largest_difference

import colar_jax
from colar_jax.errors import UserError
from colar_jax.model.cache import Prefix, Suffix
from colar_jax.model.execution import Execution
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.llama import Llama
from colar_jax.model.llama_config import NO_ROPE, SLIDING, LlamaConfig
from colar_jax.model.lora import LoraConfig, merge_adapters
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import build, build_on, embed_positions
from colar_jax.model.rope_scaling import DynamicScaling
from colar_jax.model.visibility import cascade, packed, tree, tree_positions
from colar_jax.weights.families import FAMILIES
from colar_jax.weights.hf_config import from_hf, to_hf
from colar_jax.weights.hf_folder import save_llama
from colar_jax.weights.loading import load_llama, stored_config

TOLERANCE = 1e-4  # of the largest number
WINDOW = 24
SIZES = dict(vocab_size=60, hidden_size=20, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=8, intermediate_size=36)
# Take means of rows, and scale them.
NOT_FED = {"methods/thinking/spelling.py", "methods/thinking/superposition.py", "decoding/khot.py"}
MIXED = (SLIDING, "full", SLIDING, "full")
OWN = {  # of one model, besides what all of its family have
    "qwen2": {"layers": ("full", SLIDING, SLIDING, SLIDING), "window": WINDOW},
    "smollm3": {"layers": ("full", NO_ROPE, "full", NO_ROPE)},
    "mistral": {"layers": (SLIDING,) * 4, "window": WINDOW},
    "ministral": {"layers": MIXED, "window": WINDOW},
    "gemma3_text": {"layers": MIXED, "window": WINDOW, "sliding_rope_theta": 100.0, "query_scalar": 5},
}


def tiny(family: str, **besides) -> LlamaConfig:
    """A model of a family with all its features, small enough to compile in a second."""
    return LlamaConfig(**SIZES, family=family, **FAMILIES[family].features, **OWN.get(family, {}), **besides)


def random_parameters(config: LlamaConfig, lora: LoraConfig | None = None):
    """Graph and parameters, none of them at the special value it begins with."""
    graph, parameters = build(config, LatentHeadConfig(8), 0, lora)
    rng = np.random.default_rng(1)
    return graph, jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32), parameters)


def run(graph, parameters, embeds, positions, segments=None, compute=None):
    compute = compute or Execution()

    @jax.jit
    def hidden_and_logits(parameters):
        llama = nnx.merge(graph, parameters).llama
        fed = llama.embed(embeds, "float32") if embeds.ndim == 2 else embeds
        sees = packed(np.ones(positions.shape, np.int32) if segments is None else segments, compute)
        hidden, _ = llama.run(fed, positions, sees, compute)
        return hidden, llama.logits(hidden)

    return hidden_and_logits(parameters)


def from_transformers(parameters, config, folder):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    save_llama(parameters["llama"], config, folder)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return loaded.eval()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_offsets_cache_and_embeddings_as_transformers(family, tmp_path):
    torch = pytest.importorskip("torch")
    config = tiny(family)
    graph, parameters = random_parameters(config)
    theirs = from_transformers(parameters, config, tmp_path / "folder")
    ids = np.random.default_rng(2).integers(0, config.vocab_size, (2, 14))
    padding = np.array([0, 5])
    is_real = np.arange(14)[None] >= padding[:, None]
    positions = np.maximum(np.arange(14)[None] - padding[:, None], 0) + 3  # an offset of 3
    mask = torch.from_numpy(is_real.astype(np.int64))
    with torch.no_grad():
        arguments = dict(attention_mask=mask, position_ids=torch.from_numpy(positions))
        of_ids = theirs(torch.from_numpy(ids), **arguments, output_hidden_states=True)
        embeds = theirs.get_input_embeddings()(torch.from_numpy(ids))
        of_embeds = theirs(inputs_embeds=embeds, **arguments).logits.numpy()
    hidden, logits = run(graph, parameters, ids, positions, is_real.astype(np.int32))
    assert largest_difference(logits[is_real], of_ids.logits.numpy()[is_real]) < TOLERANCE
    assert largest_difference(hidden[is_real], of_ids.hidden_states[-1].numpy()[is_real]) < TOLERANCE
    np.testing.assert_array_equal(of_embeds[is_real], of_ids.logits.numpy()[is_real])
    # Embeddings in as they come out of transformers' own layer: a Gemma's are scaled there, and not once more.
    _, again = run(graph, parameters, jnp.asarray(embeds.numpy()), positions, is_real.astype(np.int32))
    assert largest_difference(again[is_real], of_ids.logits.numpy()[is_real]) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("scan_layers", fast([True, False], False))
@pytest.mark.parametrize("family", fast(list(FAMILIES), "gemma3_text"))
def test_a_cache_and_tree_rows_compute_what_whole_rows_do(family, scan_layers):
    """Prefix, then steps; and a trunk with two branches: each path has layers that differ, scanned and unrolled."""
    config, compute = tiny(family), Execution(scan_layers=scan_layers)
    graph, parameters = random_parameters(config)
    ids = np.random.default_rng(3).integers(0, config.vocab_size, (1, 12))
    positions = np.arange(12)[None]
    expected, _ = run(graph, parameters, ids, positions, compute=compute)

    @jax.jit
    def in_steps(parameters):
        llama: Llama = nnx.merge(graph, parameters).llama
        sees = packed(np.ones((1, 8), np.int32), compute, keeps=True)
        first, layers = llama.run(llama.embed(ids[:, :8], "float32"), positions[:, :8], sees, compute.for_prefill())
        prefix = Prefix.of_rows(layers, np.arange(8)[None], np.array([8]))
        suffix, parts = Suffix.empty(prefix, 1, 4), [first]
        unstacked = llama.unstacked_blocks(compute)
        for step in range(8, 12):
            sees, is_real = cascade(prefix, suffix, np.ones(1, bool))
            fed = llama.embed(ids[:, step : step + 1], "float32")
            hidden, written = llama.run(fed, positions[:, step : step + 1], sees, compute.for_steps(), layers=unstacked)
            suffix = Suffix(written, is_real, suffix.num_written + 1)
            parts.append(hidden)
        return jnp.concatenate(parts, axis=1)

    @jax.jit
    def in_a_tree(parameters):
        llama = nnx.merge(graph, parameters).llama
        shape = np.array([8]), 8, 2, 4
        row = np.concatenate([ids, ids[:, 8:]], axis=1)
        hidden, _ = llama.run(llama.embed(row, "float32"), tree_positions(*shape), tree(*shape), compute)
        return hidden

    assert largest_difference(in_steps(parameters), expected) < 1e-5
    hidden = in_a_tree(parameters)
    assert largest_difference(hidden[:, :12], expected) < 1e-5
    assert largest_difference(hidden[:, 12:], expected[:, 8:]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("family", fast(list(FAMILIES), "gemma3_text"))
def test_scanned_layers_compute_what_unrolled_ones_do_gradients_included(family):
    config = tiny(family)
    graph, parameters = random_parameters(config)
    ids, positions = np.arange(10)[None], np.arange(10)[None]

    def gradients(scan_layers: bool, remat: str):
        compute = Execution(scan_layers=scan_layers, remat=remat)

        @jax.jit
        def loss(parameters):
            llama = nnx.merge(graph, parameters).llama
            hidden, _ = llama.run(
                llama.embed(ids, "float32"), positions, packed(np.ones((1, 10), np.int32), compute), compute
            )
            return jnp.sum(jnp.square(llama.logits(hidden)))

        return jax.grad(loss)(parameters)

    expected = gradients(False, "none")["llama"]
    differences = jax.tree.map(largest_difference, gradients(True, "full")["llama"], expected)
    assert max(jax.tree.leaves(differences)) < 1e-4, differences
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(expected))  # nothing is declared and not computed


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", fast(["float32", "bfloat16"], "bfloat16"))
def test_there_and_back_is_equal_bit_for_bit(family, dtype, tmp_path):
    config = tiny(family)
    parameters = jax.tree.map(lambda leaf: leaf.astype(dtype), random_parameters(config)[1]["llama"])
    save_llama(parameters, config, tmp_path / "one", dtype=dtype)
    assert stored_config(tmp_path / "one") == config
    loaded = load_llama(tmp_path / "one", config)
    save_llama(loaded, config, tmp_path / "two", dtype=dtype)
    again = load_llama(tmp_path / "two", stored_config(tmp_path / "two"))
    jax.tree.map(np.testing.assert_array_equal, loaded, jax.tree.map(lambda leaf: leaf.astype("float32"), parameters))
    jax.tree.map(np.testing.assert_array_equal, again, loaded)


@pytest.mark.parametrize("family", fast(list(FAMILIES), "llama", "olmo2"))
def test_adapters_on_every_projection(family):
    config = tiny(family)
    lora = LoraConfig(2, 4.0, ("query", "key", "value", "out", "gate", "up", "down"))
    graph, parameters = random_parameters(config, lora)
    ids, positions = np.arange(9)[None], np.arange(9)[None]
    with_adapters, _ = run(graph, parameters, ids, positions)
    merged = merge_adapters(parameters, lora)
    plain, _ = build_on(config, LatentHeadConfig(8), merged["llama"], 0)
    in_weights, _ = run(plain, merged, ids, positions)
    assert largest_difference(with_adapters, in_weights) < 1e-5


def test_what_is_fed_without_a_token_is_not_scaled():
    """A Gemma's tokens are scaled by sqrt(D); so is the unit of its latents, and nothing that is fed as it is."""
    config = tiny("gemma3_text")
    graph, parameters = random_parameters(config)
    model = nnx.merge(graph, build_on(config, LatentHeadConfig(8), parameters["llama"], 0)[1])
    embedding_VD, root = np.asarray(parameters["llama"]["embedding"]), config.hidden_size**0.5
    np.testing.assert_allclose(model.llama.embed(np.array([3, 5]), "float32"), embedding_VD[[3, 5]] * root, rtol=1e-6)
    np.testing.assert_allclose(model.latent_head.embed_std[...], embedding_VD.std() * root, rtol=1e-5)
    rows = np.array([[3, 5, 7]]), np.array([[0, 1, 1]]), np.array([[1.0, 0.5]], np.float32)
    expected = embed_positions(embedding_VD, *rows, "float32") * root
    np.testing.assert_allclose(model.embed_positions(*rows, "float32"), expected, rtol=1e-6)


def test_every_token_is_fed_through_embed():
    """The matrix itself is read where it is held, and where words are looked for: nowhere to feed them."""
    package = Path(colar_jax.__file__).parent
    readers = {
        str(path.relative_to(package)) for path in package.rglob("*.py") if ".embedding[" in path.read_text("utf-8")
    }
    assert readers == {"model/llama.py", "model/reasoner.py", "evaluation/latents.py", *NOT_FED}


@pytest.mark.parametrize(
    ("config", "most", "told"),
    [
        (tiny("mistral"), WINDOW, "this mistral model has layers that see only the last 24 positions"),
        (tiny("gemma3_text"), WINDOW, "this gemma3_text model has layers that see only the last 24 positions"),
        (tiny("llama", rope_scaling=DynamicScaling(2.0, 20)), 20, "rotary embeddings that change beyond 20 positions"),
    ],
)
def test_a_window_in_use_is_refused_on_every_path(config, most, told):
    graph, parameters = random_parameters(config)
    model, compute = nnx.merge(graph, parameters), Execution()

    def row(length):
        return np.zeros((1, length), np.int32), np.arange(length)[None]

    def whole(length):
        ids, positions = row(length)
        return model.llama.run(model.llama.embed(ids, "float32"), positions, packed(ids + 1, compute), compute)

    def in_tree(trunk, branch):
        shape = np.array([trunk]), trunk, 2, branch
        ids = np.zeros((1, trunk + 2 * branch), np.int32)
        return model.llama.run(model.llama.embed(ids, "float32"), tree_positions(*shape), tree(*shape), compute)

    def a_step(prefix_size, suffix_size):
        cache = tuple((jnp.zeros((1, 2, prefix_size, 8)),) * 2 for _ in range(4))
        prefix = Prefix(cache, jnp.ones((1, prefix_size), bool))
        suffix = Suffix.empty(prefix, 1, suffix_size)
        sees, _ = cascade(prefix, suffix, np.ones(1, bool))
        ids, positions = row(1)
        return model.llama.run(model.llama.embed(ids, "float32"), positions, sees, compute.for_steps())

    for path, fits, does_not in (
        (whole, (most,), (most + 1,)),
        (in_tree, (most - 4, 4), (most - 4, 5)),
        (a_step, (most - 4, 4), (most - 4, 5)),
    ):
        jax.eval_shape(lambda path=path, fits=fits: path(*fits))
        with pytest.raises(UserError, match=told):
            jax.eval_shape(lambda path=path, does_not=does_not: path(*does_not))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_the_features_of_its_family(preset):
    config = PRESETS[preset]
    assert from_hf(to_hf(config)) == config
    with pytest.raises(UserError, match="no config.json of a .* says qkv_bias="):
        to_hf(dataclasses.replace(config, qkv_bias=not config.qkv_bias))
