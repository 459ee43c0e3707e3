"""The paper's numbers (arXiv 2505.16552, tables 1 to 3), each with the run that should give it.

Accuracy in %, and #L; sampled answers, mean of 5 seeds.
"""

import dataclasses
from collections.abc import Sequence

from colar_jax.report.results import AS_CONFIGURED
from colar_jax.statistics.intervals import Interval, wilson

GRADE_SCHOOL = ("gsm8k", "gsmhard", "svamp", "multiarith")
MEAN_OF_SETS = "mean"  # over the grade-school sets
LLAMA = "meta-llama/Llama-3.2-1B-Instruct"
QWEN = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
# How many questions the test sets have.
NUM_QUESTIONS = {"gsm8k": 1319, "gsmhard": 1319, "svamp": 1000, "multiarith": 600, "math": 5000, "math500": 500}

# Settings of a run (`model.`, `data.`, `decode.`) and of its stage that make it a reproduction: of every row, and of
# those of a method, unless a row says another. `trained_for` and `start` are written as `ledger_settings` reads them.
_WHOLE_DATA: dict[str, object] = {"data.train_limit": 0, "data.verifier": "numeric"}
_FROM_COT = "cot for 10 epochs"
USUAL: dict[str, object] = _WHOLE_DATA | {
    "trainer": "sft",
    "trained_for": "50 epochs",
    "start": _FROM_COT,
    "optimizer.learning_rate": 1e-4,
    "model.lora.rank": 128,
    "model.lora.alpha": 32.0,
    "model.lora.dropout": 0.0,
    "model.lora.targets": "query,value",
    "decode.answer_temperature": 1.0,
    "decode.top_p": 0.9,
    "decode.max_answer_tokens": 16,
    "decode.latents_see_question": True,
}
_LATENT_DECODING: dict[str, object] = {
    "model.latent_head.deterministic": False,
    "decode.latent_temperature": 1.0,
    "decode.stop_temperature": 1.0,
    "decode.max_latents": 64,
    "decode.min_latents": 1,
    "decode.min_latent_std": 0.0,
    "decode.latent_noise": "two_sided",
    "decode.stop_odds_temperature": 1.0,
    "latent.speeds": "1,2,3,4,5",
}
USUAL_OF_METHOD: dict[str, dict[str, object]] = {
    "cot": {
        "trained_for": "10 epochs",
        "start": "",
        "decode.stop_temperature": 1.0,
    },  # the temperature is that of words
    "icot": {"icot.unit": "step", "icot.all_beyond": 3},
    "coconut": {"coconut.num_stages": 3, "coconut.latents_per_stage": 2, "coconut.final_stage": False},
    "codi": {
        "codi.num_latents": 6,
        "codi.distill_weight": 20.0,
        "codi.teacher_last_step": True,
        "codi.normalise": False,
        "codi.projection_layer_norm": False,
    },
    "colar": _LATENT_DECODING
    | {
        "latent.weight": 1.0,
        "latent.loss": "soft_mse",
        "latent.pooling": "sqrt",
        "latent.supervise_steps": True,
        "latent.entropy_weight": 0.0,
        "latent.predicted_pass_weight": 0.0,
    },
}
_ON_MATH_SETTINGS: dict[str, object] = {
    "latent.speeds": "2",
    "latent.entropy_weight": -1e-6,
    "latent.predicted_pass_weight": 1.0,
    "decode.max_latents": 128,
}
_REWARDED: dict[str, object] = {
    "trainer": "grpo",
    "trained_for": "10 epochs",
    "start": f"{_FROM_COT}, colar for 50 epochs",
    "optimizer.learning_rate": 1e-6,
    "rl.questions_per_epoch": 512,
}


@dataclasses.dataclass(frozen=True)
class Published:
    """One row of the paper's tables, and the command that should give it."""

    name: str
    command: str  # what follows `python -m colar_jax.train`
    base: str
    train: str  # the training data; empty: any
    method: str
    speed: str  # "-" for a method that has none
    cells: dict[str, tuple[float, float | None]]  # data set -> accuracy in %, #L where it is known
    differs: dict[str, object] = dataclasses.field(default_factory=dict)  # from what is usual
    sampling: str = "sampled"  # how answers are decoded: sampled, or greedy
    source: str = ""  # another paper than CoLaR's, whose usual settings it does not share
    trim: str = AS_CONFIGURED  # after how many agreements chains were ended (`eval.trim`)

    @property
    def settings(self) -> dict[str, object]:
        """All settings that a reproduction has, by their names in a run's config and in its stage."""
        if self.source:
            data = {"data.train": self.train} | _WHOLE_DATA if self.train else {}
            always = {"model.base": self.base, "trainer": "sft", "decode.latents_see_question": True}
            return always | data | self.differs
        # Reinforcement learning has no latent loss of its own.
        is_rl = self.differs.get("trainer") == "grpo"
        usual = USUAL | (_LATENT_DECODING if is_rl else USUAL_OF_METHOD[self.method])
        return {"model.base": self.base, "data.train": self.train} | usual | self.differs

    @property
    def num_seeds(self) -> int:
        """How many sampled decodes the number is a mean of, where the paper says so; else 1."""
        return 1 if self.source or self.sampling == "greedy" else 5

    def interval(self, dataset: str) -> Interval:
        """The published accuracy, and its Wilson interval over the questions of the set."""
        accuracy, _ = self.cells[dataset]
        return wilson_of_share(accuracy / 100, [NUM_QUESTIONS[name] for name in self.sets_of(dataset)])

    def sets_of(self, dataset: str) -> tuple[str, ...]:
        """The test sets behind a number: of the mean all four."""
        return GRADE_SCHOOL if dataset == MEAN_OF_SETS else (dataset,)


