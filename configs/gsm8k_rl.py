"""Reinforcement learning on a grade-school model: GRPO from the CoLaR stage of configs/gsm8k_colar.py.

    python -m colar_jax.train --config=configs/gsm8k_rl.py --config.stages.rl.init_from=runs/gsm8k_colar/colar
    python -m colar_jax.train --config=configs/gsm8k_rl.py:smoke      # CoLaR and RL on embedded problems, tiny

The paper reports RL on MATH only; these are its settings (configs/math_rl.py) with the limits of grade school. What is
different here: the grade-school model is trained by soft MSE, which leaves its latents next to no standard deviation,
so the policy has a floor (docs/rl.md). Nobody has measured this config on the real model yet.
"""

from colar_jax.config import defaults, stage_defaults


def get_config(argument: str = ""):
    """The run; `smoke` is tiny and needs no network."""
    config = defaults()
    config.title = "GRPO on CoLaR, GSM8K-Aug"
    config.workdir = "runs/gsm8k_rl"
    config.run = "rl"

    config.data.train = "hub:gsm8k_aug"
    config.data.val = "hub:gsm8k_aug"
    config.data.test = "gsm8k=hub:gsm8k_aug; gsmhard=hub:gsmhard; svamp=hub:svamp; multiarith=hub:multiarith"
    config.data.tokenizer = "meta-llama/Llama-3.2-1B-Instruct"
    config.data.num_val = 500

    config.model.preset = "llama-3.2-1b"
    config.model.dtype = "bfloat16"
    config.model.remat = "dots"

    # 512 questions an epoch, 8 at a time with 8 rollouts each; an update on every 8 rollouts, once.
    config.stages.rl = stage_defaults(
        method="colar",
        trainer="grpo",
        init_from="runs/gsm8k_colar/colar",
        epochs=10.0,
        eval_every=64,
        log_every=8,
    )
    config.stages.rl.optimizer.update(learning_rate=1e-6, weight_decay=0.01, clip_norm=1.0, schedule="constant")
    config.stages.rl.latent.update(speeds="2")
    config.stages.rl.rl.update(
        num_questions=8,
        questions_per_epoch=512,
        num_generations=8,
        minibatch_size=8,
        min_std=0.2,  # soft MSE leaves e^-6 or so
    )

    config.decode.max_latents = 64
    config.eval.speeds = "2"
    config.eval.seeds = 5

    if argument == "smoke":
        config.workdir = "runs/gsm8k_rl_smoke"
        config.run = "colar,rl"
        config.data.update(train="arithmetic", val="", test="", tokenizer="embedded:arithmetic")
        config.data.update(train_limit=300, num_val=16, num_test=16)
        config.model.update(preset="pico", dtype="float32", remat="none")
        config.decode.update(max_latents=8)
        config.eval.update(seeds=1)
        config.stages.colar = stage_defaults(method="colar", steps=4, rows=2, log_every=2)
        config.stages.colar.latent.speeds = "2"
        config.stages.rl.update(init_from="colar", steps=4, eval_every=2, log_every=2)
        config.stages.rl.rl.update(num_questions=4, num_generations=4, minibatch_size=4)
    elif argument:
        raise ValueError(f"configs/gsm8k_rl.py knows the argument smoke, not {argument!r}")
    return config
