"""TrimR on embedded problems: chains that doubt a right answer up to five times, and a small judge that ends them.

    python -m colar_jax.train --config=configs/reflections.py
    python -m colar_jax.train --config=configs/reflections.py:smoke         # tiny

    <<4+5=9>>  <<9*2=18>>  So 18.  Wait, check: <<4+5=9>>  <<9*2=18>>  So 18.  But check: <<4+5=9>> ...

One chain in five is wrong at first, and put right by a reflection: so a first answer is not to be trusted alone. The
judge is a stage like another: it learns from the same chains to say whether a segment states an answer, and whether two
agree. Then the chain of thought is decoded as it is, and with its thinking ended after one agreement or two.

11 minutes on one CPU core; accuracy % / #L on 1,000 held-out problems, seed 0: greedy 93.4 / 157, after one agreement
95.1 / 53.5, after two 95.1 / 82.0; sampled 66.4 / 99.5, 66.2 / 57.7, 66.5 / 75.6.
"""

from colar_jax.config import config_beside, stage_defaults

_ARITHMETIC = config_beside(__file__, "arithmetic")


def get_config(argument: str = ""):
    """The run; `smoke` has everything tiny."""
    if argument not in ("", "smoke"):
        raise ValueError(f"configs/reflections.py knows the argument smoke, not {argument!r}")
    config = _ARITHMETIC.get_config()
    config.title = "Chains that reflect, trimmed"
    config.workdir = f"runs/reflections{'_' if argument else ''}{argument}"
    config.run = "cot,judge"
    config.stages = {"cot": config.stages.cot}
    config.data.train = (
        "arithmetic:max_number=20,max_change=9,min_steps=2,max_steps=3,max_reflections=5,slip_percent=20"
    )
    config.data.update(train_limit=20_000, tokenizer="embedded:reflections", num_val=128)
    config.decode.max_step_tokens = 208
    config.stages.cot.update(steps=1200, rows=8, row_positions=256, eval_every=600)
    config.stages.judge = stage_defaults(
        method="segment_judge", init_from="cot", steps=800, rows=5, row_positions=160, log_every=100
    )
    config.stages.judge.optimizer.update(learning_rate=1.5e-3, b2=0.98, warmup_steps=100)
    config.eval.update(speeds="", seeds=1, latent_words=0)
    # Some 25 tokens of a chain lie between two answers; an answer is a line of its own.
    config.eval.trim.update(verifier="judge", agreements="1,2", cue_after="line", sentences=1, chunk=32)
    if argument == "smoke":
        config.model.preset = "pico"
        config.model.latent_head.intermediate_size = 32
        config.data.update(train_limit=300, num_val=8, num_test=8)
        config.decode.update(max_step_tokens=12, max_answer_tokens=4)
        config.eval.trim.chunk = 4
        for stage in config.stages.values():
            stage.update(steps=4, rows=2, log_every=2, eval_every=4)
            stage.optimizer.warmup_steps = 2
    return config
