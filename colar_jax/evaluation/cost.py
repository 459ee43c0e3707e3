"""What an answer costs. #L alone makes latents look cheap: each is a whole forward pass, as a word is."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from colar_jax.model.llama_config import LlamaConfig


@dataclasses.dataclass(frozen=True)
class Cost:
    """Means over the examples that they were measured on."""

    forward_passes: float  # one after the other: the prompt's, those of thinking, one an answer token
    flops: float  # multiplications and additions of the matrix products, counted from shapes
    kv_bytes: float  # keys and values held when the answer ends; what is allocated is more
    # Measured: a batch's time over its questions, whatever the machine was doing besides; None: on another machine.
    seconds_per_question: float | None


@dataclasses.dataclass(frozen=True)
class CostModel:
    """Counts what a decode computes and holds, from the shapes of a model. Adapters count as merged."""

    llama: LlamaConfig
    latent_head_size: int  # its intermediate size; 0 for a method that does not read it
    bytes_per_value: int  # of the cache
    projection_size: int = 0  # hidden size of the MLP that latents go through; 0: there is none
    reads_words: bool = True  # whether thinking reads the language head: a word, or whether to stop
    mixes_words: bool = False  # whether each decision also mixes the embeddings of all tokens
    question_reads: int = 1  # 2 where the model reads it to choose its speed, and again when it is told
    sweeps: int | None = None  # of a method that makes all its thoughts at once (`decoding.swept`)

    def passes(self, thoughts_N: np.ndarray, answer_tokens_N: np.ndarray) -> np.ndarray:
        """Forward passes of an answer, `[N]`, one after the other."""
        thinking_N = thoughts_N if self.sweeps is None else np.full_like(thoughts_N, self.sweeps + 1)
        return self.question_reads + thinking_N + answer_tokens_N

    def flops(
        self,
        prompt_tokens_N: np.ndarray,
        thoughts_N: np.ndarray,
        answer_tokens_N: np.ndarray,
        discarded_N: np.ndarray | int = 0,
    ) -> np.ndarray:
        """Of each answer, `[N]`: all layers at every position, attention to all before it, heads where they are read.

        2 FLOPs a weight and position; 4 * num_heads * head_dim a layer and pair of positions that see each other.

        Args:
            discarded_N: thoughts that came after the others and were thrown away before the answer.
        """
        c = self.llama
        attention = c.hidden_size * c.head_dim * (2 * c.num_heads + 2 * c.num_kv_heads)
        weights = c.num_layers * (attention + 3 * c.hidden_size * c.intermediate_size)
        again, rounds = self.question_reads - 1, self.sweeps or 0
        projected_N = thoughts_N if self.sweeps is None else rounds * thoughts_N
        before_N = prompt_tokens_N + thoughts_N
        positions_N = _positions(prompt_tokens_N, thoughts_N, answer_tokens_N)
        pairs_N = (
            _causal_pairs(positions_N)
            + again * _causal_pairs(prompt_tokens_N)
            + rounds * thoughts_N * (prompt_tokens_N + (thoughts_N + 1) / 2)
            + discarded_N * (before_N + (discarded_N + 1) / 2)
        )
        computed_N = positions_N + again * prompt_tokens_N + rounds * thoughts_N + discarded_N
        decided_N = 1 + thoughts_N + discarded_N  # after the prompt, and after each thought
        D, I = c.hidden_size, self.latent_head_size  # noqa: E741 (the paper's letter)
        return (
            2 * weights * computed_N
            + 4 * c.num_layers * c.num_heads * c.head_dim * pairs_N
            + 2 * c.vocab_size * D * (answer_tokens_N + (self.reads_words + self.mixes_words) * decided_N)
            + 2 * (D * I + I * I + 2 * I * D) * decided_N
            + 2 * 2 * D * self.projection_size * projected_N
        )

    def kv_bytes(self, prompt_tokens_N: np.ndarray, thoughts_N: np.ndarray, answer_tokens_N: np.ndarray) -> np.ndarray:
        """Of each answer, `[N]`: keys and values of all layers at every position that the answer sees."""
        c = self.llama
        of_position = 2 * c.num_layers * c.num_kv_heads * c.head_dim * self.bytes_per_value
        return of_position * _positions(prompt_tokens_N, thoughts_N, answer_tokens_N)


def _causal_pairs(positions_N: np.ndarray) -> np.ndarray:
    """Pairs of positions of which one sees the other, itself included."""
    return positions_N * (positions_N + 1) / 2


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
    """The mean cost of an answer over some decodes; what was thought in vain was computed, but is not kept."""
    prompts, thoughts, answers = (
        np.concatenate([getattr(decode, name) for decode in decodes])
        for name in ("prompt_tokens_N", "lengths_N", "answer_tokens_N")
    )
    discarded = np.concatenate([decode.measured.get("discarded_thoughts", 0 * decode.lengths_N) for decode in decodes])
    return Cost(
        forward_passes=float(model.passes(thoughts + discarded, answers).mean()),
        flops=float(model.flops(prompts, thoughts, answers, discarded).mean()),
        kv_bytes=float(model.kv_bytes(prompts, thoughts, answers).mean()),
        seconds_per_question=sum(decode.seconds for decode in decodes) / len(thoughts),
    )
