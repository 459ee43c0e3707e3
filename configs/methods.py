"""Every method at its best, on equal terms: embedded problems, too many for their labels to be learned by heart.

python benchmarks/methods_table.py runs/methods --seeds 0,1,2,3,4       # all of them, and the table; resumable
python benchmarks/methods_table.py runs/methods_short --config configs/methods.py:short  # in a quarter of the updates
python -m colar_jax.train --config=configs/methods.py                   # one seed
python -m colar_jax.train --config=configs/methods.py:codi              # what CODI's two implementations differ in
python -m colar_jax.train --config=configs/methods.py:smoke             # all of them, tiny

20,000 problems, and not the 2,000 of configs/arithmetic.py:baselines, whose labels all methods learn by heart; 12,000
updates of some 16 problems from one chain of thought, the same learning rate and schedule for all, the chain of
thought too (`more_cot`). What differs is each method's own, as its authors have it where that can be said of a model
this small. Not theirs: Coconut's stages are mixed and its latents rescaled, its curriculum and iCoT's take a seventh
and a fifth of the updates, and iCoT keeps its AdamW; PCCoT and KaVa have 12 latents where longer chains have 23
tokens, and distances of caches weigh a fifth of those of states, not a tenth; SIM-CoT on Coconut starts from the
chain of thought. `:short` is all of it in 3,000 updates, schedules too: how far methods come, not where they end.
That has been run, two and a half hours of a CPU core a seed. Accuracy in %, five seeds: RuPLaR 100.0, SIM-CoT on CODI
80.3, CODI 75.1, SIM-CoT on Coconut 74.6, Coconut 68.6, answer only 63.5; one seed: CoLaR, SIM-CoT on it and mixtures 97
to 100, PCCoT 82.5, iCoT 47 (docs/methods.md has intervals and the others).
"""

from colar_jax.config import config_beside, stage_defaults

_ARITHMETIC = config_beside(__file__, "arithmetic")
# Rows of an update, so that it has 14 to 18 problems (tests/test_config_files.py).
ROWS = {
    "more_cot": 6,
    "colar": 5,
    "icot": 7,
    "coconut": 8,
    "codi": 7,
    "pccot": 7,
    "kava": 7,
    "sim_coconut": 5,
    "sim_codi": 9,
    "sim_colar": 5,
    "ruplar": 6,
    "colar_khot": 5,
    "latent_sft": 5,
    "adaptive": 7,
    "no_cot": 4,
}
# An example of sim_coconut has 90 positions: its texts are read in the same rows.
ROW_POSITIONS = {"sim_coconut": 320}


def get_config(argument: str = ""):
    """All methods after one chain of thought; `codi` has CODI with what others do otherwise, one at a time."""
    if argument not in ("", "codi", "short", "smoke"):
        raise ValueError(f"configs/methods.py knows the arguments codi, short and smoke, not {argument!r}")
    config = _ARITHMETIC.get_config("baselines")
    config.title = "Methods on equal terms"
    config.workdir = f"runs/methods{'_' if argument else ''}{argument}"
    config.data.train_limit = 20_000
    terms = config.stages.no_cot
    config.stages = {"cot": config.stages.cot}
    for name, rows in ROWS.items():
        stage = config.stages[name] = stage_defaults(
            method=name.removeprefix("more_"),
            init_from="cot",
            steps=12_000,
            eval_every=3000,
            log_every=200,
            rows=rows,
            row_positions=ROW_POSITIONS.get(name, 160),
        )
        stage.optimizer.update(terms.optimizer)
    config.run = ",".join(("cot", *ROWS))
    config.eval.update(speeds="2,5", seeds=0, causal=True)
    config.decode.greedy_stop = "half"
    _methods_own(config)
    if argument == "codi":
        _codi_with_differences(config)
    if argument == "short":
        _short(config)
    if argument == "smoke":
        _smoke(config)
    return config


def _methods_own(config) -> None:
    """What is a method's own setting. An epoch has some 1,200 updates."""
    # Speed 5 is the harder one; the latents need the weight (configs/arithmetic.py).
    for name in ("colar", "sim_colar"):
        config.stages[name][_group(name)].update(speeds="2,5,5", weight=10.0)
    config.stages.colar_khot.khot.speeds = config.stages.latent_sft.latent_sft.speeds = "2,5,5"
    # 31 tokens are gone after two epochs. A new AdamW at each removal, every 80 updates, would know little.
    config.stages.icot.icot.update(removed_per_epoch=16.0, smoothing=4.0, reset_optimizer=False)
    # Two latents a step. The fourth stage has no step left in any chain: it is the last, and has the rest.
    for name in ("coconut", "sim_coconut"):
        config.stages[name][name].update(num_stages=4, latents_per_stage=2, epochs_per_stage=0.5, final_stage=False)
        config.stages[name][name].update(reset_optimizer=True, uniform_probability=0.1, end_marker=True, rescale=True)
    for name in ("codi", "sim_codi", "pccot", "kava"):
        config.stages[name][name].update(num_latents=4, distill_weight=5.0, projection_size=128)
    # Three sweeps are four passes, as many as CODI's; a teacher's chain has 16 tokens on average.
    for name in ("pccot", "kava"):
        config.stages[name][name].update(num_latents=12, num_sweeps=3)
    # A latent for each of the two to four steps.
    adaptive = dict(num_latents=4, base_latents=0, distill_weight=5.0, projection_size=128)
    config.stages.adaptive.adaptive.update(adaptive)


def _group(name: str) -> str:
    return "latent" if name == "colar" else name


def _codi_with_differences(config) -> None:
    """CODI as its authors have it, and with each of what CoLaR's authors do otherwise that is a stage's own.

    Adapters on q and v alone are a run of their own: `--config.model.lora.rank=32` here, and once more with all
    targets. The evaluation without the question is `colar_jax.evaluate --config.decode.latents_see_question=False`.
    """
    given = config.stages.codi
    for name, settings in {
        "last_step": dict(teacher_last_step=True),
        "unnormalised": dict(normalise=False),  # the projection is one for all stages of a run: it keeps its LayerNorm
        "nothing_distilled": dict(distill_weight=0.0),
    }.items():
        stage = config.stages[f"codi_{name}"] = stage_defaults(method="codi")
        stage.update({key: value for key, value in given.items() if key not in ("method", "codi")})
        stage.codi.update(given.codi)
        stage.codi.update(settings)
    config.run = "cot,codi,codi_last_step,codi_unnormalised,codi_nothing_distilled,no_cot"


def _short(config) -> None:
    """A quarter of the updates, and of the epochs that a schedule takes."""
    for name in ROWS:
        config.stages[name].update(steps=3000, eval_every=1500)
    config.stages.icot.icot.removed_per_epoch *= 4
    for name in ("coconut", "sim_coconut"):
        config.stages[name][name].epochs_per_stage /= 4


def _smoke(config) -> None:
    config.model.preset = "pico"
    config.model.latent_head.intermediate_size = 32
    config.data.update(train_limit=300, num_val=8, num_test=8)
    config.eval.causal = False
    config.decode.update(max_latents=8, max_step_tokens=8)
    for stage in config.stages.values():
        stage.update(steps=4, rows=4, log_every=2, eval_every=4)
        stage.optimizer.warmup_steps = 2
    config.stages.icot.icot.removed_per_epoch = 1e4
    for name in ("coconut", "sim_coconut"):
        config.stages[name][name].epochs_per_stage = 0.01
    for name in ("codi", "sim_codi", "pccot", "kava", "adaptive"):
        config.stages[name][name].projection_size = 16
