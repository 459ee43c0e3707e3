"""What can be read in a latent: the words nearest to it, what the language head would have said, how sure it is.

A latent is (an estimate of) the sum of the embeddings of the next `c` step tokens, scaled by 1/sqrt(c): at two tokens
each of them has a cosine of about 0.7 with it, at five 0.45, where embeddings are uncorrelated.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.grouping import group_ends
from colar_jax.data.tokenizers import Tokenizer
from colar_jax.decoding.thinking import Think, Thought
from colar_jax.errors import UserError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LatentRecord:
    """Of each of `B` latents, its `K` nearest words, the `K` likeliest tokens of the language head, and its spread.

    And, where it is kept, the latent itself as it was fed: float32, in units of the token embeddings.
    """

    word_ids_BK: jax.Array
    cosines_BK: jax.Array
    head_ids_BK: jax.Array
    head_probs_BK: jax.Array
    std_B: jax.Array
    fed_BD: jax.Array | None = None


class Word(NamedTuple):
    """A token, and how near (cosine) or likely (probability) it is."""

    token_id: int
    text: str
    score: float

    @property
    def label(self) -> str:
        """The text without the space before it; what is nothing but white space as it is written in a program."""
        return self.text.strip() or self.text.encode("unicode_escape").decode()


@dataclasses.dataclass(frozen=True)
class Latent:
    """What one latent says; and, of a model that is asked (`colar_jax.load`), the latent itself."""

    words: tuple[Word, ...]  # the nearest, by the cosine of its embedding with the latent
    head_words: tuple[Word, ...]  # the likeliest next tokens, read from the hidden state that the latent came from
    std: float  # predicted standard deviation, mean over dimensions, in embedding scales; 0: nothing is sampled
    p_stop: float  # the policy's probability to stop after it
    index: int = 0  # its place in the chain, from 0
    # As it was fed, float32 `[D]` in units of the token embeddings; None where only what it says was kept.
    vector: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)
    log_prob: float = 0.0  # as the decoder has it (`decoding.thinking`); 0 where nothing is drawn

    def line(self, *, in_detail: bool = True) -> str:
        """In one line for people: the nearest words; in detail also cosines, the language head, std and P(stop)."""
        if not in_detail:
            return "  ".join(word.label for word in self.words)
        near, said = (
            "  ".join(f"{word.label} {word.score:.2f}" for word in words) for words in (self.words, self.head_words)
        )
        return f"{near}  |  head: {said}  |  std {self.std:.3f}  |  P(stop) {self.p_stop:.2f}"

    def as_json(self) -> dict:
        """For samples.jsonl: `{"words": [[text, cosine], ...], "std": ..., "p_stop": ...}`."""
        words = [[word.text, round(word.score, 4)] for word in self.words]
        return {"words": words, "std": round(self.std, 6), "p_stop": round(self.p_stop, 6)}


def nearest_tokens(embeds_ND, embedding_VD, num_words: int):
    """The `num_words` tokens with the largest cosine, and those cosines: int32 and float32 `[N, K]`, best first.

    An embedding of no length (a row that was never used) has cosine 0 with everything.
    """
    dots_NV = jnp.einsum(
        "nd,vd->nv", embeds_ND, embedding_VD.astype(embeds_ND.dtype), preferred_element_type=jnp.float32
    )
    cosines_NV = dots_NV * _inverse_norm(embeds_ND)[:, None] * _inverse_norm(embedding_VD)[None]
    cosines_NK, ids_NK = jax.lax.top_k(cosines_NV, num_words)
    return ids_NK.astype(jnp.int32), cosines_NK


def _inverse_norm(x_ND):
    squares_N = jnp.sum(jnp.square(x_ND.astype(jnp.float32)), axis=-1)
    return jnp.where(squares_N > 0, jax.lax.rsqrt(jnp.maximum(squares_N, 1e-30)), 0.0)


def inspecting(think: Think, num_words: int, *, is_gaussian: bool, keeps_vectors: bool = False) -> Think:
    """`think`, which keeps a `LatentRecord` of each thought instead of the thought itself.

    What is fed and decided stays as it is. Without `is_gaussian` the latents are not drawn from the latent head, and
    their standard deviation is 0. With `num_words=0` neither words nor head are computed. `keeps_vectors`: the latents
    themselves are in the record, too.
    """

    def inspect(model, hidden_BD, keys_B) -> Thought:
        thought = think(model, hidden_BD, keys_B)
        num = min(num_words, model.llama.config.vocab_size)
        if is_gaussian:
            std_B = jnp.mean(model.latent_head(hidden_BD).std, axis=-1)
        else:
            std_B = jnp.zeros(hidden_BD.shape[0], jnp.float32)
        fed_BD = thought.embed_BD.astype(jnp.float32) if keeps_vectors else None
        record = LatentRecord(*_said(model, thought.embed_BD, hidden_BD, num), std_B, fed_BD)
        return dataclasses.replace(thought, record=record)

    return inspect


def _said(model, embed_BD, hidden_BD, num_words: int):
    """The ids and cosines of the nearest words, and the ids and probabilities of the language head's likeliest."""
    if not num_words:
        nothing = jnp.zeros((len(embed_BD), 0), jnp.int32), jnp.zeros((len(embed_BD), 0), jnp.float32)
        return *nothing, *nothing
    word_ids_BK, cosines_BK = nearest_tokens(embed_BD, model.llama.embedding[...], num_words)
    head_probs_BK, head_ids_BK = jax.lax.top_k(jax.nn.softmax(model.llama.logits(hidden_BD)), num_words)
    return word_ids_BK, cosines_BK, head_ids_BK.astype(jnp.int32), head_probs_BK


