"""The paper's reinforcement learning: GRPO after the CoT and CoLaR stages of configs/math_colar.py.

    python -m colar_jax.train --config=configs/math_rl.py                   # DeepSeek-R1-Distill-Qwen-1.5B
    python -m colar_jax.train --config=configs/math_rl.py:llama             # Llama-3.2-1B-Instruct
    python -m colar_jax.train --config=configs/math_rl.py:no_averaging      # after the first: the paper's ablation
    python -m colar_jax.train --config=configs/math_rl.py:llama_no_averaging
    python -m colar_jax.train --config=configs/math_rl.py:smoke             # on embedded problems, tiny

Published, accuracy % / #L (Qwen | Llama): NLL 8.94 / 56.8 | 5.28 / 83.1; with RL 14.3 / 9.79 | 7.08 / 16.1; RL without
averaging over a chain's latents 13.8 / 128 | 0.00 / 128. Not run here: it needs the weights and MATH.
"""

from colar_jax.config import config_beside, stage_defaults

# Arguments that leave averaging out, and whose base they take.
WITHOUT_AVERAGING = {"no_averaging": "", "llama_no_averaging": "llama"}
_COLAR = config_beside(__file__, "math_colar")


def get_config(argument: str = ""):
    """configs/math_colar.py, whose arguments it takes, with one more stage; or that stage without averaging."""
    if argument not in (*_COLAR.BASES, "smoke", *WITHOUT_AVERAGING):
        known = ", ".join(("llama", "smoke", *WITHOUT_AVERAGING))
        raise ValueError(f"configs/math_rl.py knows the arguments {known}, not {argument!r}")
    averages = argument not in WITHOUT_AVERAGING
    argument = WITHOUT_AVERAGING.get(argument, argument)
    config = _COLAR.get_config(argument)
    config.title = "GRPO on CoLaR, MATH"
    config.workdir = config.workdir.replace("colar", "rl")
    config.run = "cot,colar,rl"

    # 512 questions an epoch, 8 at a time with 8 rollouts each; an update on every 8 rollouts, once; no KL divergence.
    config.stages.rl = stage_defaults(method="colar", trainer="grpo", epochs=10.0, eval_every=64, log_every=8)
    config.stages.rl.optimizer.update(learning_rate=1e-6, weight_decay=0.01, clip_norm=1.0, schedule="constant")
    config.stages.rl.latent.update(speeds="2")
    config.stages.rl.rl.update(
        num_questions=8,
        questions_per_epoch=512,
        num_generations=8,
        minibatch_size=8,
        epsilon=0.2,
        epsilon_high=0.2,
        loss_aggregation="chain_mean",  # the paper's averaging
        min_std=0.0,  # the likelihood has given the latents a standard deviation, as in the paper
        # These three as in the published code (docs/rl.md).
        latent_ratio="reduced",
        stop_credit="answer",
        credit_forced_stops=True,
    )

    if not averages:
        config.stages.rl.init_from = f"{config.workdir}/colar"
        config.workdir += "_no_averaging"
        config.run = "rl"
        # As published: a chain's sum over 32.
        config.stages.rl.rl.update(loss_aggregation="configured_length", configured_length=32, stop_on_collapse=False)
    if argument == "smoke":
        config.stages.rl.update(steps=4, eval_every=2, log_every=2)
        config.stages.rl.optimizer.warmup_steps = 2
        config.stages.rl.rl.update(num_questions=4, num_generations=4, minibatch_size=4)
    return config
