"""RuPLaR: latents that are mixtures of tokens, whose shares a rule reads off the text (arXiv 2605.09346; their code).

    loss = cross-entropy of `###` and the answer + kl_weight * KL(pi || p) + sem_weight * SEM

pi: the shares of a latent's tokens; p: what the language head predicts right before it. SEM: KL between softmaxes over
the hidden dimension, from the question's end to the latent. Both are means over an example's latents, then over
examples. One parallel pass: latents are fed as they should be.
Decoded until `###` is the most probable token, feeding `softmax(logits) E`.

`Ruplar` has one latent for each step. `ColarKhot` has one for each group of `c` tokens, as CoLaR has; what it has to
say are those tokens, in equal shares.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from colar_jax.data import packing
from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.layout import Layout
from colar_jax.data.packing import Batch, RowShape
from colar_jax.data.prompts import AUTO_SPEED
from colar_jax.data.recipe import Recipe
from colar_jax.data.step_targets import STEP_RULES, TEMPERATURE, step_shares
from colar_jax.methods.method import Method, Thinking, supervised_hidden
from colar_jax.methods.thinking import superposition
from colar_jax.methods.thinking.schedule import Constant, Phase
from colar_jax.methods.thinking.staged_loader import Dealt, Room, StagedLoader
from colar_jax.methods.thinking.superposition import LatentTokens
from colar_jax.metrics import Metric
from colar_jax.model.execution import Execution
from colar_jax.settings import DecodeConfig
from colar_jax.settings.checks import one_of, require
from colar_jax.settings.on_resume import binding
from colar_jax.settings.speeds import parse_trained_speeds

_NOISE_STREAM = 0x6B  # of a row's key


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KhotCounts:
    """What a step supervises: words, latents that are fed, and examples that have any."""

    labels: jax.Array
    latents: jax.Array
    examples: jax.Array


def count_khot(batch: Batch) -> KhotCounts:
    """What this batch supervises."""
    return KhotCounts(
        jnp.sum(batch.label_ids_BM >= 0),
        jnp.sum(superposition.feeds_latent(batch)),
        jnp.sum(superposition.has_first_latent(batch)),
    )


def khot_loss(model, batch: Batch, tokens: LatentTokens, keys_B, counts: KhotCounts, khot: "Khot", compute: Execution):
    """The part's share of the three losses, for these shares of the latents' tokens."""
    own = count_khot(batch)
    embeds_BSD = superposition.embed_shares(model, batch, tokens, compute.dtype)
    hidden_BMD = supervised_hidden(model, embeds_BSD, batch, compute, keys_B)
    words = superposition.predicted_words(model, hidden_BMD, compute)
    cross_entropy, right = superposition.label_loss(model, hidden_BMD, words, batch.label_ids_BM)
    weights_BM, own_latents, num_latents = None, own.latents, counts.latents
    if khot.weighting == "example":
        weights_BM, own_latents, num_latents = superposition.share_of_example(batch), own.examples, counts.examples
    kl = superposition.divergence(model, hidden_BMD, words, batch.token_ids_BT, tokens, khot.min_share, weights_BM)
    num_latents = jnp.maximum(num_latents, 1)  # problems without steps have none
    loss = cross_entropy / counts.labels + khot.kl_weight * kl / num_latents
    metrics = {
        "cross_entropy": Metric(cross_entropy, own.labels),
        "label_accuracy": Metric(right, own.labels),
        "latent_kl": Metric(kl, own_latents),
    }
    if khot.sem_weight:
        semantic = superposition.semantic_divergence(hidden_BMD, batch, weights_BM)
        loss += khot.sem_weight * semantic / num_latents
        metrics["semantic_kl"] = Metric(semantic, own_latents)
    return loss, metrics


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ShareBatch(Batch):
    """Packed rows; of each token of a latent, its share."""

    shares_BT: np.ndarray  # float32, 0 for other tokens


class _Rows:
    """`q ### | z1 ... zm | ### a`, a latent a step; a latent's tokens are added into its position."""

    def __init__(self, encoded: EncodedProblems, rule: str):
        self.steps = [step_shares(encoded, example, rule) for example in range(len(encoded))]
        self.num_latents = np.array([len(steps) for steps in self.steps])
        self.num_tokens = np.array([sum(len(ids) for ids, _ in steps) for steps in self.steps])

    def sizes(self, encoded: EncodedProblems, kept_N: np.ndarray, examples_N=slice(None)) -> np.ndarray:
        """Positions before the supervised ones, those, and how many more tokens there are than positions."""
        questions_N, answers_N = encoded.prompt_lengths(AUTO_SPEED)[examples_N], encoded.answer_lengths[examples_N]
        latents_N = self.num_latents[examples_N]
        more_N = self.num_tokens[examples_N] - latents_N
        return np.stack([questions_N - 1, 2 + latents_N + answers_N, more_N], axis=1)

    def fill(self, encoded: EncodedProblems, rows: list[list[Dealt]], room: Room) -> ShareBatch:
        questions, supervised, more = room.positions
        shape = RowShape(questions + supervised, tokens=questions + supervised + more, supervised=supervised)
        laid_out = [[self._lay_out(encoded, one.example) for one in row] for row in rows]
        batch = packing.fill([[layout for layout, _ in row] for row in laid_out], shape)
        shares_BT = np.zeros(batch.token_ids_BT.shape, np.float32)
        for row, of_row in enumerate(laid_out):
            shares = np.concatenate([np.zeros(0), *(shares_T for _, shares_T in of_row)])
            shares_BT[row, : len(shares)] = shares
        return ShareBatch(**vars(batch), shares_BT=shares_BT)

    def _lay_out(self, encoded: EncodedProblems, example: int) -> tuple[Layout, np.ndarray]:
        """An example, and the share of each of its tokens."""
        steps, answer_ids = self.steps[example], encoded.answers[example]
        separator = np.array([encoded.separator_id], np.int32)
        prompt_ids = np.append(encoded.prompt(example, AUTO_SPEED), separator)
        latent_ids = np.concatenate([separator[:0], *(ids for ids, _ in steps)])
        tokens_in_position = np.array([1] * len(prompt_ids) + [len(ids) for ids, _ in steps] + [1] * len(answer_ids))
        layout = Layout(
            token_ids_T=np.concatenate([prompt_ids, latent_ids, separator, answer_ids[:-1]]).astype(np.int32),
            token_positions_T=np.repeat(np.arange(len(tokens_in_position)), tokens_in_position),
            tokens_in_position_S=tokens_in_position,
            label_ids_M=np.concatenate([separator, np.full(len(steps), -1), separator, answer_ids]).astype(np.int32),
            latent_mask_M=np.array([False] + [True] * (len(steps) + 1) + [False] * len(answer_ids)),
        )
        shares = np.concatenate([np.zeros(0), *(of_step for _, of_step in steps)])
        return layout, np.concatenate([np.zeros(len(prompt_ids)), shares, np.zeros(len(answer_ids))])


