"""Paths in made-up graphs, from nothing, in the form of ProsQA: every method from one chain of thought, on equal terms.

"Every dax is a wug. Tom is a fep. ... Is Tom a wug or zib?": one of the two can be reached, and which step leads there
shows only later. Answering at once is a coin that falls right every second time, unless the search is done in silence.
Not run to its end yet: scores and times are not measured.

python -m colar_jax.train --config=configs/graphs.py
python -m colar_jax.train --config=configs/graphs.py:smoke         # in about a minute, learning nothing
python -m colar_jax.train --config=configs/graphs.py --config.run=cot,coconut
"""

from colar_jax.config import defaults, stage_defaults

METHODS = (
    "colar", "icot", "coconut", "codi", "pccot", "kava", "sim_coconut", "sim_codi", "sim_colar", "ruplar", "colar_khot",
    "latent_sft", "adaptive", "no_cot",
)  # fmt: skip


def get_config(argument: str = ""):
    """The run, or (`smoke`) all of it made tiny."""
    if argument not in ("", "smoke"):
        raise ValueError(f"configs/graphs.py knows the argument smoke, not {argument!r}")
    config = _config()
    if argument == "smoke":
        _smoke(config)
    return config


def _config():
    config = defaults()
    config.title = "Paths in graphs"
    config.workdir = "runs/graphs"
    config.run = ",".join(("cot", *METHODS))
    # Three steps at most, and two facts in three on neither path.
    config.data.train = "graphs:min_depth=2,max_depth=3,num_kinds=10,num_facts=13"
    config.data.train_limit = 20_000
    config.data.num_test = 1000
    config.data.tokenizer = "embedded:graphs"
    config.data.verifier = "exact"
    config.model.preset = "nano"
    config.model.scan_layers = False
    config.model.latent_head.intermediate_size = 512
    config.decode.max_step_tokens = 40
    config.decode.max_latents = 24
    config.decode.max_answer_tokens = 8
    config.eval.speeds = "2,5"
    optimizer = dict(learning_rate=1.5e-3, b2=0.98, warmup_steps=100)

    config.stages.cot = stage_defaults(method="cot", steps=3000, rows=4, row_positions=288, log_every=100)
    config.stages.cot.optimizer.update(**optimizer)
    for name in METHODS:
        config.stages[name] = stage_defaults(
            method=name, init_from="cot", steps=4500, row_positions=288, eval_every=1500, log_every=100
        )
        # 8 or 9 problems an update: a row holds three without steps, and two with latents or words for them.
        config.stages[name].rows = 3 if name == "no_cot" else 4
        config.stages[name].optimizer.update(**optimizer)
    config.stages.colar.latent.update(speeds="2,5", weight=10.0)
    config.stages.sim_colar.sim_colar.update(speeds="2,5", weight=10.0)
    # A latent for each step, as at home for ProsQA. The third stage has no step left in any chain: it is the last, has
    # seven tenths of the updates, and is what is evaluated. iCoT's 19 tokens are gone as soon.
    schedule = dict(num_stages=3, latents_per_stage=1, epochs_per_stage=0.25, reset_optimizer=False, final_stage=False)
    for name in ("coconut", "sim_coconut"):
        config.stages[name][name].update(schedule)
    config.stages.icot.icot.update(removed_per_epoch=38.0, reset_optimizer=False)
    for name in ("codi", "sim_codi", "pccot", "kava"):
        config.stages[name][name].update(num_latents=3, distill_weight=5.0, projection_size=128)
    # Three passes, as CODI's. A teacher's chain has 5 or 12 tokens: of the longer ones an eviction to 8 has to choose.
    for name in ("pccot", "kava"):
        config.stages[name][name].update(num_latents=8, num_sweeps=2)
    config.stages.colar_khot.khot.speeds = config.stages.latent_sft.latent_sft.speeds = "2,5"
    # As many latents as steps.
    config.stages.adaptive.adaptive.update(num_latents=3, base_latents=0, distill_weight=5.0, projection_size=128)
    return config


def _smoke(config) -> None:
    """Everything tiny."""
    config.workdir = "runs/graphs_smoke"
    config.model.preset = "pico"
    config.model.latent_head.intermediate_size = 32
    config.data.update(train_limit=200, num_val=16, num_test=16)
    for stage in config.stages.values():
        stage.update(steps=6, rows=4, log_every=2, eval_every=3)
        stage.optimizer.warmup_steps = 2
    config.stages.icot.icot.removed_per_epoch = 1e4
    for name in ("coconut", "sim_coconut"):
        config.stages[name][name].epochs_per_stage = 0.01
    config.decode.max_latents = 8
