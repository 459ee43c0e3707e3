"""CoLaR: reason in compressed latent steps (docs/method.md; arXiv 2505.16552, section 3).

    total = cross-entropy + weight * latent + entropy_weight * entropy + predicted_pass_weight * predicted-pass

With `weighting="example"` the first three are means over examples of each one's mean over its own labels or latents, so
that an example weighs the same at every speed; with "position" they are means over all labels or latents, of which a
slow example has more. The last is a mean over answer tokens.
"""

import dataclasses

import jax
import jax.numpy as jnp

from colar_jax.data.recipe import Recipe
from colar_jax.decoding.thinking import greedy_latent_thinker, latent_thinker
from colar_jax.losses import gather_positions, gaussian_nll, masked_sum, soft_mse
from colar_jax.methods import method
from colar_jax.methods.method import Counts, Method, Thinking
from colar_jax.metrics import Metric
from colar_jax.model.execution import Execution
from colar_jax.model.reasoner import OwnModule
from colar_jax.model.speed_embedding import SPEED, SpeedEmbedding, SpeedEmbeddingConfig
from colar_jax.settings import DecodeConfig, ModelConfig
from colar_jax.settings.checks import one_of, require
from colar_jax.settings.on_resume import binding
from colar_jax.settings.speeds import TIMELINES, parse_trained_speeds, require_decimals
from colar_jax.weights.speed_embedding_file import load_speed_embedding, save_speed_embedding


def colar_loss(model, batch, keys_B, counts: Counts, colar: "Colar", compute):
    """The CoLaR loss with fresh noise for every row."""
    num_supervised, hidden_size = batch.supervised_BM.shape[1], model.llama.config.hidden_size
    noise_BMD = jax.vmap(lambda key: jax.random.normal(key, (num_supervised, hidden_size)))(keys_B)
    return objective_with_noise(model, batch, noise_BMD, counts, colar, compute, dropout_keys_B=keys_B)


def objective_with_noise(model, batch, noise_BMD, counts: Counts, colar: "Colar", compute, dropout_keys_B=None):
    """The CoLaR loss for a given standard normal draw at each supervised position; no keys: no dropout."""
    own = method.count(batch)
    embeds_BSD = method.embed(model, batch, compute)

    def told(embeds_BSD):
        return embeds_BSD if colar.conditioning == "text" else with_told(model, embeds_BSD, batch)

    hidden_BMD = method.supervised_hidden(model, told(embeds_BSD), batch, compute, dropout_keys_B)
    terms = _Terms.of(batch, own, counts, colar.weighting)
    cross_entropy, right = method.language_loss(model, hidden_BMD, batch.label_ids_BM, compute, terms.label_weights_BM)

    predicted = model.latent_head(hidden_BMD)
    embed_std = model.latent_head.embed_std[...]
    # The target is a constant: no gradient flows into the embeddings through it (as published). It is told nothing.
    next_BMD = jax.lax.stop_gradient(gather_positions(embeds_BSD, batch.supervised_BM + 1))
    target_BMD = next_BMD.astype(jnp.float32) / embed_std
    if colar.loss == "nll":
        latent_BM = gaussian_nll(predicted, target_BMD)
    else:
        latent_BM = soft_mse(predicted, target_BMD, noise_BMD)
    latent_loss = masked_sum(terms.of_latents(latent_BM), batch.latent_mask_BM)
    loss = cross_entropy / terms.all_labels + colar.weight * latent_loss / terms.all_latents
    metrics = {
        "cross_entropy": Metric(cross_entropy, terms.own_labels),
        "label_accuracy": Metric(right, terms.own_labels),
        "latent_loss": Metric(latent_loss, terms.own_latents),
    }

    if not model.latent_head.config.deterministic:
        entropy = masked_sum(terms.of_latents(jnp.mean(predicted.entropy(), axis=-1)), batch.latent_mask_BM)
        std = masked_sum(jnp.mean(predicted.std, axis=-1), batch.latent_mask_BM)
        loss += colar.entropy_weight * entropy / terms.all_latents
        metrics |= {"latent_entropy": Metric(entropy, terms.own_latents), "latent_std": Metric(std, own.latents)}

    if colar.predicted_pass_weight:
        fed_BMD = (predicted.sample(noise_BMD) * embed_std).astype(embeds_BSD.dtype)
        second_BSD = told(_feed_predictions(embeds_BSD, fed_BMD, batch))
        # The same keys: LoRA dropout drops the same in both passes.
        second_hidden_BMD = method.supervised_hidden(model, second_BSD, batch, compute, dropout_keys_B)
        answer_ids_BM = jnp.where(method.answer_mask(batch), batch.label_ids_BM, -1)
        second_loss, _ = method.language_loss(model, second_hidden_BMD, answer_ids_BM, compute)
        loss += colar.predicted_pass_weight * second_loss / counts.answers
        metrics["predicted_pass"] = Metric(second_loss, own.answers)
    further, more = colar.further_loss(model, predicted, noise_BMD, batch, counts, compute)
    return loss + further, metrics | more


