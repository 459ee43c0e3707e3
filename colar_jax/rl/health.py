"""Alarms of reinforcement learning: what is warned of, what ends the run, and what to do about it."""

import dataclasses
import logging
import math

from colar_jax.config import RlConfig
from colar_jax.errors import UserError
from colar_jax.training.stage import LastIteration

logger = logging.getLogger(__name__)

# A term (a latent as a whole) whose |log ratio| is above this has left its rollout. With the settings of
# configs/arithmetic.py:rl terms move by 0.1 to 0.2 in the mean.
LOST_LOG_RATIO = 2.0
# Share of an iteration's last terms, from which on the policy has left its rollouts. A share, not the mean: a few
# latents that move by hundreds of nats are no collapse, and nothing comes of them, since they are clipped.
_MOSTLY_LOST = 0.5
# Between decoder and update. An answer token at the edge of the nucleus may be inside for one of the two only, which
# bfloat16 makes common: 0.12 on a healthy model (docs/rl_results.md).
_GAPS = {
    "float32": {"latent": 1e-3, "decision": 1e-3, "answer": 1e-3, "choice": 1e-3},
    "bfloat16": {"latent": 0.1, "decision": 0.1, "answer": 1.0, "choice": 0.1},
}
_ALARM_EVERY = 20  # iterations between two warnings of one kind
_MEMORY = 0.9  # of the running accuracy
_SETTLED = 20  # iterations before the running accuracy says anything
_MOSTLY_BOUND = 0.5  # of the standard deviations, from which on they count as bound
_COLLAPSED = 0.5  # of the best running accuracy
_BEYOND_CHANCE = 2.0  # standard deviations that it has to be below that


class Collapsed(LastIteration):
    """The policy has fallen apart; the last checkpoint is untouched."""


