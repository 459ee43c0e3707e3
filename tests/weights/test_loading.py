"""Folders into parameters: pieces, shards, dtypes, added rows; and every way in which a folder can be wrong."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from colar_jax.model.llama import Llama
from colar_jax.model.presets import PRESETS
from colar_jax.weights import loading as weights_module
from colar_jax.weights.hf_config import to_hf
from colar_jax.weights.hf_folder import save_llama
from colar_jax.weights.loading import load_llama, stored_config
from colar_jax.weights.safetensors_io import find_tensors
from colar_jax.weights.table import llama_weights

TIED = dataclasses.replace(PRESETS["pico"], vocab_size=37)
UNTIED = dataclasses.replace(TIED, tied_head=False, qkv_bias=True)
INDEX = "model.safetensors.index.json"


def stored_arrays(config, dtype=np.float32) -> dict[str, np.ndarray]:
    """A different random array for every name of Hugging Face's."""
    rng = np.random.default_rng(0)
    named = {name: weight.shape for weight in llama_weights(config) for name in weight.names}
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in named.items()}


def make_folder(folder, config, arrays):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(to_hf(config)))
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_sharded(folder, config, arrays, num_shards=3):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(to_hf(config)))
    weight_map = {name: f"part-{number % num_shards}.safetensors" for number, name in enumerate(arrays)}
    for file in set(weight_map.values()):
        part = {name: array for name, array in arrays.items() if weight_map[name] == file}
        safetensors.numpy.save_file(part, folder / file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def expected_tree(config, arrays) -> dict:
    """The tree by NumPy: transposed, stacked."""
    tree = {}
    for weight in llama_weights(config):
        parts = [arrays[name].T if weight.is_kernel else arrays[name] for name in weight.names]
        node = tree
        for key in weight.path[:-1]:
            node = node.setdefault(key, {})
        node[weight.path[-1]] = np.stack(parts) if weight.is_stacked else parts[0]
    return tree


def assert_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


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


@pytest.mark.parametrize("stored", [np.float16, jnp.bfloat16, np.float32])
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
@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
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


def test_into_shards(tmp_path):
    """On eight devices, in a process of its own."""
    flags = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    subprocess.run([sys.executable, __file__, str(tmp_path / "m")], env=os.environ | flags, check=True)


# What can be wrong with a folder.


def refused(folder, config=TIED):
    with pytest.raises(ValueError, match=re.escape(str(folder))) as error:
        load_llama(folder, config)
    return str(error.value)


def test_all_that_is_wrong_is_one_error(tmp_path):
    arrays = stored_arrays(TIED)
    del arrays["model.norm.weight"]
    arrays["model.layers.1.mlp.up_proj.weight"] = np.zeros((64, 31), np.float32)
    arrays["model.layers.0.mlp.up_proj.weight"] = np.zeros((64, 32), np.int8)
    arrays["model.layers.2.mlp.up_proj.weight"] = np.zeros((64, 32), np.float32)
    arrays["model.layers.0.self_attn.q_proj.bias"] = np.zeros(32, np.float32)
    told = refused(make_folder(tmp_path / "m", TIED, arrays)).splitlines()[1:]
    assert sorted(line.strip() for line in told) == [
        "missing: model.norm.weight [32]",
        "unexpected: model.layers.0.self_attn.q_proj.bias [32]",
        "unexpected: model.layers.2.mlp.up_proj.weight [64, 32]",
        "wrong dtype: model.layers.0.mlp.up_proj.weight is I8, which is none of F32, F16, BF16",
        "wrong shape: model.layers.1.mlp.up_proj.weight is [64, 31], config.json says [64, 32]",
    ]


def test_a_truncated_file(tmp_path):
    folder = make_folder(tmp_path / "m", TIED, stored_arrays(TIED))
    file = folder / "model.safetensors"
    size = file.stat().st_size
    for kept in (size - 1, 100, 3):
        file.write_bytes(file.read_bytes()[:kept])
        assert f"truncated: model.safetensors has {kept} bytes" in refused(folder)
    file.write_bytes(b"\2" + b"\0" * 7 + b"[]")
    assert "damaged: model.safetensors has no safetensors header" in refused(folder)


def test_a_header_that_lies(tmp_path):
    folder = make_folder(tmp_path / "m", TIED, stored_arrays(TIED))
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b"[37,32]", b"[37,31]"))
    assert "damaged: model.safetensors" in refused(folder)


