"""The explicit class: chains of thought in words made shorter, on embedded problems whose chains think too much.

    python -m colar_jax.train --config=configs/explicit.py
    python -m colar_jax.train --config=configs/explicit.py:smoke            # tiny

From one chain of thought (configs/reflections.py, trained twice as long), all decoded greedily and sampled; a stage is
trimmed by a trained judge as well (TrimR, `eval.trim`):
- `cot` as it is;
- `longer`: trained on, as long as the next two: what more training alone does;
- `concise`: trained on the shortest right of eight own chains;
- `dropped`: the control, the data's chains of the same problems without random steps, about as long as `concise` has;
- `short_rl`: rewards, correct x (1 - length / limit / 2).
- `cot` ended at budgets, by a command of its own, since every budget is crossed with every number of agreements:

    python -m colar_jax.evaluate --workdir=runs/explicit --out=runs/explicit/budgets --config.eval.stages=cot \\
      --config.eval.trim.verifier= --config.eval.word_budgets=16,24,32,48,64,96,128

Over seeds, each of them both, sampled: a greedy chain goes on wherever reflecting once more is likelier than its end.

    python benchmarks/over_seeds.py runs/explicit_? runs/explicit_?/budgets --against=cot --costs --sampling=sampled

40 to 60 minutes on one CPU core; sampled accuracy % / #L of 1,000 problems, mean of five seeds: cot 97.4 / 101,
trimmed after one agreement 97.5 / 57.0, longer 97.1 / 101, concise 97.6 / 40.0, dropped 21.8 / 38.8, short_rl 99.7 /
24.4 (docs/methods.md has intervals).
"""

from colar_jax.config import config_beside, stage_defaults

_REFLECTIONS = config_beside(__file__, "reflections")


def get_config(argument: str = ""):
    """The run; `smoke` has everything tiny."""
    if argument not in ("", "smoke"):
        raise ValueError(f"configs/explicit.py knows the argument smoke, not {argument!r}")
    config = _REFLECTIONS.get_config(argument)
    config.title = "Chains of thought in words, made shorter"
    config.workdir = f"runs/explicit{'_' if argument else ''}{argument}"
    config.run = "cot,judge,longer,concise,dropped,short_rl"
    config.stages.cot.update(steps=2400, eval_every=1200)

    for name, method in {"longer": "cot", "concise": "concise", "dropped": "dropped_steps"}.items():
        # Validated at the end alone: the accuracy of one earlier would choose, whatever its length.
        stage = config.stages[name] = stage_defaults(
            method=method, init_from="cot", steps=400, rows=8, row_positions=256, eval_every=0, log_every=100
        )
        stage.optimizer.update(config.stages.cot.optimizer)
        stage.optimizer.learning_rate = 1e-3
    config.stages.concise.concise.update(num_chains=8, num_problems=1000)
    config.stages.dropped.dropped_steps.like = "concise"

    stage = config.stages.short_rl = stage_defaults(
        method="cot", trainer="grpo", init_from="cot", steps=120, eval_every=40, log_every=5
    )
    stage.optimizer.update(learning_rate=1e-4, b2=0.99, warmup_steps=5)
    stage.rl.update(num_questions=16, num_generations=8, minibatch_size=64, loss_aggregation="token")
    stage.rl.update(reward="correctness", length_penalty=0.5)

    if argument == "smoke":
        for stage in config.stages.values():
            stage.update(steps=4, log_every=2, eval_every=4)
            if stage.trainer == "sft":
                stage.rows = 2
            stage.optimizer.warmup_steps = 2
        # No chain of a model of four steps is right: nothing could be learned from its own.
        config.run = "cot,judge,longer,dropped,short_rl"
        config.stages.dropped.dropped_steps.like = ""
        config.stages.concise.concise.update(num_chains=2, num_problems=20)
        config.stages.short_rl.rl.update(num_questions=2, num_generations=4, minibatch_size=4, stop_on_collapse=False)
    return config
