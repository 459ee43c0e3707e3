"""Coconut on GSM8K-Aug: continuous thoughts, stage by stage (arXiv 2412.06769), with the data of gsm8k_colar.py.

    python -m colar_jax.train --config=configs/gsm8k_coconut.py           # the Coconut paper's schedule, full training
    python -m colar_jax.train --config=configs/gsm8k_coconut.py:paper \\
      --config.run=coconut --config.stages.coconut.init_from=runs/gsm8k_cot/cot     # the CoLaR paper's, from its CoT
    python -m colar_jax.train --config=configs/gsm8k_coconut.py:smoke     # on embedded problems, tiny

Published, accuracy % / #L on GSM8K (Llama-3.2-1B): 23.1 / 6 (docs/ledger.md); SIM-CoT's tables have 33.2. Not run here:
it needs the weights and GSM8K-Aug; score and time are not measured.
"""

from colar_jax.config import config_beside, stage_defaults

_COLAR = config_beside(__file__, "gsm8k_colar")


def get_config(argument: str = ""):
    """CoT, then Coconut; `paper` has the settings of the CoLaR paper, `smoke` needs no network."""
    if argument not in ("", "paper", "smoke"):
        raise ValueError(f"configs/gsm8k_coconut.py knows the arguments paper and smoke, not {argument!r}")
    config = _COLAR.get_config("smoke" if argument == "smoke" else "")
    config.title = "Coconut on GSM8K-Aug"
    config.workdir = f"runs/gsm8k_coconut{'_' if argument else ''}{argument}"
    config.run = "cot,coconut"
    del config.stages.colar
    # A row of 512 positions holds 6 problems: batches of 131.
    stage = config.stages.coconut = stage_defaults(
        method="coconut", epochs=22.0, rows=22, row_positions=512, eval_every=3000
    )
    # The authors' run: everything trained; 3 epochs for each stage, the last one until epoch 25, of which CoT had 3, in
    # the same batches.
    config.stages.cot.update(epochs=3.0, rows=22)
    config.model.lora.rank = 0
    config.model.base_dtype = "float32"
    config.model.dtype = "float32"
    for each in config.stages.values():  # and nothing is clipped
        # The rate that its author names for Llama (facebookresearch/coconut issue 11); 1e-4 is GPT-2's.
        each.optimizer.update(learning_rate=1e-5, weight_decay=0.01, clip_norm=1e9, schedule="constant", warmup_steps=0)
    stage.coconut.update(num_stages=3, latents_per_stage=2, epochs_per_stage=3.0, final_stage=True)
    stage.coconut.update(reset_each_epoch=True, end_marker=True)
    config.eval.update(seeds=0, speeds="")

    if argument == "paper":
        config.model.lora.update(rank=128, alpha=32.0, targets="query,value")
        config.model.update(base_dtype="bfloat16", dtype="bfloat16")
        config.stages.cot.update(epochs=10.0, rows=43)
        for each in config.stages.values():
            each.optimizer.update(learning_rate=1e-4, clip_norm=1.0)
        config.stages.cot.optimizer.warmup_steps = 100
        stage.coconut.update(reset_each_epoch=False, end_marker=False)
        config.eval.seeds = 5
        stage.update(epochs=50.0, rows=43, eval_every=1500)  # batches of some 260 problems
        # No step is left in the third stage; its code gives every stage one epoch instead of two.
        stage.coconut.update(epochs_per_stage=2.0, final_stage=False, reset_optimizer=False)
    if argument == "smoke":
        for each in config.stages.values():
            each.update(steps=4, rows=2, eval_every=2, log_every=2)
        stage.coconut.epochs_per_stage = 0.01
    return config