def read_latent(
    record: LatentRecord,
    stop_log_prob: float,
    is_last: bool,
    tokenizer: Tokenizer,
    *,
    index: int = 0,
    log_prob: float = 0.0,
) -> Latent:
    """One latent of the host: `record` without its leading axes, and the decision that was made after it."""
    probability = float(np.exp(stop_log_prob))
    return Latent(
        words=_words(record.word_ids_BK, record.cosines_BK, tokenizer),
        head_words=_words(record.head_ids_BK, record.head_probs_BK, tokenizer),
        std=float(record.std_B),
        p_stop=probability if is_last else 1.0 - probability,
        index=index,
        vector=record.fed_BD,
        log_prob=float(log_prob),
    )


def _words(ids_K, scores_K, tokenizer: Tokenizer) -> tuple[Word, ...]:
    return tuple(Word(int(i), tokenizer.token_text(int(i)), float(s)) for i, s in zip(ids_K, scores_K, strict=True))


def gold_groups(encoded: EncodedProblems, index: int, speed: float, phase: float = 0.0) -> list[np.ndarray]:
    """The step tokens of a problem, grouped as training at `speed` groups them; `phase` is `Recipe.asked_phase`."""
    ids = encoded.steps[index]
    return np.split(ids, group_ends(len(ids), speed, phase)[:-1]) if len(ids) else []


def chunk_recall(
    chains: Sequence[Sequence[Latent]],
    encoded: EncodedProblems,
    speed: float,
    ks: tuple[int, ...] = (1, 3, 5),
    phase: float = 0.0,
) -> dict[int, float]:
    """Which share of the gold groups' tokens is among the `k` words nearest to the latent in their place.

    Each group counts its different tokens once; the latents that a chain lacks recover nothing, and those that it has
    too many of have nothing to recover. At `k = 1` no more than one token of a group can be found: 1/c at best.

    Raises:
        UserError: the latents were inspected with fewer than `k` words.
    """
    found, total = dict.fromkeys(ks, 0), 0
    for index, chain in enumerate(chains):
        if chain and len(chain[0].words) < max(ks):
            num_words = len(chain[0].words)
            raise UserError(f"chunk recall at {max(ks)} needs that many words of each latent, got {num_words}")
        for place, group in enumerate(gold_groups(encoded, index, speed, phase)):
            wanted = set(group.tolist())
            total += len(wanted)
            if place < len(chain):
                ids = [word.token_id for word in chain[place].words]
                for k in ks:
                    found[k] += len(wanted.intersection(ids[:k]))
    return {k: found[k] / total if total else 0.0 for k in ks}
