"""GGUF files that are broken, cut short, or of something else: each is one sentence."""

import os

import hypothesis
import hypothesis.strategies as st
import pytest
from weights.gguf_files import random_arrays, tiny, tiny_tokenizer, write_gguf

from colar_jax.data.tokenizers import load_tokenizer
from colar_jax.errors import UserError
from colar_jax.weights.base_model import base_folder, base_identity
from colar_jax.weights.hf_config import read_config
from colar_jax.weights.loading import check_weights, load_llama, stored_config

gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory) -> bytes:
    config = tiny("llama")
    path = tmp_path_factory.mktemp("whole") / "model.gguf"
    return write_gguf(path, config, random_arrays(config), "Q8_0", tokenizer=tiny_tokenizer).read_bytes()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is no GGUF file"),
        (b"GGUF", "is cut short"),
        (b"PK\x03\x04" * 100, "is no GGUF file: it does not begin with GGUF"),
        (b"GGUF" + (1).to_bytes(4, "little") + bytes(100), "is GGUF of version 1"),
        (b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 16, "is cut short or damaged"),
        (b"GGUF" + (3).to_bytes(4, "little") + bytes(16), "does not say its general.architecture"),
    ],
)
def test_no_gguf_file(content, told, tmp_path):
    (tmp_path / "model.gguf").write_bytes(content)
    for read in (stored_config, lambda path: load_tokenizer(str(path)), base_identity):
        with pytest.raises(UserError, match=rf"model\.gguf .*{told}"):
            read(tmp_path / "model.gguf")


def test_other_names(tmp_path):
    with pytest.raises(UserError, match="there is no such folder or file"):
        base_folder(str(tmp_path / "model.gguf"))
    with pytest.raises(UserError, match="there is no such folder or file"):
        base_folder("models/model.gguf")
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="is a file, and no GGUF file"):
        base_folder(str(tmp_path / "model.bin"))
    config = tiny("llama")
    write_gguf(tmp_path / "a.gguf", config, random_arrays(config))
    with pytest.raises(UserError, match=r"has no config\.json, but a\.gguf: name that file"):
        read_config(tmp_path)


def test_another_architecture(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UserError, match="general.architecture='mamba': a GGUF file may be llama, qwen2, qwen3"):
        stored_config(tmp_path / "model.gguf")


def test_a_file_that_ends_before_its_tensors_is_one_sentence(whole_file, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(whole_file[: len(whole_file) * 2 // 3])
    with pytest.raises(UserError) as refusal:
        check_weights(path, stored_config(path))
    told = str(refusal.value)
    assert told.startswith(f"{path} is cut short: its tensors end at byte ") and "\n" not in told


def test_a_part_of_a_model_is_named_as_one(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_uint16("split.count", 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UserError, match=r"model\.gguf is one of 3 parts of a model: merge them"):
        stored_config(tmp_path / "model.gguf")


def test_without_the_package(tmp_path, monkeypatch):
    config = tiny("llama")
    path = write_gguf(tmp_path / "model.gguf", config, random_arrays(config))
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(UserError, match="needs the package gguf: pip install gguf"):
        check_weights(path, stored_config(path))


def read_whole(path) -> bool:
    """Whether all of a file is read; a fault must be one UserError that names the file or a tensor."""
    message = None
    try:
        load_llama(path, stored_config(path))
        load_tokenizer(str(path))
        base_identity(path)
    except UserError as refusal:
        message = str(refusal)
    assert message is None or "gguf" in message
    return message is None


FUZZ = hypothesis.settings(
    max_examples=int(os.environ.get("COLAR_FUZZ_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


@FUZZ
@hypothesis.given(share=st.floats(0, 1, exclude_max=True))
def test_any_cut_is_refused(whole_file, tmp_path_factory, share):
    path = tmp_path_factory.getbasetemp() / "cut.gguf"
    path.write_bytes(whole_file[: int(share * (len(whole_file) - 32))])
    assert not read_whole(path)


@pytest.mark.slow
@FUZZ
@hypothesis.given(place=st.floats(0, 1, exclude_max=True), damage=st.binary(min_size=1, max_size=8))
def test_any_damage_of_the_header_is_read_or_refused(whole_file, tmp_path_factory, place, damage):
    header = whole_file.index(b"output_norm.weight") + 40
    at = int(place * header)
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(whole_file[:at] + damage + whole_file[at + len(damage) :])
    read_whole(path)
