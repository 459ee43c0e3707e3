"""CoLaR: reason in compressed latent steps (docs/method.md; arXiv 2505.16552, section 3).

    total = cross-entropy + weight * latent + entropy_weight * entropy + predicted_pass_weight * predicted-pass

Each term is a mean over what it supervises: labels, latent positions, answers of the second pass.
"""

import dataclasses

import jax
import jax.numpy as jnp

from colar_jax.data.loader import Recipe
from colar_jax.decoding.thinking import latent_thinker
from colar_jax.losses import gather_positions, gaussian_nll, masked_sum, soft_mse
from colar_jax.methods import method
from colar_jax.methods.method import Counts, Method, Thinking
from colar_jax.metrics import Metric
from colar_jax.model.execution import Execution
from colar_jax.settings import DecodeConfig, ModelConfig, parse_speeds
from colar_jax.settings.checks import one_of, require


def colar_loss(model, batch, keys_B, counts: Counts, latent: "Colar", compute):
    """The CoLaR loss with fresh noise for every row."""
    num_supervised, hidden_size = batch.supervised_BM.shape[1], model.llama.config.hidden_size
    noise_BMD = jax.vmap(lambda key: jax.random.normal(key, (num_supervised, hidden_size)))(keys_B)
    return objective_with_noise(model, batch, noise_BMD, counts, latent, compute, dropout_keys_B=keys_B)


def objective_with_noise(model, batch, noise_BMD, counts: Counts, latent: "Colar", compute, dropout_keys_B=None):
    """The CoLaR loss for a given standard normal draw at each supervised position; no keys: no dropout."""
    own = method.count(batch)
    embeds_BSD = method.embed(model, batch, compute)
    hidden_BMD = method.supervised_hidden(model, embeds_BSD, batch, compute, dropout_keys_B)
    cross_entropy, right = method.language_loss(model, hidden_BMD, batch.label_ids_BM, compute)

    predicted = model.latent_head(hidden_BMD)
    embed_std = model.latent_head.embed_std[...]
    # The target is a constant: no gradient flows into the embeddings through it (as published).
    next_BMD = jax.lax.stop_gradient(gather_positions(embeds_BSD, batch.supervised_BM + 1))
    target_BMD = next_BMD.astype(jnp.float32) / embed_std
    if latent.loss == "nll":
        latent_BM = gaussian_nll(predicted, target_BMD)
    else:
        latent_BM = soft_mse(predicted, target_BMD, noise_BMD)
    latent_loss = masked_sum(latent_BM, batch.latent_mask_BM)
    loss = cross_entropy / counts.labels + latent.weight * latent_loss / counts.latents
    metrics = {
        "cross_entropy": Metric(cross_entropy, own.labels),
        "label_accuracy": Metric(right, own.labels),
        "latent_loss": Metric(latent_loss, own.latents),
    }

    if not model.latent_head.config.deterministic:
        entropy = masked_sum(jnp.mean(predicted.entropy(), axis=-1), batch.latent_mask_BM)
        std = masked_sum(jnp.mean(predicted.std, axis=-1), batch.latent_mask_BM)
        loss += latent.entropy_weight * entropy / counts.latents
        metrics |= {"latent_entropy": Metric(entropy, own.latents), "latent_std": Metric(std, own.latents)}

    if latent.predicted_pass_weight:
        fed_BMD = (predicted.sample(noise_BMD) * embed_std).astype(embeds_BSD.dtype)
        second_BSD = _feed_predictions(embeds_BSD, fed_BMD, batch)
        # The same keys: LoRA dropout drops the same in both passes.
        second_hidden_BMD = method.supervised_hidden(model, second_BSD, batch, compute, dropout_keys_B)
        answer_ids_BM = jnp.where(method.answer_mask(batch), batch.label_ids_BM, -1)
        second_loss, _ = method.language_loss(model, second_hidden_BMD, answer_ids_BM, compute)
        loss += latent.predicted_pass_weight * second_loss / counts.answers
        metrics["predicted_pass"] = Metric(second_loss, own.answers)
    further, more = latent.further_loss(model, predicted, noise_BMD, batch, counts, compute)
    return loss + further, metrics | more


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
    trains = ("llama", "latent_head")
    has_speed = True

    # One is drawn for each example (one listed twice, twice as often); fractions are group lengths that alternate.
    speeds: str = "1,2,3,4,5"
    # How often the prompt says "auto" instead of the drawn speed. Then nothing says how long the first group is, and
    # soft_mse learns the mean over all speeds, which is right for none. From the second latent on the input shows it.
    auto_probability: float = 0.0
    loss: str = "soft_mse"  # soft_mse, or nll (for MATH, and before RL)
    weight: float = 1.0  # of the latent loss beside the cross-entropy
    entropy_weight: float = 0.0  # added as weight * entropy: negative rewards entropy
    predicted_pass_weight: float = 0.0  # of the answer's cross-entropy when predictions are fed instead of embeddings
    supervise_steps: bool = True  # ablation OC: False
    pooling: str = "sqrt"  # ablation MP: mean

    def __post_init__(self):
        speeds = parse_speeds(self.speeds)
        require(
            bool(speeds) and "auto" not in speeds,
            f"latent.speeds={self.speeds!r}: list the numbers to train, as in 1,2,3 (auto has latent.auto_probability)",
        )
        require(0 <= self.auto_probability <= 1, f"latent.auto_probability={self.auto_probability} is not in [0, 1]")
        one_of("latent.loss", self.loss, ("soft_mse", "nll"))
        one_of("latent.pooling", self.pooling, ("sqrt", "mean"))
        require(self.weight >= 0, f"latent.weight={self.weight} is negative")
        require(self.predicted_pass_weight >= 0, f"latent.predicted_pass_weight={self.predicted_pass_weight} < 0")

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            speeds=tuple(float(speed) for speed in parse_speeds(self.speeds)),
            auto_probability=self.auto_probability,
            supervise_latents=True,
            supervise_steps=self.supervise_steps,
            pooling=self.pooling,
        )

    @property
    def num_passes(self) -> int:
        return 2 if self.predicted_pass_weight else 1

    def objection(self, model: ModelConfig) -> str:
        if self.loss == "soft_mse" or not model.latent_head.deterministic:
            return ""
        return (
            f"latent.loss={self.loss!r} with model.latent_head.deterministic=True: a head without a standard deviation "
            "has no likelihood; use latent.loss='soft_mse'"
        )

    def further_loss(self, model, predicted, noise_BMD, batch, counts, compute: Execution):
        """What a method built on this one adds, from the latents that are predicted: a loss and its metrics."""
        return 0.0, {}

    def objective(self, model, batch, keys_B, counts: Counts, compute: Execution):
        return colar_loss(model, batch, keys_B, counts, self, compute)

    def thinking(self, decode: DecodeConfig, separator_id: int, dtype: jnp.dtype, greedy: bool) -> Thinking:
        think = latent_thinker(
            separator_id,
            greedy=greedy,
            latent_temperature=decode.latent_temperature,
            stop_temperature=decode.stop_temperature,
            stop_odds_temperature=decode.stop_odds_temperature,
            min_std=decode.min_latent_std,
            one_sided=decode.latent_noise == "one_sided",
        )
        return Thinking(think, max_thoughts=decode.max_latents, min_thoughts=decode.min_latents, way="latent_head")
