"""The sizes of models that have a name."""

from colar_jax.model.llama_config import FULL, NO_ROPE, SLIDING, LlamaConfig
from colar_jax.model.rope_scaling import LinearScaling, Llama3Scaling

_QWEN2 = {"family": "qwen2", "qkv_bias": True, "rope_theta": 1_000_000.0}
_QWEN3 = {"family": "qwen3", "qk_norm": "head", "rope_theta": 1_000_000.0}
_MISTRAL = {"family": "mistral", "rope_theta": 1_000_000.0, "norm_eps": 1e-5, "tied_head": False}
_OLMO2 = {"family": "olmo2", "qk_norm": "whole", "norms": "after", "rope_theta": 500_000.0, "tied_head": False}
_GEMMA3 = {
    "family": "gemma3_text",
    "qk_norm": "head",
    "norms": "around",
    "norm_offset": 1.0,
    "activation": "gelu_tanh",
    "scales_embeddings": True,
    "query_scalar": 256,
    "rope_theta": 1_000_000.0,
    "sliding_rope_theta": 10_000.0,
}
_LLAMA3 = {"rope_theta": 500_000.0, "norm_eps": 1e-5}
_SMOLLM2 = {"norm_eps": 1e-5}


def _five_sliding_to_one(num_layers: int) -> tuple[str, ...]:
    return tuple(FULL if layer % 6 == 5 else SLIDING for layer in range(num_layers))


def _one_full_to_three_sliding(num_layers: int) -> tuple[str, ...]:
    return tuple(SLIDING if layer % 4 else FULL for layer in range(num_layers))


def _every_fourth_without_rope(num_layers: int) -> tuple[str, ...]:
    return tuple(NO_ROPE if layer % 4 == 3 else FULL for layer in range(num_layers))


# vocab_size is replaced by the tokenizer's when a model is made from random weights.
PRESETS = {
    # The model of configs/arithmetic.py: trained from nothing on two cores in minutes.
    "nano": LlamaConfig(
        vocab_size=256, hidden_size=128, num_layers=4, num_heads=4, num_kv_heads=4, head_dim=32, intermediate_size=384
    ),
    # For `:smoke` runs and tests: a whole Llama (grouped queries included), as small as can be.
    "pico": LlamaConfig(
        vocab_size=256, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, intermediate_size=64
    ),
    # The model of the speed benchmarks.
    "micro": LlamaConfig(
        vocab_size=4096, hidden_size=384, num_layers=6, num_heads=6, num_kv_heads=6, head_dim=64, intermediate_size=1024
    ),
    # Published: vocabulary, width, layers, query heads, key-value heads, their size, width of the feed-forward.
    "llama-3.2-1b": LlamaConfig(128256, 2048, 16, 32, 8, 64, 8192, rope_scaling=Llama3Scaling(), **_LLAMA3),
    "llama-3.1-8b": LlamaConfig(
        128256, 4096, 32, 32, 8, 128, 14336, rope_scaling=Llama3Scaling(factor=8.0), tied_head=False, **_LLAMA3
    ),
    "qwen2.5-1.5b": LlamaConfig(151936, 1536, 28, 12, 2, 128, 8960, **_QWEN2),
    "qwen3-0.6b": LlamaConfig(151936, 1024, 28, 16, 8, 128, 3072, **_QWEN3),
    "qwen3-1.7b": LlamaConfig(151936, 2048, 28, 16, 8, 128, 6144, **_QWEN3),
    "qwen3-4b": LlamaConfig(151936, 2560, 36, 32, 8, 128, 9728, **_QWEN3),
    "qwen3-8b": LlamaConfig(151936, 4096, 36, 32, 8, 128, 12288, tied_head=False, **_QWEN3),
    "smollm2-135m": LlamaConfig(49152, 576, 30, 9, 3, 64, 1536, rope_theta=100_000.0, **_SMOLLM2),
    "smollm2-360m": LlamaConfig(49152, 960, 32, 15, 5, 64, 2560, rope_theta=100_000.0, **_SMOLLM2),
    "smollm2-1.7b": LlamaConfig(49152, 2048, 24, 32, 32, 64, 8192, rope_theta=130_000.0, **_SMOLLM2),
    "smollm3-3b": LlamaConfig(
        128256, 2048, 36, 16, 4, 128, 11008,
        family="smollm3", rope_theta=5_000_000.0, layers=_every_fourth_without_rope(36),
    ),
    "mistral-7b": LlamaConfig(32768, 4096, 32, 32, 8, 128, 14336, **_MISTRAL),
    "ministral-8b": LlamaConfig(
        131072, 4096, 36, 32, 8, 128, 12288,
        layers=_one_full_to_three_sliding(36), window=32768, **_MISTRAL | {"family": "ministral", "rope_theta": 1e8},
    ),
    "olmo2-1b": LlamaConfig(100352, 2048, 16, 16, 16, 128, 8192, **_OLMO2),
    "olmo2-7b": LlamaConfig(100352, 4096, 32, 32, 32, 128, 11008, **_OLMO2),
    "gemma3-1b": LlamaConfig(
        262144, 1152, 26, 4, 1, 256, 6912, layers=_five_sliding_to_one(26), window=512, **_GEMMA3
    ),
    "gemma3-4b": LlamaConfig(
        262208, 2560, 34, 8, 4, 256, 10240,
        layers=_five_sliding_to_one(34), window=1024, rope_scaling=LinearScaling(8.0), **_GEMMA3,
    ),
}  # fmt: skip
