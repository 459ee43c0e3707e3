"""Reinforcement learning on a grade-school model: GRPO after the CoT and CoLaR stages of configs/gsm8k_colar.py.

    python -m colar_jax.train --config=configs/gsm8k_rl.py --config.run=rl \\
      --config.stages.rl.init_from=runs/gsm8k_colar/colar
    python -m colar_jax.train --config=configs/gsm8k_rl.py                  # all three stages
    python -m colar_jax.train --config=configs/gsm8k_rl.py:smoke            # on embedded problems, tiny

The paper reports RL on MATH only; these are its settings (configs/math_rl.py) with the limits and the speeds of grade
school. What is different here: the grade-school model is trained by soft MSE, which leaves its latents next to no
standard deviation, so the policy has a floor, and its latents are clipped by their whole density; and to go on and to
stop are actions of their own (docs/rl.md). Nobody has measured this config on the real model yet.
"""

from colar_jax.config import config_beside

_COLAR, _MATH_RL = config_beside(__file__, "gsm8k_colar"), config_beside(__file__, "math_rl")


def get_config(argument: str = ""):
    """configs/gsm8k_colar.py, whose arguments it takes, with the last stage of configs/math_rl.py."""
    config = _COLAR.get_config(argument)
    config.title = "GRPO on CoLaR, GSM8K-Aug"
    config.workdir = config.workdir.replace("colar", "rl")
    config.run = "cot,colar,rl"
    config.stages.rl = _MATH_RL.get_config("smoke" if argument == "smoke" else "").stages.rl
    config.stages.rl.latent.speeds = config.stages.colar.latent.speeds  # MATH has one only
    config.stages.rl.rl.min_std = 0.2  # soft MSE leaves e^-6 or so
    config.stages.rl.rl.update(latent_ratio="whole", stop_credit="decision", credit_forced_stops=False)
    if argument == "tiny":
        config.stages.rl.steps = 2
    return config
