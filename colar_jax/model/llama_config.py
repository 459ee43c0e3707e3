"""What a Llama-type model is made of, as data.

One description covers many families (Llama, Qwen, SmolLM, Mistral, OLMo, Gemma): they differ in numbers, and in a few
features of a layer, which are fields here. `weights.families` says which family has which.
"""

import dataclasses

from colar_jax.errors import UserError
from colar_jax.model.rope_scaling import Scaling

# What a layer may be: `full` attention with rotary embeddings, with a `sliding` window, or with no rotary embeddings.
FULL, SLIDING, NO_ROPE = "full", "sliding", "no_rope"
LAYER_KINDS = (FULL, SLIDING, NO_ROPE)


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """The shape of a Llama-type model, and the features of its layers."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    rope_theta: float = 10_000.0
    rope_scaling: Scaling | None = None
    norm_eps: float = 1e-6
    tied_head: bool = True
    qkv_bias: bool = False
    family: str = "llama"  # its `model_type` in a Hugging Face folder (`weights.families`)
    qk_norm: str = ""  # a norm of q and k: of each `head`, or of the `whole` before it is split into heads
    norms: str = "before"  # where attention and feed-forward have one: `before`, `after`, or `around` (both)
    norm_offset: float = 0.0  # added to a norm's weights: Gemma keeps them less 1
    activation: str = "silu"  # of the gate: silu, or gelu_tanh
    scales_embeddings: bool = False  # tokens' embeddings by sqrt(hidden_size); what is fed without a token is not
    query_scalar: float | None = None  # scores are divided by its root; None: by that of head_dim
    layers: tuple[str, ...] = ()  # the kind of each (`LAYER_KINDS`); empty: all full
    window: int | None = None  # positions that a sliding layer sees, its own included
    sliding_rope_theta: float | None = None  # of sliding layers, unscaled; None: they turn as all others

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise UserError(
                f"num_kv_heads={self.num_kv_heads} does not divide num_heads={self.num_heads}: every key-value head "
                "serves the same number of query heads"
            )
        if self.head_dim % 2:
            raise UserError(f"head_dim={self.head_dim} is odd: rotary embeddings turn pairs of dimensions")
        if self.layers and len(self.layers) != self.num_layers:
            raise UserError(f"there are kinds for {len(self.layers)} layers, and num_layers={self.num_layers}")

    @property
    def embedding_scale(self) -> float:
        """What a token's row of the embedding is multiplied by when it is fed."""
        return self.hidden_size**0.5 if self.scales_embeddings else 1.0

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each layer."""
        return self.layers or (FULL,) * self.num_layers

    @property
    def rotations(self) -> tuple[str, ...]:
        """Which rotary embeddings each layer has: those of `full`, `sliding` or `no_rope` layers."""
        shares = self.sliding_rope_theta is None
        return tuple(FULL if kind == SLIDING and shares else kind for kind in self.kinds)

    @property
    def has_bounded_reach(self) -> bool:
        """Whether there is a number of positions beyond which a pass is refused."""
        has_window = SLIDING in self.kinds and self.window is not None
        return has_window or (self.rope_scaling is not None and self.rope_scaling.most_positions is not None)

    def check_reach(self, positions: int) -> None:
        """UserError where a pass in which a query sees so many positions, its own included, is not computed here."""
        if SLIDING in self.kinds and self.window is not None and positions > self.window:
            raise UserError(
                f"this {self.family} model has layers that see only the last {self.window} positions (sliding_window), "
                f"and a pass over {positions} is asked for: windows in use are not computed; make rows, prompts and "
                "thoughts shorter (row_positions, decode.max_latents, decode.max_answer_tokens)"
            )
        most = None if self.rope_scaling is None else self.rope_scaling.most_positions
        if most is not None and positions > most:
            raise UserError(
                f"this {self.family} model has rotary embeddings that change beyond {most} positions (rope_type "
                f"dynamic), and a pass over {positions} is asked for: that is not computed; make rows, prompts and "
                "thoughts shorter (row_positions, decode.max_latents, decode.max_answer_tokens)"
            )