def test_an_untied_folder_without_its_head(tmp_path):
    arrays = stored_arrays(UNTIED)
    del arrays["lm_head.weight"]
    assert "missing: lm_head.weight [37, 32]" in refused(make_folder(tmp_path / "m", UNTIED, arrays), UNTIED)


def test_shards_and_index_that_disagree(tmp_path):
    arrays = stored_arrays(TIED)
    folder = make_sharded(tmp_path / "m", TIED, arrays)
    index = json.loads((folder / INDEX).read_text())
    names = list(arrays)
    del index["weight_map"][names[0]]
    index["weight_map"][names[1]] = "part-0.safetensors"  # it is in part-1 only
    index["weight_map"]["model.more.weight"] = "part-2.safetensors"
    index["weight_map"]["lm_head.weight"] = "part-9.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    told = refused(folder)
    assert f"missing index entry: {names[0]} is in part-0.safetensors but not in {INDEX}" in told
    assert "missing: model.more.weight is not in part-2.safetensors" in told
    assert "missing shard: part-9.safetensors" in told


def test_a_truncated_shard(tmp_path):
    folder = make_sharded(tmp_path / "m", TIED, stored_arrays(TIED))
    shard = folder / "part-1.safetensors"
    shard.write_bytes(shard.read_bytes()[:-5])
    assert "truncated: part-1.safetensors" in refused(folder)


def test_a_tensor_set_twice(tmp_path):
    arrays = stored_arrays(TIED)
    folder = make_sharded(tmp_path / "m", TIED, arrays)
    name = next(iter(arrays))
    safetensors.numpy.save_file({name: arrays[name]}, folder / "part-3.safetensors")
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["one.more"] = "part-3.safetensors"
    text = json.dumps(index).replace('"one.more"', f'"{name}"')  # the same key twice
    (folder / INDEX).write_text(text)
    told = refused(folder)
    assert f"set twice: {name} in {INDEX}" in told
    assert f"set twice: {name} in part-0.safetensors and in part-3.safetensors" in told


