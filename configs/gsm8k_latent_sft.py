"""Latent-SFT on GSM8K-Aug, its second stage: noisy mixtures of a group's tokens (arXiv 2510.15522).

    python -m colar_jax.train --config=configs/gsm8k_latent_sft.py              # groups of two, the paper's settings
    python -m colar_jax.train --config=configs/gsm8k_latent_sft.py:speeds       # CoLaR's five speeds
    python -m colar_jax.train --config=configs/gsm8k_latent_sft.py:smoke        # on embedded problems, tiny

Its labels are a group's tokens, alike; at home an encoder writes them in three runs before. Reinforcement learning
from here: configs/gsm8k_latent_grpo.py. Published in Latent-GRPO's tables (arXiv 2604.27998), mean of four sets
(Llama-1B): 50.5 (docs/ledger.md). Not run here: it needs the weights and GSM8K-Aug; score and time are not measured.
"""

from colar_jax.config import config_beside, stage_defaults

_COLAR = config_beside(__file__, "gsm8k_colar")
ARGUMENTS = ("", "speeds", "smoke")


def get_config(argument: str = ""):
    """One stage, from the base itself; `smoke` needs no network."""
    if argument not in ARGUMENTS:
        raise ValueError(f"configs/gsm8k_latent_sft.py knows the arguments speeds, smoke, not {argument!r}")
    config = _COLAR.get_config("smoke" if argument == "smoke" else "")
    config.title = "Latent-SFT on GSM8K-Aug"
    config.workdir = f"runs/gsm8k_latent_sft{'_' if argument else ''}{argument}"
    config.stages = {}
    config.run = "latent_sft"
    # A row of 512 positions holds 6 or 7 problems: batches of 248.
    stage = config.stages.latent_sft = stage_defaults(
        method="latent_sft", epochs=70.0, rows=37, row_positions=512, eval_every=1500
    )
    stage.optimizer.update(learning_rate=3e-4, weight_decay=0.01, warmup_steps=100)
    # Chunks of two tokens at home; the ten likeliest tokens of a latent.
    stage.latent_sft.update(speeds="1,2,3,4,5" if argument == "speeds" else "2", top_k=10, kl_weight=1.0, noise=True)
    config.model.lora.update(rank=64, alpha=128.0, dropout=0.1, targets="query,key,value,out,gate,up,down")
    config.decode.update(max_latents=128, answer_temperature=0.6, top_p=0.95)
    config.eval.speeds = ""

    if argument == "smoke":
        config.model.lora.update(rank=0, alpha=32.0, dropout=0.0, targets="query,value")
        config.decode.max_latents = 8
        stage.update(steps=4, rows=2, eval_every=2, log_every=2)
        stage.optimizer.warmup_steps = 2
    return config
