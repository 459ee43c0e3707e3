"""Settings of an evaluation that no stage of it reads: a user who asks for limits should not get a report without."""

import logging
from collections.abc import Callable, Sequence

from colar_jax.config import Config
from colar_jax.errors import UserError
from colar_jax.runs.asked_speeds import stages_of
from colar_jax.runs.sweep.cells import reads_limit

logger = logging.getLogger(__name__)


def refuse_idle_settings(configs: Sequence[Config]) -> None:
    """UserError where a setting of `eval` is given and no stage that is evaluated, of any of the runs, reads it.

    What trims chains, whether latents are tested and speeds stand in config files, whose stages may be trained or
    evaluated one by one: they are refused only where no stage of the file reads them. Speeds, which came from one file
    into others that have no use for them, are only told: runs that have them are evaluated all the same.
    """
    if not any(config.stages[stage].bound_method.answers_problems for config in configs for stage in stages_of(config)):
        return  # what is evaluated answers nothing that could be ended or tested
    for name, (value_of, reads, what) in _SETTINGS.items():
        asked = [config for config in configs if value_of(config)]
        if not asked or any(reads(config, stage) for config in asked for stage in stages_of(config)):
            continue
        is_for_others = name in _OF_FILES and any(reads(config, stage) for config in asked for stage in config.stages)
        if not is_for_others:
            evaluated = ", ".join(dict.fromkeys(stage for config in asked for stage in stages_of(config)))
            value = value_of(asked[0])
            objection = (
                f"eval.{name}={value!r} is for {what}, and nothing that is evaluated does ({evaluated}): name other "
                f"stages in eval.stages, or do without by --config.eval.{name}={False if value is True else ''}"
            )
            if name not in _TOLD:
                raise UserError(objection)
            logger.warning("%s", objection)


def _thinks(config: Config, stage: str):
    return config.stages[stage].bound_method.thinking(config.decode, 0, greedy=True)


def _in_latents(config: Config, stage: str) -> bool:
    return _thinks(config, stage).in_latents


def _in_words(config: Config, stage: str) -> bool:
    return _thinks(config, stage).in_words


# A setting of `eval` -> its value where it asks for something, whether a stage reads it, and what such a stage does.
_SETTINGS: dict[str, tuple[Callable[[Config], object], Callable[[Config, str], bool], str]] = {
    "latent_limits": (
        lambda config: config.eval.latent_limits,
        lambda config, stage: reads_limit(config, stage, "max_latents"),
        "what thinks as long as decode.max_latents lets it",
    ),
    "word_budgets": (
        lambda config: config.eval.word_budgets,
        lambda config, stage: reads_limit(config, stage, "max_step_tokens"),
        "what thinks in words",
    ),
    "trim.verifier": (lambda config: config.eval.trim.verifier, _in_words, "what thinks in words"),
    "causal": (lambda config: config.eval.causal, _in_latents, "what thinks in latents"),
    "speeds": (
        lambda config: config.eval.speeds,
        lambda config, stage: config.stages[stage].bound_method.has_speed,
        "what thinks at the speed that it is told",
    ),
}
_OF_FILES = ("trim.verifier", "causal", "speeds")
_TOLD = ("speeds",)