def _grade_school(name: str, command: str, method: str, accuracies, lengths, *, speed="-") -> Published:
    cells = dict(zip((*GRADE_SCHOOL, MEAN_OF_SETS), zip(accuracies, lengths, strict=True), strict=True))
    return Published(name, command, LLAMA, "hub:gsm8k_aug", method, speed, cells)


def _ablation(name: str, flag: str, speed: str, accuracies: tuple[float, float], differs: dict) -> Published:
    command = f"--config=configs/gsm8k_colar.py {flag} --config.workdir=runs/gsm8k_colar_{name.lower()}"
    gsm8k, mean = accuracies
    cells = {"gsm8k": (gsm8k, None), MEAN_OF_SETS: (mean, None)}
    return Published(f"CoLaR c={speed}, {name}", command, LLAMA, "hub:gsm8k_aug", "colar", speed, cells, differs)


def _math(name: str, base: str, command: str, method: str, accuracy: float, length: float, speed="2", **differs):
    if base == LLAMA:
        command = command.replace(".py:", ".py:llama_") if ".py:" in command else command.replace(".py", ".py:llama")
        command = command.replace("runs/math_colar", "runs/math_colar_llama")
    name = f"MATH, {'Llama' if base == LLAMA else 'Qwen'}: {name}"
    differs = {"data.verifier": "math"} | differs
    if method == "colar":
        is_rl = differs.get("trainer") == "grpo"
        unread = ("latent.entropy_weight", "latent.predicted_pass_weight") if is_rl else ()
        on_math = {setting: value for setting, value in _ON_MATH_SETTINGS.items() if setting not in unread}
        differs = on_math | differs
    return Published(name, command, base, "hub:math", method, speed, {"math": (accuracy, length)}, differs)


def wilson_of_share(share: float, num_questions: Sequence[int]) -> Interval:
    """A Wilson interval of a share of right answers, or of the plain mean of several sets' shares.

    The mean's variance is that of one set of k^2 / sum(1 / n) questions, if all sets were as hard; that they are not
    makes the interval a little too wide, never too narrow.
    """
    effective = len(num_questions) ** 2 / sum(1 / n for n in num_questions)
    return wilson(share * effective, effective)


_ABLATIONS = (  # name, flag, settings, then GSM8K and mean at c = 5, at c = 2
    (
        "DL",
        "--config.model.latent_head.deterministic=True",
        {"model.latent_head.deterministic": True},
        (26.7, 41.3),
        (39.7, 48.2),
    ),
    (
        "OC",
        "--config.stages.colar.latent.supervise_steps=False",
        {"latent.supervise_steps": False},
        (24.8, 40.1),
        (39.1, 48.2),
    ),
    ("MP", "--config.stages.colar.latent.pooling=mean", {"latent.pooling": "mean"}, (20.6, 38.3), (36.9, 46.6)),
    ("NLL", "--config.stages.colar.latent.loss=nll", {"latent.loss": "nll"}, (20.3, 37.6), (32.3, 44.8)),
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
        {"model.latent_head.deterministic": True},
        (9.04, 99.4),
        (3.07, 134),
    ),
    ("CoLaR, NLL", "--config=configs/math_colar.py", "colar", "2", {"latent.loss": "nll"}, (8.94, 56.8), (5.28, 83.1)),
    (
        "CoLaR, NLL + RL",
        "--config=configs/math_rl.py",
        "colar",
        "2",
        _REWARDED | {"rl.loss_aggregation": "chain_mean"},
        (14.3, 9.79),
        (7.08, 16.1),
    ),
    (
        "CoLaR, NLL + RL without averaging",
        "--config=configs/math_rl.py:no_averaging",
        "colar",
        "2",
        _REWARDED | {"rl.loss_aggregation": "configured_length"},
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
    *(_ablation(name, flag, "5", at_5, differs) for name, flag, differs, at_5, _ in _ABLATIONS),
    _grade_school(
        "CoLaR c=2", _COLAR, "colar", (40.1, 9.08, 54.9, 91.3, 48.8), (12.7, 14.0, 6.11, 7.35, 10.0), speed="2"
    ),
    *(_ablation(name, flag, "2", at_2, differs) for name, flag, differs, _, at_2 in _ABLATIONS),
    *(
        _math(name, base, command, method, *numbers, speed=speed, **differs)
        for name, command, method, speed, differs, qwen, llama in _ON_MATH
        for base, numbers in ((QWEN, qwen), (LLAMA, llama))
    ),
)  # fmt: skip
