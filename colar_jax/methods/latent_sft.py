"""Latent-SFT, its second stage: latents that are mixtures of k tokens, learned with noise (arXiv 2510.15522; its code).

    loss = cross-entropy of `###` and the answer + kl_weight * KL(p~ || p),  p~ = softmax(log p_label + g)

p_label: a latent's shares. At home an encoder writes them, in a stage before; here they are a group's tokens, alike, as
`ColarKhot` has them (CoLaR's groups, speed 2 for the encoder's chunks of two). g: Gumbel noise in [-1.5, 3], fresh at
every visit. The noisy p~ is fed and is the target, so that one parallel pass sees latents near the labels, too. Decoded
until `###` is the most probable token, feeding the mixture of the `top_k` likeliest ones.

Latent-GRPO (arXiv 2604.27998) goes on from here: `trainer=grpo`, whose rollouts draw latents (`decoding.khot`).
"""

import dataclasses
import math

import jax

from colar_jax.data.packing import Batch
from colar_jax.decoding.khot import clamped_gumbel, drawn_khot_thinker, khot_thinker
from colar_jax.methods.method import OF_DECISIONS, OF_GAUSSIANS, Thinking
from colar_jax.methods.ruplar import ColarKhot
from colar_jax.methods.thinking import superposition
from colar_jax.methods.thinking.superposition import LatentTokens
from colar_jax.settings import DecodeConfig
from colar_jax.settings.checks import require
from colar_jax.settings.speeds import parse_trained_speeds

_NOISE_STREAM = 0x1A5F  # of a row's key


def label_noise(batch: Batch, keys_B):
    """Clamped Gumbel noise of each token of a row, `[B, T]`: one number for a token that a latent has twice."""

    def of_row(key, positions_T, ids_T):
        key = jax.random.fold_in(key, _NOISE_STREAM)
        keys_T = jax.vmap(lambda at, token: jax.random.fold_in(jax.random.fold_in(key, at), token))(positions_T, ids_T)
        return jax.vmap(lambda key: clamped_gumbel(key, ()))(keys_T)

    return jax.vmap(of_row)(keys_B, batch.token_positions_BT, batch.token_ids_BT)


@dataclasses.dataclass(frozen=True)
class LatentSft(ColarKhot):
    """Noisy mixtures of a group's tokens, decoded as mixtures of the k likeliest (arXiv 2510.15522)."""

    group = "latent_sft"
    idle_in_rewards = {
        "is of Gaussian latents, and these are k-hot": OF_GAUSSIANS,
        "does nothing: no stop is drawn": OF_DECISIONS,
    }

    sem_weight: float = 0.0  # that term is RuPLaR's
    min_share: float = 0.0  # noise makes shares small: all of them are learned
    speeds: str = "2"  # tokens of a group; as CoLaR's
    top_k: int = 10  # tokens of a latent that is decoded; a group has no more
    noise: bool = True  # on the labels; False: they are what ColarKhot learns

    def __post_init__(self):
        super().__post_init__()
        require(self.top_k > 0, f"latent_sft.top_k={self.top_k} must be positive")
        speeds, ranges = parse_trained_speeds(f"{self.group}.speeds", self.speeds)
        most = math.ceil(max((*speeds, *(part.high for part in ranges))))
        require(
            most <= self.top_k,
            f"latent_sft.speeds={self.speeds!r} has groups of {most} tokens, and a latent has latent_sft.top_k="
            f"{self.top_k}: take lower speeds, or a larger top_k",
        )

    @property
    def takes_rewards(self) -> bool:
        return True

    def latent_tokens(self, batch: Batch, keys_B) -> LatentTokens:
        tokens = super().latent_tokens(batch, keys_B)
        return superposition.reweighed(tokens, label_noise(batch, keys_B)) if self.noise else tokens

    def thinking(self, decode: DecodeConfig, separator_id: int, *, greedy: bool) -> Thinking:
        think = khot_thinker(separator_id, self.top_k)
        inherited = super().thinking(decode, separator_id, greedy=greedy)
        return dataclasses.replace(inherited, think=think, mixes_words=False, way="khot")

    def rollout_thinking(self, decode: DecodeConfig, separator_id: int) -> Thinking:
        think = drawn_khot_thinker(
            separator_id, self.top_k, top_p=decode.top_p, one_sided=decode.latent_noise == "one_sided"
        )
        return dataclasses.replace(self.thinking(decode, separator_id, greedy=False), think=think)
