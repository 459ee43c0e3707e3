"""Settings of reinforcement learning."""

import dataclasses

from colar_jax.settings.checks import one_of, require
from colar_jax.settings.on_resume import adjustable, execution, observing


@dataclasses.dataclass(frozen=True)
class RlConfig:
    """Reinforcement learning of a stage whose trainer is "grpo" (docs/rl.md); a step of the stage is an iteration."""

    num_questions: int = adjustable(8)  # asked in one iteration
    questions_per_epoch: int = adjustable(512)  # questions in one of `stage.epochs`; 0: all training questions
    num_generations: int = 8  # G, rollouts of a question: a group
    speeds_per_group: int = 1  # different prompts in a group, each with a speed drawn from latent.speeds
    rollout_questions: int = execution(0)  # decoded at a time; the host judges meanwhile; 0: all at once
    minibatch_size: int = adjustable(8)  # rollouts in one optimizer step, in whole groups
    num_iterations: int = 1  # passes over the rollouts of an iteration
    advantage: str = "group"  # (reward - mean) / std of the group; dr_grpo: no division; or a name of `rl.credit`
    advantage_eps: float = 1e-8  # added to the std
    epsilon: float = 0.2  # ratios are clipped at 1 - epsilon
    epsilon_high: float = 0.2  # and at 1 + epsilon_high: larger than epsilon is DAPO's clip-higher
    loss_aggregation: str = "chain_mean"  # each chain its mean (the paper); configured_length; token (`rl.credit`)
    configured_length: int = 32  # what a chain's sum is divided by in "configured_length"
    # Weights of the three kinds of actions. A latent's log-probability is a mean over dimensions, which is small.
    latent_weight: float = 1.0
    decision_weight: float = 1.0  # to stop or to go on
    answer_weight: float = 1.0  # of each of the answer's tokens
    beta: float = 0.0  # of the KL divergence to the stage's first policy; the paper has none
    # Of the latents' entropy, as a bonus. No gradient where `min_std` binds: there the standard deviation is the floor.
    entropy_weight: float = 0.0
    log_prob_reduction: str = "mean"  # over a latent's dimensions: mean (the paper) or sum
    min_std: float = 0.2  # floor of the latents' standard deviation, in embedding scales; 0: none, as published
    stop_odds_temperature: float = 1.0  # of the odds of ending thinking; above 1 rollouts try other lengths
    # Names of `rl.credit.REWARDS` or package.module:function, with commas and weights: "correctness,0.1*brevity".
    reward: str = "correctness"
    length_penalty: float = 0.0  # share of a right answer's reward that a chain of decode.max_latents loses
    skip_solved: bool = False  # do not ask a question again once a whole group got it right
    stop_on_collapse: bool = observing(True)  # False: a collapse is a warning; for ablations that show one

    def __post_init__(self):
        for field in ("num_questions", "num_generations", "minibatch_size", "num_iterations", "configured_length"):
            require(getattr(self, field) > 0, f"rl.{field}={getattr(self, field)} must be positive")
        require(self.num_generations > 1, "rl.num_generations=1: a group of one has no advantage; take at least 2")
        for field in ("questions_per_epoch", "rollout_questions"):
            require(getattr(self, field) >= 0, f"rl.{field}={getattr(self, field)} is negative")
        weights = ("latent_weight", "decision_weight", "answer_weight", "entropy_weight")
        for field in (*weights, "beta", "min_std", "advantage_eps", "length_penalty"):
            require(getattr(self, field) >= 0, f"rl.{field}={getattr(self, field)} is negative")
        require(
            self.length_penalty <= 1,
            f"rl.length_penalty={self.length_penalty} is above 1: the reward of a right answer would be negative",
        )
        require(
            self.stop_odds_temperature > 0, f"rl.stop_odds_temperature={self.stop_odds_temperature} must be positive"
        )
        require(0 < self.epsilon < 1, f"rl.epsilon={self.epsilon} is not between 0 and 1")
        require(self.epsilon_high > 0, f"rl.epsilon_high={self.epsilon_high} must be positive")
        one_of("rl.log_prob_reduction", self.log_prob_reduction, ("mean", "sum"))
        require(
            self.speeds_per_group >= 1 and self.num_generations % self.speeds_per_group == 0,
            f"rl.speeds_per_group={self.speeds_per_group} does not divide rl.num_generations={self.num_generations}",
        )
        require(
            self.minibatch_size % self.num_generations == 0,
            f"rl.minibatch_size={self.minibatch_size} is no multiple of rl.num_generations={self.num_generations}: a "
            "minibatch has whole groups",
        )
