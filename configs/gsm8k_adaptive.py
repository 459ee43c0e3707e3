"""Adaptive latents on GSM8K-Aug: CODI that chooses when to stop, then rewards for lengths (arXiv 2511.21581).

    python -m colar_jax.train --config=configs/gsm8k_adaptive.py                # "6-by-1", then reinforcement learning
    python -m colar_jax.train --config=configs/gsm8k_adaptive.py:latent_6       # six latents for all, without rewards
    python -m colar_jax.train --config=configs/gsm8k_adaptive.py:smoke          # on embedded problems, tiny

Published, accuracy % / #L on GSM8K (Llama-3.2-1B): "Latent-6" 49.73 / 6, after reinforcement learning 50.11 / 1.76 (it
counts the two tokens around the latents: 8 and 3.76). What differs: adapters keep their rank in reinforcement learning
(theirs has 32 there), both stages have all of the data (85 and 15 % there), and how many questions an iteration asks is
not known here: 8. Training at this learning rate may diverge, its authors say: start it again with another seed. Not
run here: it needs the weights and GSM8K-Aug; score and time are not measured.
"""

from colar_jax.config import config_beside, stage_defaults

_CODI = config_beside(__file__, "gsm8k_codi")
ARGUMENTS = ("", "latent_6", "smoke")


def get_config(argument: str = ""):
    """The stage of supervised learning, and that of rewards; `smoke` needs no network."""
    if argument not in ARGUMENTS:
        raise ValueError(f"configs/gsm8k_adaptive.py knows the arguments latent_6, smoke, not {argument!r}")
    config = _CODI.get_config("smoke" if argument == "smoke" else "")
    config.title = "Adaptive latents on GSM8K-Aug"
    config.workdir = f"runs/gsm8k_adaptive{'_' if argument else ''}{argument}"
    projection_size = config.stages.codi.codi.projection_size
    config.stages = {}
    config.run = "adaptive" if argument == "latent_6" else "adaptive,rl"
    # A row of 512 positions holds 6 problems: batches of 126.
    stage = config.stages.adaptive = stage_defaults(
        method="adaptive", steps=30_000, rows=20, row_positions=512, eval_every=3000
    )
    stage.optimizer.update(learning_rate=8e-4, weight_decay=0.1, clip_norm=2.0, warmup_steps=900)
    stage.adaptive.update(distill_weight=20.0, projection_size=projection_size)
    if argument == "latent_6":
        stage.adaptive.update(num_latents=6, base_latents=6, latents_per_step=0)
    config.decode.update(max_latents=40, min_latents=0)
    if argument != "latent_6":
        rl = config.stages.rl = stage_defaults(
            method="adaptive", trainer="grpo", init_from="adaptive", steps=60_000, eval_every=3000, log_every=20
        )
        rl.optimizer.update(learning_rate=1e-5, weight_decay=0.0, schedule="constant")
        rl.adaptive.update(stage.adaptive)
        # Right answers are worth 1, those without a number -1; only what is always right is made shorter.
        rl.rl.update(num_questions=8, num_generations=16, minibatch_size=128, beta=1e-3)
        rl.rl.update(reward="correctness,well_formed", length_credit="when_solved", length_weight=0.5)
    if argument == "smoke":
        config.decode.max_latents = 8
        stage.update(steps=4, rows=2, eval_every=2, log_every=2)
        stage.optimizer.warmup_steps = 2
        rl.update(steps=2, eval_every=2, log_every=1)
        rl.rl.update(num_questions=4, num_generations=4, minibatch_size=8, stop_on_collapse=False)
    return config
