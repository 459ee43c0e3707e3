"""Settings of reinforcement learning."""

import dataclasses

from colar_jax.settings.checks import one_of, require
from colar_jax.settings.on_resume import adjustable, binding, execution, observing

_CHOICES = {
    "log_prob_reduction": ("mean", "root", "sum"),
    "latent_ratio": ("whole", "reduced"),
    "minibatches": ("even", "filled"),
    "centre": ("prompt", "group"),
    "stop_credit": ("decision", "answer"),
    "overlong": ("count", "no_advantage", "left_out"),
    "first_latent": ("all", "best", "best_response"),
    "noise": ("two_sided", "one_sided"),
}


@dataclasses.dataclass(frozen=True)
class RlConfig:
    """Reinforcement learning of a stage whose trainer is "grpo" (docs/rl.md); a step of the stage is an iteration."""

    num_questions: int = adjustable(8)  # asked in one iteration
    questions_per_epoch: int = adjustable(512)  # questions in one of `stage.epochs`; 0: all training questions
    num_generations: int = 8  # G, rollouts of a question: a group
    speeds_per_group: int = 1  # different prompts in a group, each with a speed drawn from latent.speeds
    rollout_questions: int = execution(0)  # decoded at a time; the host judges meanwhile; 0: all at once
    redraws: int = 0  # how often an iteration may ask more questions, until rl.num_questions groups teach something
    minibatch_size: int = adjustable(8)  # rollouts in one optimizer step, in whole groups
    # even: as many groups in each minibatch, and a group counts the same in all; filled: the last has what is left.
    minibatches: str = binding("even", before="filled")
    num_iterations: int = 1  # passes over the rollouts of an iteration
    advantage: str = "group"  # (reward - mean) / std of the group; dr_grpo: no division; package.module:function
    advantage_eps: float = 1e-8  # added to the std
    # Whose mean reward is subtracted: prompt, of the rollouts of one prompt; group, of all. The std is of the group.
    centre: str = binding("prompt", before="group")
    epsilon: float = 0.2  # ratios are clipped at 1 - epsilon
    epsilon_high: float = 0.2  # and at 1 + epsilon_high: larger than epsilon is DAPO's clip-higher
    dual_clip: float = 0.0  # ratios of bad actions count no more than this, such as 3 (arXiv 1912.09729); 0: no limit
    # What of a latent is clipped: whole, the ratio of its densities; reduced, of `log_prob_reduction` (as published).
    latent_ratio: str = binding("whole", before="reduced")
    # chain_mean: each chain its mean (the paper); configured_length; token; or package.module:function (docs/rl.md).
    loss_aggregation: str = "chain_mean"
    configured_length: int = 32  # what a chain's sum is divided by in "configured_length"
    # Weights of the three kinds of actions. A latent's log-probability is a mean over dimensions, which is small.
    latent_weight: float = 1.0
    decision_weight: float = 1.0  # to stop or to go on; with stop_credit=answer a stop has answer_weight
    answer_weight: float = 1.0  # of each of the answer's tokens
    choice_weight: float = 1.0  # of the speed that the model chooses, where it does: one action a rollout
    # Of that choice's entropy, as a bonus: without one a choice is certain before a weight has found the budget.
    choice_entropy_weight: float = 0.0
    beta: float = 0.0  # of the KL divergence to the stage's first policy; the paper has none
    # Of the latents' entropy, as a bonus. No gradient where `min_std` binds: there the standard deviation is the floor.
    entropy_weight: float = 0.0
    log_prob_reduction: str = "mean"  # over a latent's dimensions: mean (the paper), sum, root: sum / sqrt(dimensions)
    # decision: to go on and to stop are actions; answer: `###` is the first of the answer's tokens, as published.
    stop_credit: str = "decision"
    credit_forced_stops: bool = False  # whether the end of a chain cut at the limit counts as a stop, as published
    overlong: str = "count"  # chains cut at the limit: count; no_advantage; left_out (of the group's mean and std, too)
    # Whose first latents learn: all; best: of the good rollouts that with the likeliest latents; best_response: of the
    # good ones that with the likeliest latents and answer.
    first_latent: str = "all"
    min_std: float = 0.2  # floor of the latents' standard deviation, in embedding scales; 0: none, as published
    rollout_dropout: bool = False  # the adapters' dropout is on: one mask a rollout, and the same in its updates
    noise: str = "two_sided"  # of latents; one_sided: the size of a normal draw, so that latents lie above the mean
    stop_odds_temperature: float = 1.0  # of the odds of ending thinking; above 1 rollouts try other lengths
    final_min_std: float = 0.0  # the floor moves evenly to this one until the stage's last iteration; 0: it stays
    final_stop_odds_temperature: float = 0.0  # and the temperature of those odds to this one; 0: it stays
    final_max_latents: int = 0  # and the limit, from decode.max_latents, to this one; 0: it stays
    # correctness, brevity, well_formed, or package.module:function, with commas and weights: "correctness,0.1*brevity".
    reward: str = "correctness"
    length_penalty: float = 0.0  # share of a right answer's reward that a chain of decode.max_latents loses
    length_credit: str = "none"  # how short chains are paid: penalty, cost, among_right, when_solved (`rl.lengths`)
    length_weight: float = 0.5  # of that; with rl.budget where its weight starts
    length_target: float = 0.9  # accuracy of a group from which on length counts in full, for those that read it
    # A wanted mean #L, of `cost` mean forward passes: the weight rises while there are more, and falls; 0: it stays.
    budget: float = 0.0
    budget_rate: float = 0.05  # how far the weight moves in an iteration that spends twice as much as wanted
    length_price: float = 0.0  # what val/reward takes off a right answer of decode.max_latents: chooses the checkpoint
    skip_solved: bool = False  # do not ask a question again once a whole group got it right
    stop_on_collapse: bool = observing(True)  # False: a collapse is a warning; for ablations that show one

    def __post_init__(self):
        for field in ("num_questions", "num_generations", "minibatch_size", "num_iterations", "configured_length"):
            require(getattr(self, field) > 0, f"rl.{field}={getattr(self, field)} must be positive")
        require(self.num_generations > 1, "rl.num_generations=1: a group of one has no advantage; take at least 2")
        for field in ("questions_per_epoch", "rollout_questions", "redraws", "final_max_latents"):
            require(getattr(self, field) >= 0, f"rl.{field}={getattr(self, field)} is negative")
        weights = ("latent_weight", "decision_weight", "answer_weight", "choice_weight")
        entropies = ("entropy_weight", "choice_entropy_weight")
        lengths = ("length_weight", "budget", "budget_rate", "length_price")
        finals = ("final_min_std", "final_stop_odds_temperature")
        for field in (*weights, *entropies, "beta", "min_std", "advantage_eps", "length_penalty", *lengths, *finals):
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
        for field, choices in _CHOICES.items():
            one_of(f"rl.{field}", getattr(self, field), choices)
        self._check_lengths()
        require(
            self.speeds_per_group >= 1 and self.num_generations % self.speeds_per_group == 0,
            f"rl.speeds_per_group={self.speeds_per_group} does not divide rl.num_generations={self.num_generations}",
        )
        require(
            self.minibatch_size % self.num_generations == 0,
            f"rl.minibatch_size={self.minibatch_size} is no multiple of rl.num_generations={self.num_generations}: a "
            "minibatch has whole groups",
        )
        require(
            self.centre == "group" or self.rollouts_per_prompt > 1,
            f"rl.speeds_per_group={self.speeds_per_group} leaves one rollout a prompt, which rl.centre='prompt' has "
            "nothing to compare with: take fewer, or rl.centre='group'",
        )
        require(
            self.overlong != "left_out" or self.speeds_per_group == 1,
            f"rl.overlong='left_out' needs groups of one prompt, and rl.speeds_per_group={self.speeds_per_group}: take "
            "rl.overlong='no_advantage'",
        )

    @property
    def rollouts_per_prompt(self) -> int:
        """How many rollouts of a group are of one prompt."""
        return self.num_generations // self.speeds_per_group

    @property
    def prompts_to_centre(self) -> int:
        """Into how many parts of equal size a group falls, each with a mean reward of its own."""
        return self.speeds_per_group if self.centre == "prompt" else 1

    def _check_lengths(self) -> None:
        require(0 < self.length_target <= 1, f"rl.length_target={self.length_target} is an accuracy: not in (0, 1]")
        require(
            not self.budget or self.length_credit != "none",
            f"rl.budget={self.budget} with rl.length_credit='none': name how short chains are paid, such as penalty",
        )
        require(
            self.dual_clip == 0 or self.dual_clip > 1 + self.epsilon_high,
            f"rl.dual_clip={self.dual_clip} is not above 1 + rl.epsilon_high: 3 is usual, 0 means none",
        )
