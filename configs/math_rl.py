"""The paper's reinforcement learning: CoT, CoLaR by likelihood (c = 2), then GRPO, on MATH with at most 128 latents.

    python -m colar_jax.train --config=configs/math_rl.py --config.data.train=math.jsonl --config.data.test=test.jsonl
    python -m colar_jax.train --config=configs/math_rl.py:smoke      # on embedded problems, tiny

Paper (DeepSeek-R1-Distill-Qwen-1.5B | Llama-3.2-1B): NLL 8.94 / 56.8 | 5.28 / 83.1; with RL 14.3 / 9.79 | 7.08 / 16.1;
RL without averaging over a chain's latents 13.8 / 128 | 0.00 / 128. The model starts from random weights here unless it
is given others. Answers in LaTeX are compared as text (data.verifier): mathematically equal ones in another form are
taken for wrong.
"""

from colar_jax.config import defaults, stage_defaults


def get_config(argument: str = ""):
    """The run; `smoke` is tiny and needs no network; `no_averaging` is the paper's ablation of RL."""
    config = defaults()
    config.title = "GRPO on CoLaR, MATH"
    config.workdir = "runs/math_rl"
    config.run = "cot,colar,rl"

    config.data.train = "hub:math"
    config.data.val = "hub:math"
    config.data.test = "math=hub:math"
    config.data.tokenizer = "meta-llama/Llama-3.2-1B-Instruct"
    config.data.num_val = 500
    config.data.verifier = "exact"  # answers are LaTeX

    config.model.preset = "llama-3.2-1b"
    config.model.dtype = "bfloat16"
    config.model.remat = "dots"

    config.stages.cot = stage_defaults(method="cot", epochs=10.0, rows=64, row_positions=1024, eval_every=500)
    config.stages.colar = stage_defaults(method="colar", epochs=50.0, rows=40, row_positions=1024, eval_every=500)
    for stage in config.stages.values():
        stage.optimizer.update(learning_rate=1e-4, weight_decay=0.01, warmup_steps=100)
    config.stages.colar.latent.update(
        speeds="2",
        loss="nll",  # gives the latents a standard deviation, which RL needs
        entropy_weight=-1e-6,  # the paper's, for MATH
        predicted_pass_weight=1.0,  # the second forward pass
    )

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
        loss_aggregation="chain_mean",  # what makes chains short
        min_std=0.0,  # the likelihood has taken care of it, as in the paper
    )

    config.decode.max_latents = 128
    config.decode.max_step_tokens = 512
    config.eval.speeds = "2"
    config.eval.seeds = 5

    if argument == "no_averaging":
        config.workdir = "runs/math_rl_no_averaging"
        config.run = "rl"
        config.stages.rl.init_from = "runs/math_rl/colar"
        config.stages.rl.rl.update(loss_aggregation="configured_length", configured_length=32, stop_on_collapse=False)
    elif argument == "smoke":
        config.workdir = "runs/math_rl_smoke"
        config.data.update(train="arithmetic", val="", test="", tokenizer="embedded:arithmetic", verifier="numeric")
        config.data.update(train_limit=300, num_val=16, num_test=16)
        config.model.update(preset="pico", dtype="float32", remat="none")
        config.decode.update(max_latents=8, max_step_tokens=8)
        config.eval.update(seeds=1)
        for stage in config.stages.values():
            stage.update(steps=4, rows=2, row_positions=256, eval_every=2, log_every=2)
            stage.optimizer.warmup_steps = 2
        config.stages.rl.rl.update(num_questions=4, num_generations=4, minibatch_size=4)
    elif argument:
        raise ValueError(f"configs/math_rl.py knows the arguments smoke and no_averaging, not {argument!r}")
    return config
