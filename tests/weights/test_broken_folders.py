"""What can be wrong with a folder of weights: one error with its name. Damage is refused, or lies in the numbers."""

import json
import os

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from weights.stored import INDEX, TIED, UNTIED, make_folder, make_sharded, refused, stored_arrays

from colar_jax.weights import loading as weights_module
from colar_jax.weights.safetensors_io import find_tensors
from colar_jax.weights.table import llama_weights


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


# Any damage to a folder's files is refused by the folder's name, or lies in the numbers themselves.

FUZZ = hypothesis.settings(
    max_examples=int(os.environ.get("COLAR_FUZZ_EXAMPLES", "100")),
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
