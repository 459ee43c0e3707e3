"""Numbers of other papers on the same base, each with the run that should give it: accuracy in % and #L."""

from colar_jax.report.published_results import GRADE_SCHOOL, LLAMA, MEAN_OF_SETS, Published

ALL_LINEAR = "query,key,value,out,gate,up,down"
_CODI: dict[str, object] = {
    "model.lora.rank": 128,
    "model.lora.alpha": 32.0,
    "model.lora.dropout": 0.1,
    "model.lora.targets": ALL_LINEAR,
    "codi.num_latents": 6,
    "codi.distill_weight": 20.0,
    "codi.normalise": True,
    "codi.teacher_last_step": False,
}


def _row(name: str, source: str, command: str, method: str, accuracies, length: float | None, **differs) -> Published:
    """Greedy accuracies on the first of the four sets, None where there is none, all at one #L."""
    cells = {
        dataset: (accuracy, length)
        for dataset, accuracy in zip(GRADE_SCHOOL, accuracies, strict=False)
        if accuracy is not None
    }
    return Published(name, command, LLAMA, "hub:gsm8k_aug", method, "-", cells, differs, "greedy", source)


def _codi(gamma: int, accuracies) -> Published:
    flags = "" if gamma == 20 else f" --config.stages.codi.codi.distill_weight={gamma}.0"
    flags += flags and f" --config.workdir=runs/gsm8k_codi_gamma_{gamma}"
    differs = _CODI | {"codi.distill_weight": float(gamma)}
    return _row(
        f"CODI, gamma={gamma}", "2502.21074", f"--config=configs/gsm8k_codi.py{flags}", "codi", accuracies, 6, **differs
    )


_RUPLAR: dict[str, object] = {
    "model.lora.rank": 64,
    "model.lora.alpha": 128.0,
    "model.lora.dropout": 0.1,
    "model.lora.targets": ALL_LINEAR,
    "ruplar.rule": "mix",
    "ruplar.kl_weight": 1.0,
    "ruplar.sem_weight": 1.0,
    "ruplar.min_share": 0.01,
    "decode.answer_temperature": 0.6,
    "decode.top_p": 0.95,
    "decode.max_latents": 128,
}


def _ruplar(name: str, argument: str, cells: dict[str, tuple[float, float | None]], **differs) -> Published:
    """Sampled; an ablation has its settings as flags."""
    flags = "".join(f" --config.stages.ruplar.{setting}={value}" for setting, value in differs.items())
    flags += flags and f" --config.workdir=runs/gsm8k_ruplar_{name.split()[-1]}"
    command = f"--config=configs/gsm8k_ruplar.py{argument}{flags}"
    settings = _RUPLAR | differs | ({"ruplar.rule": argument[1:]} if argument else {})
    return Published(name, command, LLAMA, "hub:gsm8k_aug", "ruplar", "-", cells, settings, "sampled", "2605.09346")


_SIM_CODI = {setting.replace("codi.", "sim_codi."): value for setting, value in _CODI.items()}
_SIM = "2509.20317"
_WHOLE: dict[str, object] = {"model.lora.rank": 0}

OF_OTHERS: tuple[Published, ...] = (
    _codi(20, (51.9, 12.8, 61.1, 96.1)),  # GSM8K from the table of gamma; its headline is higher
    _codi(1, (46.5,)),
    _codi(5, (50.2,)),
    _codi(30, (51.4,)),
    _row(
        "Coconut in SIM-CoT's tables", _SIM,
        "--config=configs/gsm8k_simcot.py:coconut --config.run=cot,coconut --config.workdir=runs/gsm8k_simcot_host",
        "coconut", (33.2, 7.0, 43.7, 63.3), None, **_WHOLE, **{"coconut.num_stages": 5, "coconut.latents_per_stage": 2},
    ),
    _row(
        "SIM-CoT on Coconut", _SIM, "--config=configs/gsm8k_simcot.py:coconut", "sim_coconut",
        (42.2, 9.3, 43.9, 87.7), None,
        **_WHOLE, **{"sim_coconut.num_stages": 5, "sim_coconut.latents_per_stage": 2},
    ),
    _row(
        "SIM-CoT on CODI", _SIM, "--config=configs/gsm8k_simcot.py", "sim_codi", (56.1, 12.7, 61.5, 96.2), 6,
        **_SIM_CODI, **{"sim_codi.spelling_weight": 1.0},
    ),
    _ruplar(
        "RuPLaR, mix", "",
        {"gsm8k": (46.0, 3.0), "gsmhard": (10.8, None), "svamp": (54.3, None), "multiarith": (95.0, None),
         MEAN_OF_SETS: (51.5, 2.37)},
    ),
    _ruplar("RuPLaR, temp", ":temp", {MEAN_OF_SETS: (50.2, None)}),
    _ruplar("RuPLaR, gumbel", ":gumbel", {MEAN_OF_SETS: (50.9, None)}),
    _ruplar("RuPLaR, uniform", "", {"gsm8k": (35.1, None)}, **{"ruplar.rule": "uniform"}),
    _ruplar("RuPLaR without SEM", "", {"gsm8k": (39.1, None)}, **{"ruplar.sem_weight": 0.0}),
    _ruplar("RuPLaR without cut", "", {"gsm8k": (39.6, None)}, **{"ruplar.min_share": 0.0}),
)  # fmt: skip
