"""Settings of training that a stage would not read: said before it begins, instead of passed over.

They are rules for what is trained from now on. What was trained with such a setting goes on, is opened and evaluated.
Not among them is what a size of 0 switches off as a whole, with one flag: of adapters (`model.lora.rank`), of CODI's
projection.
"""

import logging
from collections.abc import Sequence

from colar_jax.config import RlConfig, StageConfig
from colar_jax.errors import UserError
from colar_jax.methods.colar import Colar
from colar_jax.runs.run import Run
from colar_jax.settings import ModelConfig, split_names

logger = logging.getLogger(__name__)


def refuse_idle_in_training(run: Run, names: Sequence[str]) -> None:
    """UserError where one of these stages, which are to begin, has a setting that does nothing, for certain a mistake.

    Told is what a config may say for other heads than this run's.
    """
    model = run.config.model
    for name in names:
        stage, method = run.config.stages[name], run.method(name)
        if stage.trainer != "sft":
            continue  # its settings of learning from data are those of the stage that it goes on from
        if objection := method.idle_in_training():
            raise UserError(f"stages.{name}.{method.group}.{objection}")
        if isinstance(method, Colar) and method.entropy_weight and model.latent_head.deterministic:
            logger.warning(
                "stages.%s.%s.entropy_weight=%g does nothing with model.latent_head.deterministic=True: latents "
                "without a standard deviation have no entropy", name, method.group, method.entropy_weight,
            )  # fmt: skip


# Settings of rewards: another one of them, and its choices under which they do nothing. A function of one's own may
# read any.
_UNREAD_UNDER = {
    "length_weight": ("length_credit", ("none",)),
    "length_target": ("length_credit", ("none", "penalty", "cost", "when_solved")),
    "budget_rate": ("budget", (0.0,)),
    "configured_length": ("loss_aggregation", ("chain_mean", "token")),
    "advantage_eps": ("advantage", ("dr_grpo",)),
    "decision_weight": ("stop_credit", ("answer",)),  # the stop is a term of the answer, and weighs as one
}


def idle_settings(stage: StageConfig, model: ModelConfig) -> str:
    """What speaks against a stage's settings of rewards, one of them first; empty where nothing does.

    They do nothing, or the opposite of what they say. It is a rule for what is trained from now on: a run that was
    trained with them can be opened.
    """
    rl = stage.rl
    rewards = [part.rpartition("*")[2].strip() for part in split_names(rl.reward)]
    if rl.length_penalty and "correctness" not in rewards:
        return (
            f"length_penalty={rl.length_penalty} is a share of what a right answer is worth under 'correctness', which "
            f"rl.reward={rl.reward!r} does not have: set it to 0, or pay lengths with rl.length_credit"
        )
    if rl.budget and rl.length_credit == "when_solved":
        return (
            f"budget={rl.budget} with rl.length_credit='when_solved': where not all answers of a group are right it "
            "pays longer chains, the more the higher its weight, so no weight meets a budget; take penalty, cost or "
            "among_right"
        )
    if rl.budget and rl.length_credit == "cost" and stage.eval_every and not rl.length_price:
        return (
            f"budget={rl.budget} with eval_every={stage.eval_every}: the checkpoint of most right answers is kept, "
            "whatever it costs, and answers for the stage; set eval_every=0, or a price for that in rl.length_price"
        )
    of_choices = {"choice_weight": 1, "choice_entropy_weight": 0}
    for name, default in {} if stage.bound_method.chooses_speed else of_choices.items():
        if (value := getattr(rl, name)) != default:
            return (
                f"{name}={value} is of a speed that the model chooses, and method={stage.method!r} chooses none; "
                f"leave it at {default}"
            )
    defaults = RlConfig()
    for field, (other, choices) in _UNREAD_UNDER.items():
        if (value := getattr(rl, field)) != getattr(defaults, field) and getattr(rl, other) in choices:
            return (
                f"{field}={value} does nothing under rl.{other}={getattr(rl, other)!r}: leave it at "
                f"{getattr(defaults, field)}, or set rl.{other}"
            )
    if rl.rollout_dropout and not model.lora.rank:
        return "rollout_dropout=True without adapters, which alone drop out: set model.lora.rank"
    return ""
