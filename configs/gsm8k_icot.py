"""iCoT on GSM8K-Aug: the chain disappears token by token (arXiv 2405.14838), with the data of configs/gsm8k_colar.py.

    python -m colar_jax.train --config=configs/gsm8k_icot.py              # the iCoT paper's settings, full training
    python -m colar_jax.train --config=configs/gsm8k_icot.py:paper \\
      --config.stages.icot.init_from=runs/gsm8k_cot/cot                   # the CoLaR paper's, from its CoT adapters
    python -m colar_jax.train --config=configs/gsm8k_icot.py:smoke        # on embedded problems, tiny

Published, accuracy % / #L on GSM8K (Llama-3.2-1B): 19.8 / 0 (docs/ledger.md). Not run here: it needs the weights and
GSM8K-Aug; score and time are not measured.
"""

from colar_jax.config import config_beside, stage_defaults

_COLAR = config_beside(__file__, "gsm8k_colar")


def get_config(argument: str = ""):
    """One stage; `paper` has the settings of the CoLaR paper, `smoke` needs no network."""
    if argument not in ("", "paper", "smoke"):
        raise ValueError(f"configs/gsm8k_icot.py knows the arguments paper and smoke, not {argument!r}")
    config = _COLAR.get_config("smoke" if argument == "smoke" else "")
    config.title = "iCoT on GSM8K-Aug"
    config.workdir = f"runs/gsm8k_icot{'_' if argument else ''}{argument}"
    config.run = "icot"
    config.stages = {}
    # A row of 512 positions holds 6 problems: batches of 30.
    stage = config.stages.icot = stage_defaults(
        method="icot", epochs=80.0, rows=5, row_positions=512, eval_every=10_000
    )
    # The authors' run on GSM8K (their README's command): everything trained, from the base itself, batches of 32, 8
    # tokens an epoch from the left, all of them from 39 on, a new AdamW whenever one more goes.
    config.model.lora.rank = 0
    config.model.base_dtype = "float32"
    stage.optimizer.update(learning_rate=1e-5, weight_decay=0.01, schedule="constant")
    stage.icot.update(unit="token", removed_per_epoch=8.0, all_beyond=39, smoothing=4.0, reset_optimizer=True)
    config.eval.update(seeds=0, speeds="")

    if argument == "paper":
        config.model.lora.update(rank=128, alpha=32.0, targets="query,value")
        config.model.base_dtype = "bfloat16"
        stage.update(epochs=50.0, rows=42, eval_every=1500)  # batches of 254 problems
        stage.optimizer.update(learning_rate=1e-4)
        config.eval.seeds = 5
        # Two epochs a step, all steps from the third stage on; its code gives every stage one epoch.
        stage.icot.update(
            unit="step", removed_per_epoch=0.5, removed_at_start=1, all_beyond=3, smoothing=0.0, reset_optimizer=False
        )
    if argument == "smoke":
        stage.update(steps=4, rows=2, eval_every=2, log_every=2)
        stage.icot.removed_per_epoch = 1e4
    return config