def test_pickled_weights_only(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    assert "pickled weights only (pytorch_model.bin): unpickling a file runs whatever program is in it" in refused(
        tmp_path
    )


def test_no_weights_at_all(tmp_path):
    assert "there are no weights in it" in refused(tmp_path)


# Parameters into folders.


@pytest.mark.parametrize("max_shard_bytes", [10**9, 20_000])
@pytest.mark.parametrize("config", [TIED, UNTIED])
def test_saved_and_loaded_again(config, max_shard_bytes, tmp_path):
    arrays = stored_arrays(config)
    parameters = expected_tree(config, arrays)
    save_llama(parameters, config, tmp_path / "out", max_shard_bytes=max_shard_bytes)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    if max_shard_bytes == 10**9:
        assert files == ["config.json", "model.safetensors"]
        stored = safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")
        jax.tree.map(np.testing.assert_array_equal, stored, arrays)
    else:
        assert INDEX in files and len(files) > 3
        sizes = [path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors")]
        assert max(sizes) < 20_000 + 5_000  # a header comes on top
    assert_equal(load_llama(tmp_path / "out", config), parameters)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_export_leaves_nothing(tmp_path):
    parameters = expected_tree(TIED, stored_arrays(TIED))
    adapted = parameters | {"blocks": parameters["blocks"] | {"query": parameters["blocks"]["query"] | {"lora_a": 1}}}
    with pytest.raises(ValueError, match="no place for blocks/query/lora_a: merge adapters"):
        save_llama(adapted, TIED, tmp_path / "out")
    parameters["final_norm"]["scale"] = np.ones(31, np.float32)
    with pytest.raises(ValueError, match=r"final_norm/scale is \(31,\), the model's config says \(32,\)"):
        save_llama(parameters, TIED, tmp_path / "out")
    parameters["final_norm"]["scale"] = Unreadable()
    with pytest.raises(RuntimeError, match="half way"):
        save_llama(parameters, TIED, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


class Unreadable:
    """An array that fails when its turn comes."""

    shape = (32,)

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("half way")


def test_a_folder_with_something_in_it_is_not_written_over(tmp_path):
    (tmp_path / "kept").write_text("")
    with pytest.raises(ValueError, match="exists and is not empty"):
        save_llama(expected_tree(TIED, stored_arrays(TIED)), TIED, tmp_path)


if __name__ == "__main__":
    assert jax.device_count() == 8
    check_shards(Path(sys.argv[1]))


# Any damage to a folder's files is refused by the folder's name, or lies in the numbers themselves.

FUZZ = hypothesis.settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
NAME = "model.norm.weight"
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I8", "", 3, None]),
        "shape": st.one_of(
            st.lists(st.integers(-2, 64), max_size=3), st.sampled_from([[32], [4, 8], "32", None, [32.0]])
        ),
        "data_offsets": st.one_of(st.lists(st.integers(-8, 6000), max_size=3), st.sampled_from([[0, 128], "01", None])),
    },
)


def whole_file(folder) -> bytes:
    if not (folder / "whole").is_file():
        make_folder(folder, TIED, stored_arrays(TIED))
        (folder / "whole").write_bytes((folder / "model.safetensors").read_bytes())
    return (folder / "whole").read_bytes()


def check_damaged(folder, content: bytes) -> None:
    """We read it or refuse it by name; what the safetensors package refuses, we do."""
    (folder / "model.safetensors").write_bytes(content)
    stored, faults = find_tensors(folder)
    faults += weights_module._differences(llama_weights(TIED), stored, TIED)
    if faults:
        assert all(isinstance(fault, str) for fault in faults)
        return
    with safetensors.safe_open(folder / "model.safetensors", framework="numpy") as theirs:
        assert set(theirs.keys()) == set(stored)


@FUZZ
@hypothesis.given(place=st.floats(0, 1), in_header=st.booleans(), damage=st.binary(max_size=8), cut=st.booleans())
def test_damaged_bytes(tmp_path_factory, place, in_header, damage, cut):
    folder = tmp_path_factory.getbasetemp() / "damaged_bytes"
    content = whole_file(folder)
    header = 8 + int.from_bytes(content[:8], "little")
    at = int(place * (header if in_header else len(content)))
    check_damaged(folder, content[:at] + damage + (b"" if cut else content[at + len(damage) :]))


@FUZZ
@hypothesis.given(changes=ENTRIES, tail=st.binary(max_size=4))
def test_damaged_entries(tmp_path_factory, changes, tail):
    folder = tmp_path_factory.getbasetemp() / "damaged_entries"
    content = whole_file(folder)
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header[NAME] |= changes
    text = json.dumps(header).encode()
    check_damaged(folder, len(text).to_bytes(8, "little") + text + content[end:] + tail)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (INDEX, b"[" * 100_000),
        (INDEX, b"{}"),
        (INDEX, b'{"weight_map": []}'),
        (INDEX, b'{"weight_map": {"a": 3}}'),
        (INDEX, b"\xff"),
        ("model.safetensors", (100_000).to_bytes(8, "little") + b"[" * 100_000),
        ("model.safetensors", (2**63).to_bytes(8, "little")),
        ("model.safetensors", b""),
    ],
)
def test_files_that_hold_something_else(tmp_path, file, text):
    (tmp_path / file).write_bytes(text)
    refused(tmp_path)
