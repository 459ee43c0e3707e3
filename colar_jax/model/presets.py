"""What a Llama-type model is made of, as data, and the sizes that have a name.

One description covers Llama 2 / 3.x and Qwen2 / 2.5: they differ in numbers, in a bias on q, k and v, and in whether
the language head is the embedding matrix.
"""

import dataclasses

from colar_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama-3's stretch of the low rotary frequencies (`rope_type: llama3` of a Hugging Face config)."""

    factor: float = 32.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """The shape of a Llama-type model; every name is the field's standard one."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-6
    tied_head: bool = True
    qkv_bias: bool = False

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise UserError(
                f"num_kv_heads={self.num_kv_heads} does not divide num_heads={self.num_heads}: every key-value head "
                "serves the same number of query heads"
            )
        if self.head_dim % 2:
            raise UserError(f"head_dim={self.head_dim} is odd: rotary embeddings turn pairs of dimensions")


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
    "llama-3.2-1b": LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        num_layers=16,
        num_heads=32,
        num_kv_heads=8,
        head_dim=64,
        intermediate_size=8192,
        rope_theta=500_000.0,
        rope_scaling=RopeScaling(),
        norm_eps=1e-5,
    ),
    "llama-3.1-8b": LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        intermediate_size=14336,
        rope_theta=500_000.0,
        rope_scaling=RopeScaling(factor=8.0),
        norm_eps=1e-5,
        tied_head=False,
    ),
    "qwen2.5-1.5b": LlamaConfig(
        vocab_size=151936,
        hidden_size=1536,
        num_layers=28,
        num_heads=12,
        num_kv_heads=2,
        head_dim=128,
        intermediate_size=8960,
        rope_theta=1_000_000.0,
        tied_head=True,
        qkv_bias=True,
    ),
}
