"""The matrix products that a training step needs by its definition, whatever is computed twice to save memory.

    forward = 2 * positions * weights of the layers + attention + 2 * positions that the heads read * their weights
    backward = the same for the gradients of activations, and once more for the weights that are trained

The classic 6 N D is this with everything trained, every position supervised and no attention.
"""

import dataclasses

from colar_jax.config import ModelConfig, parse_targets
from colar_jax.model.llama_config import LlamaConfig


@dataclasses.dataclass(frozen=True)
class StepShape:
    """What goes through the model in one optimizer step, over all devices; but for `rows`, of one row."""

    rows: int
    positions: int
    scores: int  # pairs of a query and a key that are computed
    words: int  # positions that the language head reads
    latents: int  # and the latent head


def packed_rows(rows: int, positions: int, supervised: int, *, has_latents: bool) -> StepShape:
    """Rows of supervised fine-tuning: every query against every key, which is what is computed."""
    return StepShape(rows, positions, positions**2, supervised, supervised if has_latents else 0)


def tree_rows(rows: int, prompt: int, branches: int, latents: int, answer: int) -> StepShape:
    """Rows of reinforcement learning: branches read the prompt and themselves; every decision and answer is scored."""
    branch = latents + answer
    return StepShape(
        rows,
        positions=prompt + branches * branch,
        scores=prompt**2 + branches * branch * (prompt + branch),
        words=branches * (latents + 1 + answer),
        latents=branches * latents,
    )


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


def step_flops(llama: LlamaConfig, model: ModelConfig, shape: StepShape, *, passes: int = 1) -> float:
    """FLOPs of one step over all devices; `passes` is 2 with a second pass on the predicted embeddings."""
    parts = forward_flops(llama, model, shape)
    trained_times = 3 if model.lora.rank == 0 else 2
    times = dict(base=trained_times, adapters=3, attention=3, words=trained_times)
    return passes * sum(times[name] * parts[name] for name in times) + 3 * parts["latents"]


def forward_flops(llama: LlamaConfig, model: ModelConfig, shape: StepShape) -> dict[str, float]:
    """FLOPs of one forward pass over all devices, by part."""
    positions = shape.rows * shape.positions
    return {
        "base": 2.0 * positions * llama.num_layers * sum(layer_weights(llama).values()),
        "adapters": 2.0 * positions * llama.num_layers * adapter_weights(llama, model),
        # Scores and weighted sum.
        "attention": 4.0 * shape.rows * shape.scores * llama.num_layers * llama.num_heads * llama.head_dim,
        "words": 2.0 * shape.rows * shape.words * llama.vocab_size * llama.hidden_size,
        "latents": 2.0 * shape.rows * shape.latents * latent_weights(llama, model),
    }
