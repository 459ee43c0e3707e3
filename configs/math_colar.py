"""The paper's MATH setting: CoT, then CoLaR at c = 2 with the likelihood loss, at most 128 latents.

    python -m colar_jax.train --config=configs/math_colar.py                   # DeepSeek-R1-Distill-Qwen-1.5B
    python -m colar_jax.train --config=configs/math_colar.py:llama             # Llama-3.2-1B-Instruct
    python -m colar_jax.train --config=configs/math_colar.py --config.data.train=my.jsonl
    python -m colar_jax.train --config=configs/math_colar.py:smoke             # on embedded problems, about a minute

Published, accuracy % / #L (Qwen | Llama): CoT 23.5 / 209 | 9.71 / 210, CoLaR (NLL) 8.94 / 56.8 | 5.28 / 83.1. Not run
here: it needs the weights and MATH. Answers are compared as mathematics (0.5 is \\frac{1}{2}), by math-verify:
pip install -e '.[math]'; `--config.data.verifier=numeric` does without.
"""

from colar_jax.config import defaults, stage_defaults

BASES = {
    "": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    "llama": "meta-llama/Llama-3.2-1B-Instruct",
}


def get_config(argument: str = ""):
    """The run; `llama` takes the other base, and `smoke` needs no network."""
    if argument not in (*BASES, "smoke"):
        raise ValueError(f"configs/math_colar.py knows the arguments llama and smoke, not {argument!r}")
    config = defaults()
    config.title = "CoLaR on MATH"
    config.workdir = f"runs/math_colar{'_' if argument else ''}{argument}"
    config.run = "cot,colar"

    config.data.train = "hub:math"
    config.data.verifier = "math"  # a third of the answers are no plain numbers
    config.data.num_val = 500

    config.model.base = BASES.get(argument, "")
    config.model.dtype = "bfloat16"  # as in the paper; adapters, losses and the optimizer stay float32
    config.model.base_dtype = "bfloat16"  # the base is frozen: half the memory, as it is stored on the hub
    config.model.remat = "full"  # rows of 1,024 positions
    # The paper's adapters: rank 128, alpha 32 (scale 0.25) on q and v, no dropout.
    config.model.lora.update(rank=128, alpha=32.0, targets="query,value")

    # The paper's batch is 256 problems, of about 300 positions in CoT and 190 in CoLaR.
    config.stages.cot = stage_defaults(method="cot", epochs=10.0, rows=75, row_positions=1024, accumulation=3)
    config.stages.colar = stage_defaults(method="colar", epochs=50.0, rows=48, row_positions=1024, accumulation=2)
    for stage in config.stages.values():
        stage.update(eval_every=100)
        stage.optimizer.update(learning_rate=1e-4, weight_decay=0.01, warmup_steps=20)
    config.stages.colar.latent.update(
        speeds="2",  # the paper trains MATH at this speed alone
        loss="nll",  # soft MSE has no useful standard deviation, which reinforcement learning needs
        entropy_weight=-1e-6,  # the paper's; negative rewards entropy
        predicted_pass_weight=1.0,  # the paper's second pass, whose weight it does not say: as much as the first
    )

    config.decode.max_latents = 128  # the paper's L_max for MATH
    config.decode.max_step_tokens = 512  # solutions have 210 tokens on average
    config.eval.seeds = 5

    if argument == "smoke":
        config.data.update(train="arithmetic", tokenizer="embedded:arithmetic", verifier="numeric")
        config.data.update(train_limit=300, num_val=16, num_test=16)
        config.model.update(base="", base_dtype="float32", dtype="float32", remat="none", preset="pico")
        config.model.lora.rank = 0
        config.decode.update(max_latents=8, max_step_tokens=8)
        config.eval.seeds = 1
        for stage in config.stages.values():
            stage.update(steps=4, rows=2, accumulation=1, row_positions=256, eval_every=2, log_every=2)
            stage.optimizer.warmup_steps = 2
    return config
