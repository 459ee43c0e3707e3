"""CODI on GSM8K-Aug: a chain of thought distilled into latents (arXiv 2502.21074), with the data of gsm8k_colar.py.

    python -m colar_jax.train --config=configs/gsm8k_codi.py              # the CODI paper's settings
    python -m colar_jax.train --config=configs/gsm8k_codi.py:paper \\
      --config.stages.codi.init_from=runs/gsm8k_cot/cot                   # the CoLaR paper's ("distill"), from its CoT
    python -m colar_jax.train --config=configs/gsm8k_codi.py:last_step    # the first with one of what the second does
    python -m colar_jax.train --config=configs/gsm8k_codi.py:smoke        # on embedded problems, tiny

Published, accuracy % / #L on GSM8K (Llama-3.2-1B): 51.9 / 6 by its authors, 52.7 in SIM-CoT's tables; 13.3 / 6 in
CoLaR's (docs/ledger.md), by code that cannot start. `last_step`, `adapters`, `unnormalised` and `blind` are what the
two differ in, one at a time (docs/methods.md, two numbers for CODI). Not run here: it needs the weights and GSM8K-Aug;
score and time are not measured.
"""

from colar_jax.config import config_beside, stage_defaults

# What CoLaR's authors do otherwise, one at a time.
SWITCHES = ("last_step", "adapters", "unnormalised", "blind")
_COLAR = config_beside(__file__, "gsm8k_colar")


def get_config(argument: str = ""):
    """One stage; `paper` has the settings of the CoLaR paper, `smoke` needs no network."""
    if argument not in ("", "paper", *SWITCHES, "smoke"):
        known = ", ".join(("paper", *SWITCHES, "smoke"))
        raise ValueError(f"configs/gsm8k_codi.py knows the arguments {known}, not {argument!r}")
    config = _COLAR.get_config("smoke" if argument == "smoke" else "")
    config.title = "CODI on GSM8K-Aug"
    config.workdir = f"runs/gsm8k_codi{'_' if argument else ''}{argument}"
    config.run = "codi"
    config.stages = {}
    # A row of 512 positions holds 6 problems, each with its chain and once more with latents: batches of 126.
    stage = config.stages.codi = stage_defaults(method="codi", epochs=10.0, rows=20, row_positions=512, eval_every=3000)
    # The authors' run with Llama-3.2-1B: adapters everywhere, from the base itself.
    config.model.lora.update(targets="query,key,value,out,gate,up,down", dropout=0.1)
    stage.optimizer.update(learning_rate=8e-4, weight_decay=0.1, clip_norm=2.0, warmup_steps=900)  # 3 %
    stage.codi.update(num_latents=6, teacher_weight=1.0, student_weight=1.0, distill_weight=20.0, normalise=True)
    stage.codi.update(projection_size=2048, projection_layer_norm=True)

    stage.codi.teacher_last_step = argument in ("paper", "last_step")
    config.eval.update(seeds=0, speeds="")  # as its authors: greedily; and it has no speed

    if argument in ("paper", "adapters"):
        config.model.lora.targets = "query,value"
        stage.optimizer.update(learning_rate=1e-4, schedule="constant", warmup_steps=0)
    if argument in ("paper", "unnormalised"):
        stage.codi.update(normalise=False, projection_layer_norm=False)
    if argument == "blind":
        config.decode.latents_see_question = False
    if argument == "paper":
        stage.update(epochs=50.0, rows=44, eval_every=1500)  # batches of 252 problems
        stage.codi.update(distill_embedding=False, matched="prefix")
        config.model.lora.dropout = 0.0
        stage.optimizer.update(weight_decay=0.01, clip_norm=1.0)
        config.eval.seeds = 5
    if argument == "smoke":
        config.model.lora.update(targets="query,value", dropout=0.0)  # there are none
        stage.codi.projection_size = 32
        stage.update(steps=4, rows=2, eval_every=2, log_every=2)
        stage.optimizer.warmup_steps = 2
    return config