@dataclasses.dataclass
class Health:
    """Looks at each iteration's values; `memory` is what it needs to go on."""

    stage: str
    config: RlConfig
    min_latents: int
    dtype: str
    in_words: bool = False  # whether chains are words
    iterations: int = 0
    accuracy: float = 0.0  # a running mean
    best: float = 0.0
    warned: dict[str, int] = dataclasses.field(default_factory=dict)
    entropy_works: bool = False  # has been looked at

    def look(self, step: int, values: dict[str, float]) -> None:
        """Warn, or raise.

        Raises:
            Collapsed: ratios exploded, or accuracy fell below half of its best, unless `rl.stop_on_collapse` is False.
            UserError: `rl.entropy_weight` does nothing, which the first update shows.
        """
        self.iterations += 1
        self._follow_accuracy(values["accuracy"])
        alarms = self._alarms(values)
        if collapse := self._collapse(values):
            if self.config.stop_on_collapse:
                raise Collapsed(
                    f"stage {self.stage}, iteration {step}: {collapse}. The last checkpoint is untouched; other "
                    "settings start in a workdir of their own. rl.stop_on_collapse=False goes on in this one"
                )
            alarms["collapse"] = collapse
        else:
            self._refuse_an_idle_bonus(values)
        for alarm, text in alarms.items():
            if step - self.warned.get(alarm, -_ALARM_EVERY) >= _ALARM_EVERY:
                self.warned[alarm] = step
                logger.warning("stage %s, iteration %d: %s", self.stage, step, text)

    def memory(self) -> dict:
        """JSON that `recall` takes."""
        names = ("iterations", "accuracy", "best", "warned", "entropy_works")
        return {name: getattr(self, name) for name in names}

    def recall(self, memory: dict) -> None:
        """Go on from what `memory` returned."""
        for name, value in {"entropy_works": True, **memory}.items():  # a run is not refused in its middle
            setattr(self, name, value)

    def _follow_accuracy(self, accuracy: float) -> None:
        first = self.iterations == 1
        self.accuracy = accuracy if first else _MEMORY * self.accuracy + (1 - _MEMORY) * accuracy
        if self.iterations >= _SETTLED:
            self.best = max(self.best, self.accuracy)

    def _refuse_an_idle_bonus(self, values: dict[str, float]) -> None:
        """Where a bound binds the standard deviation is the bound, whatever the model predicts: no bonus moves it."""
        at_bound = values.get("latent_std_at_bound")
        if not self.config.entropy_weight or self.entropy_works or at_bound is None:
            return
        if at_bound > _MOSTLY_BOUND:
            floor = self.config.min_std
            by = f"the floor rl.min_std={floor}" if floor else "a bound of the head (model.latent_head.min_log_std)"
            raise UserError(
                f"stages.{self.stage}.rl.entropy_weight={self.config.entropy_weight} does nothing: {by} binds at "
                f"{at_bound:.0%} of the latents' standard deviations (in the mean the model predicts "
                f"{values.get('latent_std', 0):.2g}), and there is no gradient there. Set rl.entropy_weight=0, or "
                f"{'a smaller rl.min_std' if floor else 'rl.min_std=0.2'}; or start from a model that has a spread "
                "(latent.loss='nll', or latent.entropy_weight below 0)"
            )
        self.entropy_works = True

    def _alarms(self, values: dict[str, float]) -> dict[str, str]:
        alarms = {}
        if values["length"] < max(1, self.min_latents) + 0.05:
            alarms["short"] = (
                f"chains have {values['length']:.2f} {'tokens' if self.in_words else 'latents'}, the least there can "
                "be: look at val/accuracy, and lower rl.length_penalty"
                f"{'' if self.in_words else ', or rl.decision_weight,'} if it falls"
            )
        if values["forced_stops"] > 0.9:
            alarms["long"] = (
                f"{values['forced_stops']:.0%} of the chains run into decode."
                f"{'max_step_tokens' if self.in_words else 'max_latents'}: raise the limit, or "
                "have right answers lose by their length (rl.length_penalty)"
            )
        if values["zero_variance"] > 0.95:
            alarms["variance"] = (
                f"{values['zero_variance']:.0%} of the groups have one reward only, and teach nothing: other "
                "questions, more generations or a higher temperature are needed"
            )
        if self.config.latent_ratio == "reduced" and values.get("log_ratio/latent", 0.0) > LOST_LOG_RATIO:
            alarms["unclipped"] = (
                f"a latent's density changed by a factor of e^{values['log_ratio/latent']:.3g} in the mean within one "
                "iteration, which the ratio of means over dimensions hardly shows: rl.latent_ratio='whole' clips it"
            )
        gaps = {kind: values.get(f"gap/{kind}", 0.0) for kind in _GAPS[self.dtype]}
        if wide := [f"{kind} {gap:.2g}" for kind, gap in gaps.items() if gap > _GAPS[self.dtype][kind]]:
            alarms["gap"] = (
                f"log-probabilities of the decoder and of the update differ ({', '.join(wide)}) at unchanged "
                "parameters: they are not of one policy"
            )
        if values.get("latent_std_at_bound", 0.0) > _MOSTLY_BOUND and not self.config.min_std:
            alarms["std"] = (
                f"{values['latent_std_at_bound']:.0%} of the latents' standard deviations are at a bound of the head: "
                "a model trained by soft_mse has none to speak of. Set rl.min_std=0.2, or train with latent.loss='nll' "
                "or an entropy term before"
            )
        return alarms

    def _collapse(self, values: dict[str, float]) -> str:
        # What is clipped is what tells: with reduced ratios the whole ones are an alarm.
        of_latents = "latent" if self.config.latent_ratio == "whole" else "latent_reduced"
        lost, kind = max(
            (values.get(f"lost/{kind}", 0.0), kind) for kind in (of_latents, "decision", "answer", "choice")
        )
        explode = (
            f"ratios explode: within one iteration {lost:.0%} of the {kind} terms moved by more than "
            f"{LOST_LOG_RATIO:g} nats, in the mean by {values.get(f'log_ratio/{kind}', 0.0):.3g}"
        )
        floor = "raise rl.min_std, " if "latent_entropy" in values else ""  # of Gaussian latents
        if lost > _MOSTLY_LOST and not floor:
            return f"{explode}: lower optimizer.learning_rate, or hold the policy with rl.beta"
        if lost > _MOSTLY_LOST:
            return (
                f"{explode} (latent std {values.get('latent_std', 0):.3g}). Where the standard deviation is small "
                "every step leaves the policy that sampled: raise rl.min_std (0.2 of the embedding scale is stable), "
                "or lower optimizer.learning_rate"
            )
        # Where solved questions are not asked again, accuracy falls because of what is asked.
        is_comparable = self.iterations > _SETTLED and not self.config.skip_solved
        if is_comparable and self.accuracy < _COLLAPSED * self.best - _BEYOND_CHANCE * self._chance():
            return (
                f"the accuracy of rollouts fell from {self.best:.1%} to {self.accuracy:.1%} (running means; #L is "
                f"{values['length']:.1f}): {floor}lower optimizer.learning_rate, or hold the policy with rl.beta"
            )
        return ""

    def _chance(self) -> float:
        """How far the running accuracy strays by chance: its standard deviation where a group is right or wrong as one.

        Its best is the best of many, so that of few and hard questions it is far above what the policy ever was.
        """
        of_iteration = self.best * (1 - self.best) / self.config.num_questions
        return math.sqrt(of_iteration * (1 - _MEMORY) / (1 + _MEMORY))