def with_told(model, embeds_BSD, batch):
    """The batch's embeddings with the numbers that its separators and latents are told."""
    return embeds_BSD + model.speed(batch.speeds_BS, batch.phases_BS).astype(embeds_BSD.dtype)


@dataclasses.dataclass(frozen=True)
class _Terms:
    """What each label and latent counts, and what their sums are divided by: in this part, and in the whole step."""

    label_weights_BM: jax.Array | None  # None: 1 each
    latent_weights_BM: jax.Array | None
    own_labels: jax.Array
    own_latents: jax.Array
    all_labels: jax.Array
    all_latents: jax.Array

    @classmethod
    def of(cls, batch, own: Counts, counts: Counts, weighting: str) -> "_Terms":
        """Of a batch, `own` its counts and `counts` those of the step."""
        if weighting == "position":
            return cls(None, None, own.labels, own.latents, counts.labels, counts.latents)
        examples = own.examples, own.examples, counts.examples, counts.examples
        return cls(batch.label_shares_BM, batch.latent_shares_BM, *examples)

    def of_latents(self, values_BM):
        """Values of the latents, each times what it counts."""
        return values_BM if self.latent_weights_BM is None else self.latent_weights_BM * values_BM


def _feed_predictions(embeds_BSD, fed_BMD, batch):
    """The input of the second pass: every latent position holds what the position before it predicted.

    The last latent prediction is of the closing separator, which is fed as the token it is.
    """
    num_positions = embeds_BSD.shape[1]
    next_is_latent_BM = jnp.pad(batch.latent_mask_BM[:, 1:], ((0, 0), (0, 1)))
    is_fed_BM = batch.latent_mask_BM & next_is_latent_BM
    target_BM = jnp.where(is_fed_BM, batch.supervised_BM + 1, num_positions)  # the others fall off the end
    return jax.vmap(lambda embeds, at, fed: embeds.at[at].set(fed, mode="drop"))(embeds_BSD, target_BM, fed_BMD)


