"""What a stage and the one that it starts from must have in common: said before anything is trained."""

from pathlib import Path

from colar_jax.errors import UserError
from colar_jax.methods import Method, find_method
from colar_jax.model.speed_choice import SPEED_CHOICE
from colar_jax.runs.run import Run
from colar_jax.settings.checks import parse_speeds

TRAINED_POOLING = "sqrt"  # of the groups that labels of changes in mid-chain are learned from


def refuse_unfit_source(run: Run, name: str, folder: Path | None, settings: dict) -> None:
    """UserError where a stage cannot go on from what it starts from.

    Args:
        folder: of the stage that it starts from; None: from the initial weights.
        settings: that the one in `folder` is or will be trained with, as its checkpoints name them.
    """
    stage, method = run.config.stages[name], run.method(name)
    is_rewarded = stage.trainer == "grpo"
    if folder is None:
        if is_rewarded:
            raise UserError(f"stages.{name}: trainer='grpo' improves a trained model: name one with init_from=")
        if method.chooses_speed:
            raise UserError(
                f"stages.{name}: method={stage.method!r} chooses among speeds at which a model answers already: name "
                "a stage of colar with init_from="
            )
        return
    source = source_method(settings)
    if is_rewarded and (begins_latents(method, source) or not _has_such_latents(method, source)):
        raise UserError(f"stages.{name}: trainer='grpo' needs latents that were trained, and {folder} has none yet")
    if method.chooses_speed:
        refuse_another_reading(run, folder, settings)
    if is_rewarded or method.chooses_speed:
        _refuse_another_telling(run, name, folder, _was_told(source, settings))
        _refuse_another_timeline(run, name, folder, settings)
    if method.chooses_speed and not is_rewarded:
        _refuse_what_gives_no_labels(run, name, folder, source, settings)


def refuse_another_reading(run: Run, folder: Path, settings: dict) -> None:
    """UserError where a stage's choice of a speed, if it has one, would be read as another than it learned."""
    method = source_method(settings)
    module = run.model.modules.get(SPEED_CHOICE)
    if not method.chooses_speed or module is None:
        return
    learned = {name: settings.get(f"stage.{method.group}.{name}") for name in ("grid", "labels", "mid_chain")}
    now = {"grid": module.settings.speeds, "mid_chain": module.settings.mid_chain}
    was = {"grid": tuple(map(float, parse_speeds(learned["grid"]))), "mid_chain": bool(learned["mid_chain"])}
    is_of_labels = settings.get("stage.trainer", "sft") == "sft"
    if is_of_labels and folder.resolve() in [(run.workdir / name).resolve() for name in run.config.stages]:
        now["labels"] = "each" if module.settings.of_each else "fastest"
        was["labels"] = learned["labels"] or "fastest"
    for name, value in was.items():
        if now[name] != value:
            raise UserError(
                f"{folder} has learned its choice of a speed with {method.group}.{name}={learned[name]!r}, and would "
                "be read with another: set it to that"
            )


def source_method(settings: dict) -> Method:
    """The method of a stage, by the settings that its checkpoints name; its own settings are the defaults."""
    return find_method(settings["stage.method"])()


def begins_latents(method: Method, source: Method) -> bool:
    """Whether a stage of `method` is the first to learn latents, so that their size is that of the embeddings now."""
    return method.calibrates and "latent_head" not in source.trains and not source.draws_latents


def _was_told(source: Method, settings: dict) -> str:
    """How the model of a stage is told a speed that it is asked for."""
    return "number" if source.chooses_speed else settings.get(f"stage.{source.group}.conditioning", "text")


def _has_such_latents(method: Method, source: Method) -> bool:
    """Whether a stage of `source` has learned latents as those of `method`, where they are not of the latent head.

    They are of one kind, and the method's own modules are among what the source has trained: adaptive latents are
    CODI's, but CODI never learned to stop.
    """
    if method.draws_latents:
        return True
    shared = set(type(method).__mro__) & set(type(source).__mro__)
    is_of_kind = any(issubclass(kind, Method) and kind is not Method for kind in shared)
    return is_of_kind and set(method.modules) <= set(source.trains)


def _refuse_another_telling(run: Run, name: str, folder: Path, was_told: str) -> None:
    """UserError where a speed would not be told as the model that a stage starts from has learned it."""
    is_told = run.method(name).recipe.conditioning
    if is_told == "own":
        if was_told != "number":
            also = "of own_speed, or " if run.config.stages[name].trainer == "grpo" else ""
            raise UserError(
                f"stages.{name}: a model that chooses its speed is told it as a number, and what {folder} learns is of "
                f"latent.conditioning={was_told!r}: start from a stage {also}of colar with latent.conditioning='number'"
            )
        return
    if was_told != is_told and (was_told, is_told) != ("text", "both"):
        raise UserError(
            f"stages.{name}.latent.conditioning={is_told!r}, and {folder} was trained with {was_told!r}: set it to that"
        )


def _refuse_another_timeline(run: Run, name: str, folder: Path, settings: dict) -> None:
    """UserError where a stage that learns no latents, or improves them, would place them otherwise than was learned."""
    was = settings.get(f"stage.{source_method(settings).group}.timeline", "latents")
    method = run.method(name)
    wanted = getattr(method, "timeline", "latents")
    if wanted != was:
        raise UserError(
            f"stages.{name}.{method.group}.timeline={wanted!r}, and {folder} was trained with {was!r}: set it to that"
        )


def _refuse_what_gives_no_labels(run: Run, name: str, folder: Path, source: Method, settings: dict) -> None:
    """UserError unless a model answers at the speed that it is told, from groups as labels are made of."""
    if source.chooses_speed:
        raise UserError(
            f"stages.{name} learns from what a model gets right at each speed, and {folder} chooses its own: start "
            "from the stage of colar that it started from"
        )
    pooling = settings.get(f"stage.{source.group}.pooling", TRAINED_POOLING)
    if run.method(name).mid_chain and pooling != TRAINED_POOLING:
        raise UserError(
            f"stages.{name}.own_speed.mid_chain=True learns from groups that are pooled by {TRAINED_POOLING!r}, and "
            f"{folder} was trained with {source.group}.pooling={pooling!r}: set it to False, or start from a stage "
            f"with {TRAINED_POOLING!r}"
        )
