"""Folders into parameters: pieces, shards, dtypes, heads, added rows."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import fast
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from weights.stored import TIED, UNTIED, assert_equal, expected_tree, make_folder, make_sharded, refused, stored_arrays

from colar_jax.model.llama import Llama
from colar_jax.weights import loading as weights_module
from colar_jax.weights.loading import load_llama, stored_config
from colar_jax.weights.table import llama_weights


@pytest.mark.parametrize("config", [TIED, UNTIED])
def test_the_table_names_every_parameter_of_the_model_once(config):
    with nnx.use_eager_sharding(False):
        model = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))))
    table = {weight.path: weight.leaf_shape for weight in llama_weights(config)}
    leaves = jax.tree_util.tree_leaves_with_path(model)
    assert table == {tuple(key.key for key in path): leaf.shape for path, leaf in leaves}


@pytest.mark.parametrize(
    ("config", "make", "piece_bytes"),
    [
        (TIED, make_folder, 64 << 20),
        (TIED, make_sharded, 1000),
        (UNTIED, make_folder, 1),  # a row at a time
        (UNTIED, make_sharded, 64 << 20),
    ],
)
def test_every_tensor_finds_its_place(config, make, piece_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(weights_module, "PIECE_BYTES", piece_bytes)
    arrays = stored_arrays(config)
    assert_equal(load_llama(make(tmp_path / "m", config, arrays), config), expected_tree(config, arrays))


@pytest.mark.parametrize("stored", fast([np.float16, jnp.bfloat16, np.float32], np.float16, jnp.bfloat16))
@pytest.mark.parametrize("wanted", [jnp.bfloat16, jnp.float32])
def test_dtypes(stored, wanted, tmp_path):
    arrays = stored_arrays(TIED, stored)
    loaded = load_llama(make_folder(tmp_path / "m", TIED, arrays), TIED, dtype=wanted)
    as_wanted = {name: np.asarray(jnp.asarray(array).astype(wanted)) for name, array in arrays.items()}
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype(wanted)}
    assert_equal(loaded, expected_tree(TIED, as_wanted))


def test_a_tied_folder_may_hold_its_head_and_old_buffers(tmp_path):
    arrays = stored_arrays(TIED)
    more = {"lm_head.weight": arrays["model.embed_tokens.weight"]}
    more["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    folder = make_folder(tmp_path / "m", TIED, arrays | more)
    assert stored_config(folder) == TIED
    assert_equal(load_llama(folder, TIED), expected_tree(TIED, arrays))


@pytest.mark.parametrize("make", [make_folder, make_sharded])
@pytest.mark.parametrize("dtype", fast([np.float32, np.float16, jnp.bfloat16], jnp.bfloat16))
@pytest.mark.parametrize("place", [0, -1])
def test_a_head_that_differs_from_the_embedding_is_kept(make, dtype, place, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(weights_module, "PIECE_BYTES", 1000)
    arrays = stored_arrays(TIED, dtype)
    head = arrays["model.embed_tokens.weight"].copy()
    head[place, place] += 1
    folder = make(tmp_path / "m", TIED, arrays | {"lm_head.weight": head})
    config = stored_config(folder)
    assert config == dataclasses.replace(TIED, tied_head=False)
    assert "taken as a head of its own" in caplog.text
    np.testing.assert_array_equal(load_llama(folder, config)["head"], head.astype(np.float32))
    assert "not tied: lm_head.weight is another matrix" in refused(folder, TIED)


def test_a_tied_head_of_another_shape_is_refused(tmp_path):
    arrays = stored_arrays(TIED) | {"lm_head.weight": np.ones((38, 32), np.float32)}
    folder = make_folder(tmp_path / "m", TIED, arrays)
    assert "wrong shape: lm_head.weight is [38, 32]" in refused(folder, stored_config(folder))


def test_of_a_tied_pair_either_may_be_stored(tmp_path):
    arrays = stored_arrays(TIED)
    renamed = {name.replace("model.embed_tokens", "lm_head"): array for name, array in arrays.items()}
    folder = make_folder(tmp_path / "m", TIED, renamed)
    assert_equal(load_llama(folder, stored_config(folder)), expected_tree(TIED, arrays))


@pytest.mark.slow
@pytest.mark.parametrize("stored", ["equal", "other", "embedding", "head"])
def test_a_tied_head_is_what_transformers_makes_of_it(stored, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    arrays = stored_arrays(TIED)
    embedding = arrays.pop("model.embed_tokens.weight")
    head = embedding[::-1].copy() if stored == "other" else embedding.copy()
    arrays |= {} if stored == "head" else {"model.embed_tokens.weight": embedding}
    arrays |= {} if stored == "embedding" else {"lm_head.weight": head}
    folder = make_folder(tmp_path / "m", TIED, arrays)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours = load_llama(folder, stored_config(folder))
    np.testing.assert_array_equal(ours["embedding"], theirs.get_input_embeddings().weight.detach().numpy())
    np.testing.assert_array_equal(
        ours.get("head", ours["embedding"]), theirs.get_output_embeddings().weight.detach().numpy()
    )


@pytest.mark.parametrize("config", [TIED, UNTIED])
def test_added_rows_are_the_mean_of_the_others(config, tmp_path):
    arrays = stored_arrays(config)
    loaded = load_llama(make_folder(tmp_path / "m", config, arrays), config, added_rows=1)
    expected = expected_tree(config, arrays)
    for name in ("embedding", "head"):
        if name in expected:
            assert loaded[name].shape == (38, 32)
            np.testing.assert_allclose(loaded[name][37], expected.pop(name).mean(axis=0), rtol=1e-5, atol=1e-7)
            del loaded[name]
    assert_equal(loaded, {name: part for name, part in expected.items() if name not in ("embedding", "head")})


def check_shards(folder):
    """Whole, split and replicated leaves, one split over the layers, and a row added to split matrices."""
    mesh = Mesh(np.array(jax.devices()).reshape(-1, 2), ("fsdp", "tensor"))
    config = dataclasses.replace(UNTIED, vocab_size=39)
    arrays = stored_arrays(config)
    expected = expected_tree(config, arrays)
    split = {"kernel": P(None, "tensor", "fsdp"), "bias": P(None, "fsdp"), "scale": P("tensor"), "embedding": P("fsdp")}

    def sharding(path, leaf):
        spec = P() if leaf.ndim == 1 else split.get(path[-1].key, P("tensor", "fsdp"))
        return NamedSharding(mesh, spec)

    shardings = jax.tree_util.tree_map_with_path(sharding, expected)
    loaded = load_llama(make_folder(folder, config, arrays), config, shardings, added_rows=1)
    for leaf, wanted in zip(jax.tree.leaves(loaded), jax.tree.leaves(shardings), strict=True):
        assert leaf.sharding == wanted
        assert all(shard.data.shape == wanted.shard_shape(leaf.shape) for shard in leaf.addressable_shards)
    for name in ("embedding", "head"):
        np.testing.assert_allclose(loaded[name][-1], expected[name].mean(axis=0), rtol=1e-5, atol=1e-7)
        loaded[name] = np.asarray(loaded[name])[:-1]
    assert_equal(loaded, expected)


@pytest.mark.slow
def test_into_shards(tmp_path):
    """On eight devices, in a process of its own."""
    flags = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parents[2], Path(__file__).parents[1]))),
    }
    subprocess.run([sys.executable, __file__, str(tmp_path / "m")], env=os.environ | flags, check=True)


if __name__ == "__main__":
    assert jax.device_count() == 8
    check_shards(Path(sys.argv[1]))
