"""The matrix products that a training step needs by its definition, whatever is computed twice to save memory.

    forward = 2 * positions * weights of the layers + attention + 2 * supervised positions * weights of the heads
    backward = the same for the gradients of activations, and once more for the weights that are trained

The classic 6 N D is this with everything trained, every position supervised and no attention.
"""

import dataclasses

from colar_jax.config import ModelConfig, parse_targets
from colar_jax.model.presets import LlamaConfig


@dataclasses.dataclass(frozen=True)
class StepShape:
    """What goes through the model in one optimizer step, over all devices."""

    rows: int
    positions: int  # of a row
    supervised: int  # of a row: what the heads read


def layer_weights(llama: LlamaConfig) -> dict[str, int]:
    """Entries of the matrices of one layer."""
    D, F = llama.hidden_size, llama.intermediate_size
    queries, keys = llama.num_heads * llama.head_dim, llama.num_kv_heads * llama.head_dim
    return {
        "query": D * queries, "key": D * keys, "value": D * keys, "out": queries * D,
        "gate": D * F, "up": D * F, "down": F * D,
    }  # fmt: skip


def adapter_weights(llama: LlamaConfig, model: ModelConfig) -> int:
    """Entries of the adapters of one layer."""
    D, F = llama.hidden_size, llama.intermediate_size
    queries, keys = llama.num_heads * llama.head_dim, llama.num_kv_heads * llama.head_dim
    ends = {
        "query": D + queries, "key": D + keys, "value": D + keys, "out": queries + D,
        "gate": D + F, "up": D + F, "down": F + D,
    }  # fmt: skip
    return sum(model.lora.rank * ends[name] for name in parse_targets(model.lora.targets)) if model.lora.rank else 0


def latent_weights(llama: LlamaConfig, model: ModelConfig) -> int:
    """Entries of the latent head's matrices."""
    D = llama.hidden_size
    I = model.latent_head.intermediate_size or D  # noqa: E741 (the paper's letter)
    return D * I + I * I + (1 if model.latent_head.deterministic else 2) * I * D


def step_flops(
    llama: LlamaConfig, model: ModelConfig, shape: StepShape, *, has_latents: bool, passes: int = 1
) -> float:
    """FLOPs of one step over all devices; `passes` is 2 with a second pass on the predicted embeddings."""
    positions, supervised = shape.rows * shape.positions, shape.rows * shape.supervised
    is_full = model.lora.rank == 0
    base = 2.0 * positions * llama.num_layers * sum(layer_weights(llama).values())
    adapters = 2.0 * positions * llama.num_layers * adapter_weights(llama, model)
    # Every query against every key of its row, which is what is computed: scores and weighted sum.
    attention = 4.0 * positions * shape.positions * llama.num_layers * llama.num_heads * llama.head_dim
    words = 2.0 * supervised * llama.vocab_size * llama.hidden_size
    latents = 2.0 * supervised * latent_weights(llama, model)
    trained_times = 3 if is_full else 2
    total = trained_times * base + 3 * adapters + 3 * attention + trained_times * words
    return passes * total + (3 * latents if has_latents else 0)
