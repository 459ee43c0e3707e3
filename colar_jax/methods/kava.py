"""KaVa: PCCoT whose latents learn the keys and values of the teacher's chain of thought (arXiv 2510.02312).

    total = CE(answer after latents) + CE(steps, answer) + alpha_1 * CODI's distance of hidden states
            + alpha_2 * distance of the latents' keys and values to those of a cache of the chain evicted to M entries

The chain's cache has more entries than there are latents; the eviction keeps those that the answer looks at and that
are unlike the others (`thinking.cache_eviction`). Decoding is PCCoT's.
"""

import dataclasses

from colar_jax.losses import masked_sum
from colar_jax.methods.codi import CodiCounts
from colar_jax.methods.pccot import Pccot
from colar_jax.methods.thinking.cache_distillation import DISTANCES, CacheMatching, cache_distance
from colar_jax.methods.thinking.cache_eviction import chains_of
from colar_jax.methods.thinking.thought_chain import Latents, Trunk
from colar_jax.methods.thinking.thought_rows import ThoughtBatch
from colar_jax.metrics import Metric
from colar_jax.model.execution import Execution
from colar_jax.settings.checks import one_of, require


@dataclasses.dataclass(frozen=True)
class Kava(Pccot):
    """PCCoT with a distilled key-value cache (arXiv 2510.02312)."""

    group = "kava"
    old_names = {}

    distill_weight: float = 10.0  # alpha_1, of the distance of hidden states
    cache_weight: float = 1.0  # alpha_2, of the distance of keys and values
    cache_distance: str = "smooth_l1"  # or mse
    # Whether each layer's distance is divided by the teacher's standard deviation there: the batch's, or with
    # `spread=example` each one's. It is one of a layer with `spread=all`, too.
    cache_normalise: bool = True
    importance_share: float = 0.1  # lambda: 1 evicts by the answer's attention alone, 0 by how unlike keys are
    keys_before_rope: bool = False  # keys are compared as they were before their rotary embedding, not as cached

    def __post_init__(self):
        super().__post_init__()
        one_of("kava.cache_distance", self.cache_distance, tuple(DISTANCES))
        require(self.cache_weight >= 0, f"kava.cache_weight={self.cache_weight} is negative")
        require(0 <= self.importance_share <= 1, f"kava.importance_share={self.importance_share} is not in [0, 1]")
        require(self.num_sweeps > 0, "kava.num_sweeps=0: pauses have the same keys and values for every chain")

    @property
    def reads_spread(self) -> bool:
        # The distance of caches knows each example's own, and one of a layer.
        return super().reads_spread or (self.cache_normalise and self.spread == "example")

    @property
    def matching(self) -> CacheMatching:
        """How its latents are compared with the teacher's cache."""
        return CacheMatching(
            self.cache_distance,
            self.cache_normalise,
            self.spread != "example",
            self.importance_share,
            self.keys_before_rope,
        )

    def watched(self, batch: ThoughtBatch):
        return chains_of(batch).places_BT

    def further_loss(
        self, model, trunk: Trunk, latents: Latents, batch: ThoughtBatch, counts: CodiCounts, compute: Execution
    ):
        distance_BE = cache_distance(
            trunk, latents, batch, chains_of(batch), self.matching, model.llama.config, compute
        )
        is_real_BE = batch.question_lengths_BE > 0
        loss = masked_sum(distance_BE, is_real_BE)
        metrics = {"cache_distance": Metric(loss, is_real_BE.sum())}
        return self.cache_weight * loss / counts.examples, metrics
