"""The paper's numbers (arXiv 2505.16552, tables 1 to 3), each with the run that should give it.

Accuracy in %, and #L; sampled answers, mean of 5 seeds.
"""

import dataclasses

GRADE_SCHOOL = ("gsm8k", "gsmhard", "svamp", "multiarith")
MEAN = "mean"  # over the grade-school sets
LLAMA = "meta-llama/Llama-3.2-1B-Instruct"
QWEN = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
# What of a stage's settings tells two rows of one method apart, and its value unless a row says another.
USUAL = {"deterministic": False, "supervise_steps": True, "pooling": "sqrt", "loss": "soft_mse", "trainer": "sft"}


@dataclasses.dataclass(frozen=True)
class Published:
    """One row of the paper's tables, and the command that should give it."""

    name: str
    command: str  # what follows `python -m colar_jax.train`
    base: str
    train: str  # the training data
    method: str
    speed: str  # "-" for a method that has none
    cells: dict[str, tuple[float, float | None]]  # data set -> accuracy in %, #L where it is known
    differs: dict[str, object] = dataclasses.field(default_factory=dict)  # from USUAL

    @property
    def settings(self) -> dict[str, object]:
        """What of a stage's settings the row is about."""
        return USUAL | self.differs


def _grade_school(name: str, command: str, method: str, accuracies, lengths, *, speed="-", **differs) -> Published:
    cells = dict(zip((*GRADE_SCHOOL, MEAN), zip(accuracies, lengths, strict=True), strict=True))
    return Published(name, command, LLAMA, "hub:gsm8k_aug", method, speed, cells, differs)


def _ablation(name: str, flag: str, speed: str, gsm8k: float, mean: float, **differs) -> Published:
    command = f"--config=configs/gsm8k_colar.py {flag} --config.workdir=runs/gsm8k_colar_{name.lower()}"
    cells = {"gsm8k": (gsm8k, None), MEAN: (mean, None)}
    return Published(f"CoLaR c={speed}, {name}", command, LLAMA, "hub:gsm8k_aug", "colar", speed, cells, differs)


def _math(name: str, base: str, command: str, method: str, accuracy: float, length: float, speed="2", **differs):
    if base == LLAMA:
        command = command.replace(".py:", ".py:llama_") if ".py:" in command else command.replace(".py", ".py:llama")
        command = command.replace("runs/math_colar", "runs/math_colar_llama")
    name = f"MATH, {'Llama' if base == LLAMA else 'Qwen'}: {name}"
    return Published(name, command, base, "hub:math", method, speed, {"math": (accuracy, length)}, differs)


_ABLATIONS = (  # name, flag, settings, then GSM8K and mean at c = 5, at c = 2
    ("DL", "--config.model.latent_head.deterministic=True", {"deterministic": True}, (26.7, 41.3), (39.7, 48.2)),
    (
        "OC",
        "--config.stages.colar.latent.supervise_steps=False",
        {"supervise_steps": False},
        (24.8, 40.1),
        (39.1, 48.2),
    ),
    ("MP", "--config.stages.colar.latent.pooling=mean", {"pooling": "mean"}, (20.6, 38.3), (36.9, 46.6)),
    ("NLL", "--config.stages.colar.latent.loss=nll", {"loss": "nll"}, (20.3, 37.6), (32.3, 44.8)),
)
_COLAR = "--config=configs/gsm8k_colar.py"
_ON_MATH = (  # name, command, method, settings, then Qwen's accuracy and #L, Llama's
    ("CoT", "--config=configs/math_cot.py", "cot", "-", {}, (23.5, 209), (9.71, 210)),
    (
        "CoLaR, DL",
        "--config=configs/math_colar.py --config.model.latent_head.deterministic=True"
        " --config.stages.colar.latent.loss=soft_mse --config.workdir=runs/math_colar_dl",
        "colar",
        "2",
        {"deterministic": True},
        (9.04, 99.4),
        (3.07, 134),
    ),
    ("CoLaR, NLL", "--config=configs/math_colar.py", "colar", "2", {"loss": "nll"}, (8.94, 56.8), (5.28, 83.1)),
    (
        "CoLaR, NLL + RL",
        "--config=configs/math_rl.py",
        "colar",
        "2",
        {"trainer": "grpo", "aggregation": "chain_mean"},
        (14.3, 9.79),
        (7.08, 16.1),
    ),
    (
        "CoLaR, NLL + RL without averaging",
        "--config=configs/math_rl.py:no_averaging",
        "colar",
        "2",
        {"trainer": "grpo", "aggregation": "configured_length"},
        (13.8, 128),
        (0.0, 128),
    ),
)

PUBLISHED: tuple[Published, ...] = (
    _grade_school(
        "CoT", "--config=configs/gsm8k_cot.py", "cot", (49.4, 11.9, 59.8, 93.2, 53.6), (25.6, 34.2, 12.1, 13.7, 21.4)
    ),
    _grade_school(
        "iCoT", "--config=configs/gsm8k_icot.py:paper --config.stages.icot.init_from=runs/gsm8k_cot/cot", "icot",
        (19.8, 3.87, 36.4, 38.2, 24.6), (0.0,) * 5,
    ),
    _grade_school(
        "Coconut",
        "--config=configs/gsm8k_coconut.py:paper --config.run=coconut"
        " --config.stages.coconut.init_from=runs/gsm8k_cot/cot",
        "coconut", (23.1, 5.49, 40.7, 41.1, 27.6), (6.0,) * 5,
    ),
    _grade_school(
        "Distill", "--config=configs/gsm8k_codi.py:paper --config.stages.codi.init_from=runs/gsm8k_cot/cot", "codi",
        (13.3, 2.97, 21.7, 19.2, 14.3), (6.0,) * 5,
    ),
    _grade_school(
        "CoLaR c=5", _COLAR, "colar", (26.8, 5.87, 48.4, 86.4, 41.7), (5.57, 6.53, 2.95, 3.21, 4.57), speed="5"
    ),
    *(_ablation(name, flag, "5", *at_5, **differs) for name, flag, differs, at_5, _ in _ABLATIONS),
    _grade_school(
        "CoLaR c=2", _COLAR, "colar", (40.1, 9.08, 54.9, 91.3, 48.8), (12.7, 14.0, 6.11, 7.35, 10.0), speed="2"
    ),
    *(_ablation(name, flag, "2", *at_2, **differs) for name, flag, differs, _, at_2 in _ABLATIONS),
    *(
        _math(name, base, command, method, *numbers, speed=speed, **differs)
        for name, command, method, speed, differs, qwen, llama in _ON_MATH
        for base, numbers in ((QWEN, qwen), (LLAMA, llama))
    ),
)  # fmt: skip
