"""TrimR on MATH: a model that thinks in long chains with reflections, trimmed by a language model that verifies.

    python -m colar_jax.train --config=configs/math_trimr.py --config.data.train=my_chains.jsonl
    python -m colar_jax.evaluate --workdir=runs/math_trimr --config.eval.trim.agreements=1,2,3
    python -m colar_jax.train --config=configs/math_trimr.py:smoke          # on embedded problems, tiny

Trimming needs chains that have something to trim: `data.train` is a file (or folder) of long chains of a reasoning
model, such as DeepSeek-R1's, a problem a line with the chain as its one step. The first stage teaches the base the form
of this project (`###` ends the thinking); trimming itself trains nothing. Published (arXiv 2505.17155), with a verifier
of 7B: DeepSeek-R1-Distill-Qwen-32B on MATH500 90.4 to 92.4 with 40 % fewer tokens. Not run here: it needs the weights
and the chains.
"""

from colar_jax.config import defaults, stage_defaults


def get_config(argument: str = ""):
    """The run; `smoke` needs no network."""
    if argument not in ("", "smoke"):
        raise ValueError(f"configs/math_trimr.py knows the argument smoke, not {argument!r}")
    config = defaults()
    config.title = "TrimR on MATH"
    config.workdir = f"runs/math_trimr{'_' if argument else ''}{argument}"
    config.run = "cot"

    config.data.train = "hub:math"  # solutions without reflections: name long chains instead
    config.data.verifier = "math"
    config.data.num_val = 100

    config.model.base = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    config.model.dtype = "bfloat16"
    config.model.base_dtype = "bfloat16"
    config.model.remat = "full"
    config.model.lora.update(rank=128, alpha=32.0, targets="query,value")

    # It is to learn the form, not to think otherwise: a short stage on rows that hold a chain of 4,000 tokens.
    config.stages.cot = stage_defaults(method="cot", steps=300, rows=16, row_positions=4608, accumulation=16)
    config.stages.cot.update(eval_every=100)
    config.stages.cot.optimizer.update(learning_rate=1e-4, weight_decay=0.01, warmup_steps=20)

    config.decode.update(max_step_tokens=4096, max_answer_tokens=64, stop_temperature=0.6, top_p=0.95)
    config.eval.update(seeds=1, batch_size=64)
    config.eval.trim.update(
        verifier="Qwen/Qwen2.5-7B-Instruct",  # as in the paper: a small instruct model, by prefill alone
        agreements="2",  # three equal answers, as in the paper
        cue_after="blank_line",
        sentences=3,
        chunk=128,
        budget_share=0.9,  # the paper's share, and its number of segments, could not be found
        repeat_window=64,
        repeat_times=4,
        answer_cue="\n\nFinal answer.\n",
    )

    if argument == "smoke":
        config.data.update(verifier="numeric", tokenizer="embedded:reflections")
        config.data.train = "arithmetic:max_reflections=2"
        config.data.update(train_limit=300, num_val=16, num_test=16)
        config.model.update(base="", base_dtype="float32", dtype="float32", remat="none", preset="pico")
        config.model.lora.rank = 0
        config.decode.update(max_step_tokens=16, max_answer_tokens=4)
        config.stages.cot.update(steps=4, rows=2, accumulation=1, row_positions=320, eval_every=2, log_every=2)
        config.stages.cot.optimizer.warmup_steps = 2
        config.stages.judge = stage_defaults(method="segment_judge", steps=4, rows=2, row_positions=320, log_every=2)
        config.run = "cot,judge"
        config.eval.trim.update(verifier="judge", cue_after="line", sentences=1, chunk=4, answer_cue="")
    return config
