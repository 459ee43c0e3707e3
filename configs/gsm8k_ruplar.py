"""RuPLaR on GSM8K-Aug: a latent a step, which is a mixture of the step's tokens by a rule (arXiv 2605.09346).

    python -m colar_jax.train --config=configs/gsm8k_ruplar.py              # the paper's settings, rule `mix`
    python -m colar_jax.train --config=configs/gsm8k_ruplar.py:gumbel       # or `temp`
    python -m colar_jax.train --config=configs/gsm8k_ruplar.py:khot --config.run=colar_khot \\
      --config.stages.colar_khot.init_from=runs/gsm8k_cot/cot               # CoLaR's speeds with mixtures, from its CoT
    python -m colar_jax.train --config=configs/gsm8k_ruplar.py:smoke        # on embedded problems, tiny

Published, sampled accuracy % / #L on GSM8K (Llama-3.2-1B): 46.0 / 3.0 (docs/ledger.md). Its run trains the embedding
matrix beside the adapters, which here stays as it is. Not run here: it needs the weights and GSM8K-Aug; score and time
are not measured.
"""

from colar_jax.config import config_beside, stage_defaults

_COLAR = config_beside(__file__, "gsm8k_colar")
ARGUMENTS = ("", "temp", "gumbel", "khot", "smoke")


def get_config(argument: str = ""):
    """One stage, from the base itself; `khot` has a latent a group, `smoke` needs no network."""
    if argument not in ARGUMENTS:
        known = ", ".join(name for name in ARGUMENTS if name)
        raise ValueError(f"configs/gsm8k_ruplar.py knows the arguments {known}, not {argument!r}")
    config = _COLAR.get_config("smoke" if argument == "smoke" else "")
    config.title = "RuPLaR on GSM8K-Aug"
    config.workdir = f"runs/gsm8k_ruplar{'_' if argument else ''}{argument}"
    cot, colar = config.stages.cot, config.stages.colar
    config.stages = {}
    config.run = "ruplar"
    # A row of 512 positions holds 6 or 7 problems: batches of 258.
    stage = config.stages.ruplar = stage_defaults(
        method="ruplar", epochs=10.0, rows=40, row_positions=512, eval_every=1500
    )
    stage.optimizer.update(learning_rate=3e-4, weight_decay=0.01, warmup_steps=750)  # 5 %, then a cosine
    config.model.lora.update(rank=64, alpha=128.0, dropout=0.1, targets="query,key,value,out,gate,up,down")
    stage.ruplar.rule = argument if argument in ("temp", "gumbel") else "mix"
    config.decode.update(max_latents=128, answer_temperature=0.6, top_p=0.95)

    if argument in ("khot", "smoke"):
        khot = config.stages.colar_khot = stage_defaults(method="colar_khot")
        khot.update({name: value for name, value in colar.items() if name not in ("method", "latent")})
        khot.khot.update(speeds=colar.latent.speeds, auto_probability=colar.latent.auto_probability)
    else:
        config.eval.speeds = ""
    if argument == "khot":
        config.stages.cot = cot
        del config.stages.ruplar
        config.run = "cot,colar_khot"
        config.model.lora.update(rank=128, alpha=32.0, dropout=0.0, targets="query,value")
    if argument == "smoke":
        config.run = "ruplar,colar_khot"
        config.model.lora.update(rank=0, alpha=32.0, dropout=0.0, targets="query,value")
        config.decode.max_latents = 8
        stage.update(steps=4, rows=2, eval_every=2, log_every=2)
        stage.optimizer.warmup_steps = 2
    return config
