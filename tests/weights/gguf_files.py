"""Small GGUF files, written as llama.cpp writes them, and what a model that is read from one says."""

from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from colar_jax.model.execution import Execution
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.model.reasoner import build_on
from colar_jax.model.visibility import packed
from colar_jax.weights.families import FAMILIES
from colar_jax.weights.loading import load_llama, stored_config
from colar_jax.weights.table import llama_weights

gguf = pytest.importorskip("gguf")
SHARED = Path(__file__).parents[3] / "shared"
SIZES = dict(vocab_size=50, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16)
SIZES |= {"intermediate_size": 96}


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


def tiny_tokenizer(writer):
    letters = [chr(ord("a") + number) for number in range(26)] + ["Ġ", "#", ".", "?", "1", "2", "3"]
    tokens = letters + [f"x{number}" for number in range(50 - len(letters))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["a b", "ab c"])
    writer.add_eos_token_id(0)


def real_texts() -> list[str]:
    texts = []
    for path in sorted((SHARED / "data").glob("**/*.jsonl"))[:6]:
        with open(path, encoding="utf-8") as file:
            texts += [line for line, _ in zip(file, range(60), strict=False)]
    return [
        *texts,
        "Caf\u00e9 cafe\u0301 na\u00efve \u4f60\u597d 12345 3.50  \n\n\t x\u00b2 don't I'LL <|im_start|>###\n### a",
    ]