@dataclasses.dataclass(frozen=True)
class Khot(Method):
    """What the two share: their losses, and how they think."""

    kl_weight: float = 1.0  # of the divergence from the shares
    sem_weight: float = 1.0  # of the divergence between the question's end and the latents; 0: none
    min_share: float = 0.01  # smaller shares are fed, and not learned
    # What weighs the same in both divergences: each example, as in the code of RuPLaR and Latent-SFT; or each latent.
    weighting: str = binding("example", before="position")

    def __post_init__(self):
        for field in ("kl_weight", "sem_weight"):
            require(getattr(self, field) >= 0, f"{self.group}.{field}={getattr(self, field)} is negative")
        one_of(f"{self.group}.weighting", self.weighting, ("example", "position"))
        require(0 <= self.min_share < 1, f"{self.group}.min_share={self.min_share} is not in [0, 1)")

    def count(self, batch: Batch) -> KhotCounts:
        return count_khot(batch)

    def thinking(self, decode: DecodeConfig, separator_id: int, *, greedy: bool) -> Thinking:
        return Thinking(
            superposition.superposition_thinker(separator_id),
            max_thoughts=decode.max_latents,
            min_thoughts=decode.min_latents,
            mixes_words=True,
            way="superposition",
        )


@dataclasses.dataclass(frozen=True)
class Ruplar(Khot):
    """A latent a step, whose shares a rule gives (arXiv 2605.09346)."""

    group = "ruplar"

    # mix: a fifth spread over the step's numbers and signs, the rest over its result; temp: a softmax of two scores;
    # gumbel: the same with fresh noise at every visit; uniform: all alike.
    rule: str = "mix"

    def __post_init__(self):
        super().__post_init__()
        one_of("ruplar.rule", self.rule, STEP_RULES)

    @property
    def recipe(self) -> Recipe:
        return Recipe(speeds=(1.0,), prompt_speed=AUTO_SPEED)

    def make_loader(self, encoded: EncodedProblems, *, seed: int, rows: int, row_positions: int) -> StagedLoader:
        form = _Rows(encoded, self.rule)
        return StagedLoader(
            encoded, Constant(Phase(removed=0, num_latents=0)), form, seed=seed, rows=rows, row_positions=row_positions
        )

    def objective(self, model, batch: ShareBatch, keys_B, counts: KhotCounts, compute: Execution):
        tokens = superposition.latent_tokens(batch, batch.shares_BT)
        if self.rule == "gumbel":
            tokens = _noisy(tokens, keys_B)
        return khot_loss(model, batch, tokens, keys_B, counts, self, compute)


