"""SIM-CoT: a decoder for training alone has to write each step from its latents (arXiv 2509.20317; their code).

    total = the host's loss + weight * mean over steps of each one's cross-entropy, read from its latents alone

The decoder begins as a copy of the weights that the stage starts from, without adapters: beside adapters it is their
base, as in its authors' code. It is trained with the model, so latents stay apart, and each says its step. Nothing of
decoding changes: a trained model is a Coconut, a CODI or a CoLaR.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.loader import Batches
from colar_jax.methods.coconut import Coconut, CoconutCounts, count_labels
from colar_jax.methods.codi import Codi, CodiCounts, count_supervised
from colar_jax.methods.colar import Colar
from colar_jax.methods.method import Counts, Method, count
from colar_jax.methods.thinking.group_spelling import SpelledGroups, SpelledLoader
from colar_jax.methods.thinking.spelling import (
    STEP_DECODER,
    STEP_DECODER_MODULE,
    HowSpelled,
    Spelled,
    Spelling,
    num_spelled,
    spelling_loss,
    spread_of_latents,
)
from colar_jax.methods.thinking.staged_loader import Dealt, Form
from colar_jax.methods.thinking.step_spelling import SpelledThoughts, SpellingForm
from colar_jax.model.execution import Execution
from colar_jax.model.reasoner import OwnModule
from colar_jax.settings.checks import one_of, require
from colar_jax.settings.on_resume import binding


@dataclasses.dataclass(frozen=True)
class _SpellsSteps(Method):
    """What SIM-CoT adds to a host: the decoder, and how it reads."""

    spelling_weight: float = 1.0  # of the decoder's loss
    spelled_tokens: str = "mean"  # of the cross-entropies of a text's tokens: mean, or sum
    shared_embedding: bool = binding(True, before=False)  # the decoder reads by the model's embedding, not by its own

    def __post_init__(self):
        super().__post_init__()  # the host's
        require(self.spelling_weight >= 0, f"{self.group}.spelling_weight={self.spelling_weight} is negative")
        one_of(f"{self.group}.spelled_tokens", self.spelled_tokens, ("mean", "sum"))

    @property
    def modules(self) -> dict[str, OwnModule]:
        return super().modules | {STEP_DECODER: STEP_DECODER_MODULE}

    def _spelled(self, model, latents_BXD, batch: Spelling, counts, compute: Execution):
        """The decoder's loss, weighted, and metrics."""
        how = HowSpelled(self.spelled_tokens, self.shared_embedding)
        loss, metrics = spelling_loss(model, latents_BXD, batch, counts.texts, compute, how)
        return self.spelling_weight * loss, metrics


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SimCoconutCounts(CoconutCounts):
    """And how many steps are written."""

    texts: jax.Array


@dataclasses.dataclass(frozen=True)
class SimCoconut(_SpellsSteps, Coconut):
    """SIM-CoT on Coconut: the latents that replaced a step are read as that step.

    Those of the last stage are read as all steps from theirs on; those of a step that an example does not have, as its
    answer.
    """

    group = "sim_coconut"
    trains = (*Coconut.trains, STEP_DECODER)

    # Of a text's tokens, the mean of their cross-entropies or the sum: on Coconut its authors' code has the sum.
    spelled_tokens: str = binding("sum", before="mean")

    def form(self, encoded: EncodedProblems) -> Form:
        return SpellingForm(super().form(encoded), self._texts, self._most_tokens(encoded), self.max_latents)

    def _texts(self, encoded: EncodedProblems, dealt: Dealt, slot: int, num_slots: int) -> list[Spelled]:
        example, removed, num_latents = dealt
        starts, ends, step_ids = encoded.step_starts[example], encoded.step_ends[example], encoded.steps[example]
        per_group = self.latents_per_stage
        num_groups = num_latents // per_group
        texts = []
        for group in range(num_groups):
            if group >= len(starts):
                token_ids = encoded.answers[example][:-1]
            else:
                is_rest = group == num_groups - 1 and removed == len(step_ids)
                token_ids = step_ids[starts[group] : removed if is_rest else ends[group]]
            latents = [number * num_slots + slot for number in range(group * per_group, (group + 1) * per_group)]
            texts.append(Spelled(latents, token_ids))
        return texts

    def _most_tokens(self, encoded: EncodedProblems) -> np.ndarray:
        missing_N = np.maximum(self.num_stages - np.array([len(starts) for starts in encoded.step_starts]), 0)
        return encoded.step_lengths + missing_N * encoded.answer_lengths

    def count(self, batch: SpelledThoughts) -> SimCoconutCounts:
        return SimCoconutCounts(count_labels(batch).labels, num_spelled(batch))

    def further_loss(self, model, latents, batch: SpelledThoughts, counts: SimCoconutCounts, compute: Execution):
        B, L, E, D = latents.fed_BLED.shape
        loss, metrics = self._spelled(model, latents.fed_BLED.reshape(B, L * E, D), batch, counts, compute)
        return loss, metrics | spread_of_latents(model, latents.fed_BLED, batch.num_latents_BE)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SimCodiCounts(CodiCounts):
    """And how many steps are written."""

    texts: jax.Array


