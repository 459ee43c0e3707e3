"""Latent-GRPO on GSM8K-Aug: reinforcement learning whose latents are drawn mixtures of tokens (arXiv 2604.27998).

    python -m colar_jax.train --config=configs/gsm8k_latent_grpo.py             # Latent-SFT, then its rewards
    python -m colar_jax.train --config=configs/gsm8k_latent_grpo.py --config.run=rl \\
      --config.stages.rl.init_from=runs/gsm8k_latent_sft/latent_sft             # from a Latent-SFT that is there
    python -m colar_jax.train --config=configs/gsm8k_latent_grpo.py:words       # the same rewards of a chain in words
    python -m colar_jax.train --config=configs/gsm8k_latent_grpo.py:smoke       # on embedded problems, tiny

Published, mean of four sets / length (Llama-1B): 50.5 -> 58.3 / 21, in words 58.0 / 94 (docs/ledger.md). What differs
from their code: latents and answers have a mean each, and these are added, where theirs is one mean over both; an
iteration asks for more questions up to ten times, theirs without end; adapters are trained, and how many questions
their epochs have is not known here: as many as GSM8K's training set. Not run here: it needs the weights and GSM8K-Aug;
score and time are not measured.
"""

from colar_jax.config import config_beside, stage_defaults

_LATENT_SFT = config_beside(__file__, "gsm8k_latent_sft")
_COT = config_beside(__file__, "gsm8k_cot")


def get_config(argument: str = ""):
    """configs/gsm8k_latent_sft.py, or a chain of thought, and reinforcement learning from it."""
    if argument not in ("", "words", "smoke"):
        raise ValueError(f"configs/gsm8k_latent_grpo.py knows the arguments words, smoke, not {argument!r}")
    if argument == "words":
        return _in_words()
    config = _LATENT_SFT.get_config(argument)
    config.title = "Latent-GRPO on GSM8K-Aug"
    config.workdir = config.workdir.replace("latent_sft", "latent_grpo")
    config.run = "latent_sft,rl"
    stage = config.stages.rl = _rewarded("latent_sft")
    stage.latent_sft.update(config.stages.latent_sft.latent_sft)
    # Noise on scores that only lifts them; of the good rollouts one first latent wins.
    stage.rl.update(noise="one_sided", first_latent="best_response")
    # Ratios of means over the ten scores of a latent.
    stage.rl.update(latent_ratio="reduced", log_prob_reduction="mean")
    if argument == "smoke":
        stage.update(steps=2, eval_every=2, log_every=1)
        stage.rl.update(num_questions=4, num_generations=4, minibatch_size=8, redraws=1, stop_on_collapse=False)
    return config


def _rewarded(method: str):
    """A stage of rewards, from the one that is called as its method."""
    stage = stage_defaults(method=method, trainer="grpo", init_from=method, epochs=10.0, eval_every=50, log_every=5)
    stage.optimizer.update(learning_rate=1e-6, weight_decay=0.01, schedule="constant")
    # 64 groups of 8 that teach something, in updates of 16 prompts.
    stage.rl.update(num_questions=64, num_generations=8, minibatch_size=128, redraws=10, questions_per_epoch=7473)
    stage.rl.update(advantage="group", advantage_eps=1e-6, loss_aggregation="token", epsilon=0.2, epsilon_high=0.2)
    # What was cut has no advantage.
    stage.rl.update(overlong="no_advantage", dual_clip=3.0, beta=0.0)
    return stage


def _in_words():
    """Their explicit row: the same rewards, of as many tokens as their rollouts may have, from a chain of thought."""
    config = _COT.get_config()
    config.title = "GRPO of chains of thought on GSM8K-Aug"
    config.workdir = "runs/gsm8k_latent_grpo_words"
    config.run = "cot,rl"
    config.stages.rl = _rewarded("cot")
    config.decode.update(max_step_tokens=128, stop_temperature=0.6, answer_temperature=0.6, top_p=0.95)
    return config
