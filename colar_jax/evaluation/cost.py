"""What an answer costs. #L alone makes latents look cheap: each is a whole forward pass, and needs two heads."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from colar_jax.model.presets import LlamaConfig


@dataclasses.dataclass(frozen=True)
class Cost:
    """Means over the examples that they were measured on."""

    forward_passes: float  # one after the other: the prompt's, those of thinking, one an answer token
    flops: float  # multiplications and additions of the matrix products, counted from shapes
    kv_bytes: float  # keys and values held when the answer ends; what is allocated is more
    seconds_per_question: float  # measured: a batch's time over its questions, whatever the machine was doing besides


@dataclasses.dataclass(frozen=True)
class CostModel:
    """Counts what a decode computes and holds, from the shapes of a model. Adapters count as merged."""

    llama: LlamaConfig
    latent_head_size: int  # its intermediate size; 0 for a method that does not read it
    bytes_per_value: int  # of the cache
    sweeps: int | None = None  # of a method that makes all its thoughts at once (`decoding.swept`)

    def passes(self, thoughts_N: np.ndarray) -> np.ndarray:
        """Forward passes that thinking takes, `[N]`, one after the other."""
        return thoughts_N if self.sweeps is None else np.full_like(thoughts_N, self.sweeps + 1)

    def flops(self, prompt_tokens_N: np.ndarray, thoughts_N: np.ndarray, answer_tokens_N: np.ndarray) -> np.ndarray:
        """Of each answer, `[N]`: all layers at every position, attention to all before it, heads once a forward pass.

        2 FLOPs a weight and position; 4 * num_heads * head_dim a layer and pair of positions that see each other.
        """
        c = self.llama
        attention = c.hidden_size * c.head_dim * (2 * c.num_heads + 2 * c.num_kv_heads)
        weights = c.num_layers * (attention + 3 * c.hidden_size * c.intermediate_size)
        positions_N = _positions(prompt_tokens_N, thoughts_N, answer_tokens_N)
        pairs_N = positions_N * (positions_N + 1) / 2
        heads_N = 1 + thoughts_N + answer_tokens_N
        if self.sweeps is not None:  # thoughts are computed more than once, and no head reads them
            pairs_N = pairs_N + self.sweeps * thoughts_N * (prompt_tokens_N + (thoughts_N + 1) / 2)
            positions_N = positions_N + self.sweeps * thoughts_N
            heads_N = 1 + answer_tokens_N
        D, I = c.hidden_size, self.latent_head_size  # noqa: E741 (the paper's letter)
        latent_head = D * I + I * I + 2 * I * D
        return (
            2 * weights * positions_N
            + 4 * c.num_layers * c.num_heads * c.head_dim * pairs_N
            + 2 * c.vocab_size * D * heads_N
            + 2 * latent_head * (1 + thoughts_N)
        )

    def kv_bytes(self, prompt_tokens_N: np.ndarray, thoughts_N: np.ndarray, answer_tokens_N: np.ndarray) -> np.ndarray:
        """Of each answer, `[N]`: keys and values of all layers at every position that was fed."""
        c = self.llama
        of_position = 2 * c.num_layers * c.num_kv_heads * c.head_dim * self.bytes_per_value
        return of_position * _positions(prompt_tokens_N, thoughts_N, answer_tokens_N)


def _positions(prompt_tokens_N, thoughts_N, answer_tokens_N) -> np.ndarray:
    """How many positions are fed: the separator that ends the reasoning is, the answer's last token is not."""
    return (prompt_tokens_N.astype(np.int64) + thoughts_N + answer_tokens_N).astype(np.float64)


class Measured(Protocol):
    """What `cost_of` reads of a decode of `N` questions."""

    prompt_tokens_N: np.ndarray
    lengths_N: np.ndarray  # #L
    answer_tokens_N: np.ndarray  # eos included
    measured: dict[str, np.ndarray]  # thoughts that were computed and then discarded are among it, where there are any
    seconds: float


def cost_of(model: CostModel, decodes: Sequence[Measured]) -> Cost:
    """The mean cost of an answer over some decodes; thoughts that were discarded have been computed all the same."""
    prompts, thoughts, answers = (
        np.concatenate([getattr(decode, name) for decode in decodes])
        for name in ("prompt_tokens_N", "lengths_N", "answer_tokens_N")
    )
    thoughts = thoughts + np.concatenate(
        [decode.measured.get("discarded_thoughts", 0 * decode.lengths_N) for decode in decodes]
    )
    return Cost(
        forward_passes=float((1 + model.passes(thoughts) + answers).mean()),
        flops=float(model.flops(prompts, thoughts, answers).mean()),
        kv_bytes=float(model.kv_bytes(prompts, thoughts, answers).mean()),
        seconds_per_question=sum(decode.seconds for decode in decodes) / len(thoughts),
    )
