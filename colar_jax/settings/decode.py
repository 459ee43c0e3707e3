"""Settings of decoding, and of the evaluation that decodes."""

import dataclasses

from colar_jax.settings.checks import one_of, parse_positive, parse_speeds, require
from colar_jax.settings.on_resume import observing
from colar_jax.settings.trim import TrimConfig


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    """How a model thinks and answers (docs/method.md, decoding)."""

    max_latents: int = 64  # L_max: 64 for grade school, 128 for MATH
    min_latents: int = 1  # as published: the stop decision is read after the first latent
    # When greedy thinking of CoLaR ends: half (### has a probability of at least one half) or argmax (it is the most
    # probable token, as published). Mixtures of tokens (ruplar, colar_khot, latent_sft) always end at argmax.
    greedy_stop: str = observing("half", before="argmax")
    max_step_tokens: int = 128  # the limit of a chain of thought in words
    max_answer_tokens: int = 16  # the limit of an answer
    latent_temperature: float = 1.0  # scales the latent standard deviation of a sampled decode
    min_latent_std: float = 0.0  # floor of that standard deviation, in embedding scales, as rl.min_std is in rollouts
    latent_noise: str = "two_sided"  # of a sampled latent; one_sided: the size of a normal draw in each dimension
    stop_temperature: float = 1.0  # of the decision to end thinking, and of words in a chain of thought
    stop_odds_temperature: float = 1.0  # of the odds of ending latent thinking; above 1 more lengths are tried
    answer_temperature: float = 1.0  # of the answer's tokens
    top_p: float = 0.9  # of the answer's tokens, and of words in a chain of thought
    # False is how the code behind CoLaR's table evaluates Coconut and CODI: every latent but the first is computed from
    # the one before it alone, without the question. It is for finding out what that costs.
    latents_see_question: bool = True
    # Of a model that has learned by labels to choose its own speed (docs/speed.md): it takes the fastest at which it
    # gives itself at least this probability of being right. 0: where labels are of each speed, the safest one, most
    # often slow; where they are the fastest right speeds, the likeliest label.
    speed_certainty: float = observing(0.0)

    def __post_init__(self):
        one_of("decode.greedy_stop", self.greedy_stop, ("half", "argmax"))
        for field in ("max_latents", "max_step_tokens", "max_answer_tokens"):
            require(getattr(self, field) > 0, f"decode.{field}={getattr(self, field)} must be positive")
        require(
            0 <= self.min_latents <= self.max_latents,
            f"decode.min_latents={self.min_latents} is not between 0 and max_latents={self.max_latents}",
        )
        for field in ("latent_temperature", "stop_temperature", "stop_odds_temperature", "answer_temperature"):
            require(
                getattr(self, field) > 0,
                f"decode.{field}={getattr(self, field)} must be positive; greedy decoding is eval.greedy",
            )
        require(self.min_latent_std >= 0, f"decode.min_latent_std={self.min_latent_std} is negative")
        one_of("decode.latent_noise", self.latent_noise, ("two_sided", "one_sided"))
        require(0 <= self.speed_certainty < 1, f"decode.speed_certainty={self.speed_certainty} is not in [0, 1)")
        require(0 < self.top_p <= 1, f"decode.top_p={self.top_p} is not in (0, 1]")


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """What the final evaluation, and `colar_jax.evaluate`, decodes."""

    speeds: str = ""  # of methods that have one; empty: the trained ones
    greedy: bool = True  # whether every question is decoded greedily, once
    seeds: int = 5  # sampled decodes of every question; 0: none
    batch_size: int = 256  # questions that are decoded at a time
    stages: str = ""  # which stages to evaluate; empty: all of the run
    temperatures: str = ""  # one for latents, stops and answers alike, such as 0.5,1; empty: those of `decode`
    latent_limits: str = ""  # values of decode.max_latents, for methods that read it; empty: that one
    # Values of decode.max_step_tokens, for chains of thought in words: one that is longer is ended there by `###`, and
    # answers (the budget forcing of s1, arXiv 2501.19393). Empty: that one.
    word_budgets: str = ""
    latent_words: int = 3  # nearest words of each latent in samples.jsonl; costs one more decode; 0: none
    causal: bool = False  # test whether answers depend on the latents: six more decodes at every speed
    trim: TrimConfig = dataclasses.field(default_factory=TrimConfig)

    def __post_init__(self):
        parse_speeds(self.speeds, f"eval.speeds={self.speeds!r}")
        parse_positive("eval.temperatures", self.temperatures, float)
        parse_positive("eval.latent_limits", self.latent_limits, int)
        parse_positive("eval.word_budgets", self.word_budgets, int)
        require(self.seeds >= 0, f"eval.seeds={self.seeds} is negative")
        require(self.batch_size > 0, f"eval.batch_size={self.batch_size} must be positive")
        require(self.latent_words >= 0, f"eval.latent_words={self.latent_words} is negative: 0 means none")
        require(self.greedy or self.seeds > 0, "eval.greedy=False and eval.seeds=0 leave nothing to evaluate")