@dataclasses.dataclass(frozen=True)
class SimCodi(_SpellsSteps, Codi):
    """SIM-CoT on CODI: latent k is read as step k of the teacher's chain; the last one as all that are left.

    There is one latent more than are fed, which exists for this alone: what would follow the last. A chain with fewer
    steps leaves the others unread.
    """

    group = "sim_codi"
    trains = (*Codi.trains, STEP_DECODER)
    old_names = {}

    def form(self, encoded: EncodedProblems) -> Form:
        return SpellingForm(super().form(encoded), self._texts, self._most_tokens(encoded), self.num_latents + 1)

    def _texts(self, encoded: EncodedProblems, dealt: Dealt, slot: int, num_slots: int) -> list[Spelled]:
        starts, ends = encoded.step_starts[dealt.example], encoded.step_ends[dealt.example]
        num_steps = len(ends) if self.teacher_last_step else max(len(ends) - 1, 0)
        most = self.num_latents + 1
        texts = []
        for k in range(min(num_steps, most)):
            stop = ends[num_steps - 1] if k == most - 1 else ends[k]
            texts.append(Spelled([k * num_slots + slot], encoded.steps[dealt.example][starts[k] : stop]))
        return texts

    def _most_tokens(self, encoded: EncodedProblems) -> np.ndarray:
        return encoded.step_lengths if self.teacher_last_step else encoded.lengths_without_last_step

    def count(self, batch: SpelledThoughts) -> SimCodiCounts:
        return SimCodiCounts(**vars(count_supervised(batch)), texts=num_spelled(batch))

    def further_loss(self, model, trunk, latents, batch: SpelledThoughts, counts: SimCodiCounts, compute: Execution):
        following_B1ED = self.project(model, latents.last_hidden_BED)[:, None]
        B, L, E, D = latents.fed_BLED.shape
        all_BXD = jnp.concatenate([latents.fed_BLED, following_B1ED], axis=1).reshape(B, (L + 1) * E, D)
        loss, metrics = self._spelled(model, all_BXD, batch, counts, compute)
        return loss, metrics | spread_of_latents(model, latents.fed_BLED, batch.num_latents_BE)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SimColarCounts(Counts):
    """And how many groups are written."""

    texts: jax.Array


@dataclasses.dataclass(frozen=True)
class SimColar(_SpellsSteps, Colar):
    """The same on CoLaR: a predicted latent is read as the tokens of its group."""

    group = "sim_colar"
    trains = (*Colar.trains, STEP_DECODER)

    def make_loader(self, encoded: EncodedProblems, *, seed: int, rows: int, row_positions: int) -> Batches:
        return SpelledLoader(encoded, self.recipe, seed=seed, rows=rows, row_positions=row_positions)

    def count(self, batch: SpelledGroups) -> SimColarCounts:
        return SimColarCounts(**vars(count(batch)), texts=num_spelled(batch))

    def further_loss(self, model, predicted, noise_BMD, batch: SpelledGroups, counts, compute: Execution):
        latents_BMD = predicted.sample(noise_BMD) * model.latent_head.embed_std[...]
        return self._spelled(model, latents_BMD.astype(compute.dtype), batch, counts, compute)