@dataclasses.dataclass(frozen=True)
class Colar(Method):
    """How compressed steps are learned (docs/method.md)."""

    group = "latent"
    trains = ("llama", "latent_head", SPEED)
    has_speed = True

    # One is drawn for each example: of a list such as 1,2,5 (one listed twice, twice as often), or of ranges such as
    # 1..6 or 1..2.3,2.7..6 (uniformly in the logarithm, two decimals; where two overlap, twice as often). Fractions are
    # group lengths that alternate.
    speeds: str = "1,2,3,4,5"
    # How the model is told the speed: text (in the prompt, as published), number (an embedding of its logarithm, added
    # at the opening ###; the prompt says nothing), or both.
    conditioning: str = "text"
    # Whether the groups of a fraction begin anywhere in their pattern, 1.5 as 1, 2, 1, 2 or as 2, 1, 2, 1; a number
    # tells where. Lists said in text alone always begin at the start.
    random_phase: bool = True
    # What rotary positions of latents count: latents (as published), or the tokens of the chain, so that a token has
    # the same place at every speed; each latent is then told as a number how many tokens the next one holds.
    timeline: str = "latents"
    # How often the prompt says "auto" instead of the drawn speed. Then nothing says how long the first group is, and
    # soft_mse learns the mean over all speeds, which is right for none. From the second latent on the input shows it.
    auto_probability: float = 0.0
    loss: str = "soft_mse"  # soft_mse, or nll (for MATH, and before RL)
    weight: float = 1.0  # of the latent loss beside the cross-entropy
    # What weighs the same in the loss: each example, whatever its speed; or each position, so that an example at speed
    # c weighs about 1/c.
    weighting: str = binding("example", before="position")
    entropy_weight: float = 0.0  # added as weight * entropy: negative rewards it; a deterministic head has none
    predicted_pass_weight: float = 0.0  # of the answer's cross-entropy when predictions are fed instead of embeddings
    supervise_steps: bool = True  # ablation OC: False
    pooling: str = "sqrt"  # ablation MP: mean

    def __post_init__(self):
        parse_trained_speeds(f"{self.group}.speeds", self.speeds)
        one_of(f"{self.group}.conditioning", self.conditioning, ("text", "number", "both"))
        one_of(f"{self.group}.timeline", self.timeline, TIMELINES)
        require_decimals(f"{self.group}.speeds", self.speeds, self.timeline)
        require(
            self.timeline == "latents" or (self.conditioning != "text" and not self.auto_probability),
            f"{self.group}.timeline='tokens' has to know the speed of every example as a number: set "
            f"{self.group}.conditioning='number' (or 'both') and {self.group}.auto_probability=0",
        )
        one_of(f"{self.group}.weighting", self.weighting, ("example", "position"))
        require(
            0 <= self.auto_probability <= 1, f"{self.group}.auto_probability={self.auto_probability} is not in [0, 1]"
        )
        one_of(f"{self.group}.loss", self.loss, ("soft_mse", "nll"))
        one_of(f"{self.group}.pooling", self.pooling, ("sqrt", "mean"))
        require(self.weight >= 0, f"{self.group}.weight={self.weight} is negative")
        require(self.predicted_pass_weight >= 0, f"{self.group}.predicted_pass_weight={self.predicted_pass_weight} < 0")

    @property
    def recipe(self) -> Recipe:
        speeds, ranges = parse_trained_speeds(f"{self.group}.speeds", self.speeds)
        return Recipe(
            speeds=speeds,
            ranges=ranges,
            random_phase=self.random_phase,
            conditioning=self.conditioning,
            counts_tokens=self.timeline == "tokens",
            auto_probability=self.auto_probability,
            supervise_latents=True,
            supervise_steps=self.supervise_steps,
            pooling=self.pooling,
        )

    @property
    def modules(self) -> dict[str, OwnModule]:
        """The speed's embedding, where it is told as a number."""
        settings = SpeedEmbeddingConfig(counts_tokens=self.timeline == "tokens")
        module = OwnModule(SpeedEmbedding, settings, save_speed_embedding, load_speed_embedding)
        return {} if self.conditioning == "text" else {SPEED: module}

    @property
    def num_passes(self) -> int:
        return 2 if self.predicted_pass_weight else 1

    def objection(self, model: ModelConfig) -> str:
        if self.loss == "soft_mse" or not model.latent_head.deterministic:
            return ""
        return (
            f"{self.group}.loss={self.loss!r} with model.latent_head.deterministic=True: a head without a standard "
            f"deviation has no likelihood; use {self.group}.loss='soft_mse'"
        )

    def further_loss(self, model, predicted, noise_BMD, batch, counts, compute: Execution):
        """What a method built on this one adds, from the latents that are predicted: a loss and its metrics."""
        return 0.0, {}

    def objective(self, model, batch, keys_B, counts: Counts, compute: Execution):
        return colar_loss(model, batch, keys_B, counts, self, compute)

    def thinking(self, decode: DecodeConfig, separator_id: int, *, greedy: bool) -> Thinking:
        if greedy:
            think = greedy_latent_thinker(separator_id, stops_at_half=decode.greedy_stop == "half")
        else:
            think = latent_thinker(
                separator_id,
                latent_temperature=decode.latent_temperature,
                stop_temperature=decode.stop_temperature,
                stop_odds_temperature=decode.stop_odds_temperature,
                min_std=decode.min_latent_std,
                one_sided=decode.latent_noise == "one_sided",
            )
        return Thinking(think, max_thoughts=decode.max_latents, min_thoughts=decode.min_latents, way="latent_head")
