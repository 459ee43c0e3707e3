"""The paper's grade-school setting: CoT, then CoLaR with c in 1..5, on GSM8K-Aug; tested on four sets.

    python -m colar_jax.train --config=configs/gsm8k_colar.py                  # Llama-3.2-1B-Instruct, from the hub
    python -m colar_jax.train --config=configs/gsm8k_colar.py:qwen             # DeepSeek-R1-Distill-Qwen-1.5B
    python -m colar_jax.train --config=configs/gsm8k_colar.py --config.model.base=/models/mine
    python -m colar_jax.train --config=configs/gsm8k_colar.py --config.data.train=my.jsonl    # and --config.data.test=
    python -m colar_jax.train --config=configs/gsm8k_colar.py:smoke            # on embedded problems, about a minute

Published, accuracy % / #L on GSM8K (Llama-3.2-1B): CoT 49.4 / 25.6, c = 2 40.1 / 12.7, c = 5 26.8 / 5.57. Not run here:
it needs the weights and GSM8K-Aug.

On folders of JSON Lines (`{train,val,test}.jsonl`), with any tokenizer and a model that two CPU cores can bear:

    python -m colar_jax.train --config=configs/gsm8k_colar.py:tiny \\
      --config.data.train=data/gsm8k_eq --config.data.tokenizer=tokenizers/llama3 \\
      --config.data.test="gsm8k=data/gsm8k_aug; gsmhard=data/gsmhard; svamp=data/svamp; multiarith=data/multiarith"
"""

from colar_jax.config import defaults, stage_defaults

BASES = {
    "": "meta-llama/Llama-3.2-1B-Instruct",
    "qwen": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
}


def get_config(argument: str = ""):
    """The run; `qwen` takes the other base, `tiny` a small random model, and `smoke` needs no network."""
    if argument not in (*BASES, "tiny", "smoke"):
        raise ValueError(f"configs/gsm8k_colar.py knows the arguments qwen, tiny and smoke, not {argument!r}")
    config = defaults()
    config.title = "CoLaR on GSM8K-Aug"
    config.workdir = f"runs/gsm8k_colar{'_' if argument else ''}{argument}"
    config.run = "cot,colar"

    config.data.train = "hub:gsm8k_aug"
    config.data.test = "gsm8k=hub:gsm8k_aug; gsmhard=hub:gsmhard; svamp=hub:svamp; multiarith=hub:multiarith"
    # A quarter of the GSM-Hard questions are GSM8K test questions with a number changed that the wording does not show;
    # test sets may share questions with each other, never with training.
    config.data.num_val = 500

    config.model.base = BASES.get(argument, "")
    config.model.dtype = "bfloat16"  # as in the paper; adapters, losses and the optimizer stay float32
    config.model.base_dtype = "bfloat16"  # the base is frozen: half the memory, as it is stored on the hub
    config.model.remat = "dots"
    # The paper's adapters: rank 128, alpha 32 (scale 0.25) on q and v, no dropout.
    config.model.lora.update(rank=128, alpha=32.0, targets="query,value")

    # The paper's batch is 256 problems. A training problem takes 83 positions in CoT and about 72 in CoLaR, with Llama
    # 3's tokenizer (GSM8K's own test questions are a fifth longer). These rows have 258 and 250 on average.
    config.stages.cot = stage_defaults(method="cot", epochs=10.0, rows=43, row_positions=512, eval_every=1500)
    config.stages.colar = stage_defaults(method="colar", epochs=50.0, rows=37, row_positions=512, eval_every=1500)
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

    if argument in ("tiny", "smoke"):
        config.model.update(base="", base_dtype="float32", dtype="float32", remat="none")
        config.model.lora.rank = 0
    if argument == "tiny":
        config.model.update(preset="nano")
        config.data.num_val = 32
        config.decode.max_step_tokens = 48
        config.eval.update(seeds=0, speeds="2,5")
        for stage in config.stages.values():
            stage.update(steps=20, rows=6, log_every=5, eval_every=0)
    if argument == "smoke":
        config.data.update(train="arithmetic", test="", tokenizer="embedded:arithmetic")
        config.data.update(train_limit=300, num_val=16, num_test=16)
        config.model.preset = "pico"
        config.decode.update(max_latents=8, max_step_tokens=8)
        config.eval.update(seeds=1, speeds="2,5")
        for stage in config.stages.values():
            stage.update(steps=4, rows=2, eval_every=2, log_every=2)
            stage.optimizer.warmup_steps = 2
        config.stages.colar.latent.speeds = "2,5"
    return config