def _noisy(tokens: LatentTokens, keys_B) -> LatentTokens:
    """The shares after Gumbel noise on their scores: a softmax over each latent's tokens."""
    num_tokens = tokens.shares_BT.shape[1]
    noise_BT = jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, _NOISE_STREAM), (num_tokens,)))(keys_B)
    return superposition.reweighed(tokens, noise_BT / TEMPERATURE)


@dataclasses.dataclass(frozen=True)
class ColarKhot(Khot):
    """CoLaR's speeds with mixtures instead of a Gaussian: a latent is its group's tokens, alike, and says them."""

    group = "khot"
    has_speed = True

    # One is drawn for each example: of a list (one listed twice, twice as often), or of ranges such as 1..6.
    speeds: str = "1,2,3,4,5"
    auto_probability: float = 0.0  # how often the prompt says "auto" instead of the drawn speed

    def __post_init__(self):
        super().__post_init__()
        parse_trained_speeds(f"{self.group}.speeds", self.speeds)
        require(
            0 <= self.auto_probability <= 1,
            f"{self.group}.auto_probability={self.auto_probability} is not in [0, 1]",
        )

    @property
    def recipe(self) -> Recipe:
        speeds, ranges = parse_trained_speeds(f"{self.group}.speeds", self.speeds)
        return Recipe(
            speeds=speeds,
            ranges=ranges,
            random_phase=True,
            auto_probability=self.auto_probability,
            supervise_latents=True,
            supervise_steps=False,
            pooling="mean",
        )

    def latent_tokens(self, batch: Batch, keys_B) -> LatentTokens:
        """The tokens of the batch's latents, with their shares."""
        # A padding token lies in no position, and has none.
        scale_BS = jnp.pad(batch.scale_BS, ((0, 0), (0, 1)))
        shares_BT = jnp.take_along_axis(scale_BS, batch.token_positions_BT, axis=1)
        return superposition.latent_tokens(batch, shares_BT)

    def objective(self, model, batch: Batch, keys_B, counts: KhotCounts, compute: Execution):
        return khot_loss(model, batch, self.latent_tokens(batch, keys_B), keys_B, counts, self, compute)
