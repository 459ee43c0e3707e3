"""The paper's grade-school setting: CoT, then CoLaR with c in 1..5, on GSM8K-Aug; tested on four sets.

    python -m colar_jax.train --config=configs/gsm8k_colar.py                  # data and tokenizer from the hub
    python -m colar_jax.train --config=configs/gsm8k_colar.py --config.data.train=my.jsonl --config.data.test=
    python -m colar_jax.train --config=configs/gsm8k_colar.py:smoke            # on embedded problems, under a minute

The model starts from random weights of the Llama-3.2-1B shape, or from published ones with
`--config.model.base=<folder or hub id>` (and `--config.data.tokenizer=` for the tokenizer in it), and all of it is
trained: what this config cannot do yet is to train low-rank adapters. Without both do not expect the paper's numbers
(CoT 49.4 / 25.6, c = 2 40.1 / 12.7, c = 5 26.8 / 5.57 on GSM8K).

On folders of JSON Lines (`{train,val,test}.jsonl`), with any tokenizer and a model that two CPU cores can bear:

    python -m colar_jax.train --config=configs/gsm8k_colar.py \\
      --config.data.train=data/gsm8k_eq --config.data.val=data/gsm8k_eq --config.data.tokenizer=tokenizers/llama3 \\
      --config.data.test="gsm8k=data/gsm8k_aug; gsmhard=data/gsmhard; svamp=data/svamp; multiarith=data/multiarith" \\
      --config.model.preset=nano --config.model.dtype=float32 \\
      --config.stages.cot.steps=20 --config.stages.colar.steps=20
"""

from colar_jax.config import defaults, stage_defaults


def get_config(argument: str = ""):
    """The run; `smoke` is tiny and needs no network."""
    config = defaults()
    config.title = "CoLaR on GSM8K-Aug"
    config.workdir = "runs/gsm8k_colar"
    config.run = "cot,colar"

    config.data.train = "hub:gsm8k_aug"
    config.data.val = "hub:gsm8k_aug"
    config.data.test = "gsm8k=hub:gsm8k_aug; gsmhard=hub:gsmhard; svamp=hub:svamp; multiarith=hub:multiarith"
    config.data.tokenizer = "meta-llama/Llama-3.2-1B-Instruct"
    # A quarter of the GSM-Hard questions are GSM8K test questions with a number changed that the wording does not show;
    # test sets may share questions with each other, never with training.
    config.data.num_val = 500

    config.model.preset = "llama-3.2-1b"
    config.model.dtype = "bfloat16"  # as in the paper; parameters, losses and the optimizer stay float32
    config.model.remat = "dots"

    # The paper's batch is 256 problems. An average problem takes 102 positions in CoT and about 88 in CoLaR.
    config.stages.cot = stage_defaults(method="cot", epochs=10.0, rows=52, row_positions=512, eval_every=1500)
    config.stages.colar = stage_defaults(method="colar", epochs=50.0, rows=44, row_positions=512, eval_every=1500)
    for stage in config.stages.values():
        stage.optimizer.update(learning_rate=1e-4, weight_decay=0.01, warmup_steps=100)
    config.stages.colar.latent.update(
        speeds="1,2,3,4,5",
        auto_probability=0.1,  # the published code offers "auto" and never trains it
        loss="soft_mse",  # the paper's choice for grade-school sets
    )

    config.decode.max_latents = 64  # the paper's L_max for grade school
    config.decode.max_step_tokens = 128  # the longest chain of GSM8K-Aug's test set has 124 tokens
    config.eval.speeds = "1,2,3,4,5"
    config.eval.seeds = 5  # as in the paper, whose answers are sampled at temperature 1, top-p 0.9

    if argument == "smoke":
        config.workdir = "runs/gsm8k_colar_smoke"
        config.data.update(train="arithmetic", val="", test="", tokenizer="embedded:arithmetic")
        config.data.update(train_limit=300, num_val=16, num_test=16)
        config.model.update(preset="pico", dtype="float32")
        config.decode.update(max_latents=8, max_step_tokens=8)
        config.eval.update(seeds=1, speeds="2,5")
        for stage in config.stages.values():
            stage.update(steps=4, rows=2, eval_every=2, log_every=2)
            stage.optimizer.warmup_steps = 2
        config.stages.colar.latent.speeds = "2,5"
    elif argument:
        raise ValueError(f"configs/gsm8k_colar.py knows the argument smoke, not {argument!r}")
    return config
