"""Numbers of other papers on the same base, each with the run that should give it: accuracy in % and #L."""

import dataclasses

from colar_jax.report.published_results import GRADE_SCHOOL, LLAMA, MEAN_OF_SETS, Published
from colar_jax.report.results import AS_CONFIGURED

ALL_LINEAR = "query,key,value,out,gate,up,down"
# Lengths and learning rates are those of the configs, where they are their papers'.
_CODI: dict[str, object] = {
    "trained_for": "10 epochs",
    "optimizer.learning_rate": 8e-4,
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


# KaVa's tables have CODI's settings with other latents; versions of the paper differ in methods that are not its own.
_SWEPT: dict[str, object] = {"num_latents": 24, "num_sweeps": 3, "teacher_last_step": False, "distill_embedding": False}
_KAVA_SETTINGS = _SWEPT | {
    "distill_weight": 10.0,
    "cache_weight": 1.0,
    "cache_distance": "smooth_l1",
    "cache_normalise": True,
    "importance_share": 0.1,
    "projection_size": 2048,
}
_BASES = {"qwen": "Qwen/Qwen2.5-0.5B-Instruct", "3b": "meta-llama/Llama-3.2-3B-Instruct"}
_OF_QWEN: dict[str, object] = {"cache_distance": "mse", "projection_size": 896}
# Of training, by the config's argument.
_TRAINED: dict[str, dict[str, object]] = {
    "qwen": {"optimizer.learning_rate": 5e-4},
    "3b": {"trained_for": "5 epochs", "optimizer.learning_rate": 2e-4},
    "3b_nl": {"trained_for": "5 epochs", "optimizer.learning_rate": 2e-4},
}
_OF_3B: dict[str, object] = {"cache_normalise": False, "distill_weight": 20.0, "cache_weight": 2.0}
_SENTENCES = "hub:whynlp/gsm8k-aug-nl"


def _in_kavas_tables(name: str, method: str, argument: str, accuracy: float, flags: str = "", **settings) -> Published:
    """GSM8K alone; `argument` is the config's, `settings` are the method's."""
    of_method = (_KAVA_SETTINGS if method == "kava" else _SWEPT) | settings
    shared = {name: value for name, value in _CODI.items() if not name.startswith("codi.")}
    differs = (
        shared | _TRAINED.get(argument[1:], {}) | {f"{method}.{setting}": value for setting, value in of_method.items()}
    )
    command = f"--config=configs/gsm8k_{method}.py{argument}{flags}"
    row = _row(name, "2510.02312", command, method, (accuracy,), 24, **differs)
    row = dataclasses.replace(row, base=_BASES.get(argument.removeprefix(":").removesuffix("_nl"), LLAMA))
    return dataclasses.replace(row, train=_SENTENCES) if "nl" in argument or "nl" in flags else row


_NL = f" --config.data.train={_SENTENCES} --config.stages.pccot.rows=28 --config.workdir=runs/gsm8k_pccot_nl"


def _kava_without(what: str, accuracy: float, setting: str, value) -> Published:
    flags = f" --config.stages.kava.kava.{setting}={value} --config.workdir=runs/gsm8k_kava_{setting}"
    return _in_kavas_tables(f"KaVa, {what}", "kava", "", accuracy, flags, **{setting: value})


_RUPLAR: dict[str, object] = {
    "trained_for": "10 epochs",
    "optimizer.learning_rate": 3e-4,
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


# Its adapters are those of its authors' code (DJC-GO-SOLO/Latent-SFT f361814, the script of the second stage).
_LATENT_SFT: dict[str, object] = {
    "trained_for": "70 epochs",
    "optimizer.learning_rate": 3e-4,
    "model.lora.rank": 64,
    "model.lora.alpha": 128.0,
    "model.lora.dropout": 0.1,
    "model.lora.targets": ALL_LINEAR,
    "latent_sft.speeds": "2",
    "latent_sft.top_k": 10,
    "latent_sft.noise": True,
    "decode.answer_temperature": 0.6,
    "decode.top_p": 0.95,
    "decode.max_latents": 128,
}
# How many questions their epochs have is not known: as many as GSM8K's training set.
_REWARDED: dict[str, object] = {
    "trainer": "grpo",
    "trained_for": "10 epochs",
    "optimizer.learning_rate": 1e-6,
    "rl.questions_per_epoch": 7473,
}
_LATENT_GRPO: dict[str, object] = _REWARDED | {
    "rl.noise": "one_sided",
    "rl.first_latent": "best_response",
    "rl.overlong": "no_advantage",
    "rl.loss_aggregation": "token",
    "rl.dual_clip": 3.0,
}


def _latent_sft(name: str, source: str, config: str, mean: float, length: float | None, **differs) -> Published:
    """The mean of the four sets, sampled."""
    cells, settings = {MEAN_OF_SETS: (mean, length)}, _LATENT_SFT | differs
    command = f"--config=configs/{config}"
    return Published(name, command, LLAMA, "hub:gsm8k_aug", "latent_sft", "2", cells, settings, "sampled", source)


_IN_WORDS: dict[str, object] = _REWARDED | {
    "rl.num_generations": 8,
    "rl.overlong": "no_advantage",
    "rl.dual_clip": 3.0,
    "decode.max_step_tokens": 128,
    "decode.stop_temperature": 0.6,  # of the chain's words
    "decode.answer_temperature": 0.6,
    "decode.top_p": 0.95,
}


# TrimR's base, and what trims it: three equal answers, by a small language model.
_TRIMMED_BASE = "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"
_TRIMR = (
    f"--config=configs/math_trimr.py --config.model.base={_TRIMMED_BASE} --config.data.test=math500=math500.jsonl "
    "--config.workdir=runs/math_trimr_32b"
)


def _trimr(name: str, accuracy: float, trim: str) -> Published:
    """MATH-500, sampled; the same run is evaluated with and without a verifier."""
    settings: dict[str, object] = {"eval.trim.verifier": "Qwen/Qwen2.5-7B-Instruct", "decode.stop_temperature": 0.6}
    cells = {"math500": (accuracy, None)}
    return Published(name, _TRIMR, _TRIMMED_BASE, "", "cot", "-", cells, settings, "sampled", "2505.17155", trim)


_ADAPTIVE = {setting.replace("codi.", "adaptive."): value for setting, value in _CODI.items()}
_ADAPTIVE |= {"trained_for": "30,000 steps"}
_ADAPTIVE_SOURCE = "2511.21581"
_WHEN_SOLVED: dict[str, object] = {
    "trainer": "grpo",
    "trained_for": "60,000 steps",
    "optimizer.learning_rate": 1e-5,
    "adaptive.num_latents": 10,
    "adaptive.base_latents": 5,
    "rl.num_generations": 16,
    "rl.length_credit": "when_solved",
    "rl.beta": 1e-3,
}
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
        "coconut", (33.2, 7.0, 43.7, 63.3), None, **_WHOLE,
        **{"coconut.num_stages": 5, "coconut.latents_per_stage": 2},
        **{"trained_for": "22 epochs", "optimizer.learning_rate": 1e-5},
    ),
    _row(
        "SIM-CoT on Coconut", _SIM, "--config=configs/gsm8k_simcot.py:coconut", "sim_coconut",
        (42.2, 9.3, 43.9, 87.7), None,
        **_WHOLE, **{"sim_coconut.num_stages": 5, "sim_coconut.latents_per_stage": 2},
        **{"trained_for": "25 epochs", "optimizer.learning_rate": 1e-4},
    ),
    _row(
        "SIM-CoT on CODI", _SIM, "--config=configs/gsm8k_simcot.py", "sim_codi", (56.1, 12.7, 61.5, 96.2), 6,
        **_SIM_CODI, **{"sim_codi.spelling_weight": 1.0},
    ),
    _in_kavas_tables("PCCoT", "pccot", "", 54.2),  # 53.4 in the other version
    _in_kavas_tables("PCCoT, sentences", "pccot", "", 51.0, _NL),
    _in_kavas_tables("KaVa", "kava", "", 56.5),
    _in_kavas_tables("KaVa, sentences", "kava", ":nl", 55.7, cache_distance="mse"),
    _kava_without("hidden states not distilled", 52.8, "distill_weight", 0.0),
    _kava_without("without a projection", 52.2, "projection_size", 0),
    _kava_without("with the last step", 51.2, "teacher_last_step", True),
    _in_kavas_tables("KaVa, Qwen", "kava", ":qwen", 46.9, **_OF_QWEN, cache_normalise=False),
    _in_kavas_tables("KaVa, Qwen, sentences", "kava", ":qwen_nl", 44.4, **_OF_QWEN),
    _in_kavas_tables("KaVa, 3B", "kava", ":3b", 65.7, **_OF_3B, projection_size=3072),
    _in_kavas_tables(
        "KaVa, 3B, sentences", "kava", ":3b_nl", 60.0, **_OF_3B, projection_size=0, importance_share=0.0
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
    _latent_sft("Latent-SFT in Latent-GRPO's tables", "2604.27998", "gsm8k_latent_sft.py", 50.5, None),
    _latent_sft("Latent-GRPO", "2604.27998", "gsm8k_latent_grpo.py", 58.3, 21, **_LATENT_GRPO),
    Published(
        "GRPO of chains in words", "--config=configs/gsm8k_latent_grpo.py:words", LLAMA, "hub:gsm8k_aug", "cot", "-",
        {MEAN_OF_SETS: (58.0, 94)}, _IN_WORDS, "sampled", "2604.27998",
    ),
    _trimr("R1-Distill-Qwen-32B, not trimmed", 90.4, AS_CONFIGURED),
    _trimr("TrimR", 92.4, "2"),
    _row(
        "Adaptive latents, Latent-6", _ADAPTIVE_SOURCE, "--config=configs/gsm8k_adaptive.py:latent_6", "adaptive",
        (49.73,), 6, **_ADAPTIVE, **{"adaptive.base_latents": 6, "adaptive.latents_per_step": 0},
    ),
    _row(
        "Adaptive latents after RL", _ADAPTIVE_SOURCE, "--config=configs/gsm8k_adaptive.py", "adaptive",
        (50.11,), 1.76, **_ADAPTIVE | _WHEN_SOLVED,
    ),
)  # fmt: skip
