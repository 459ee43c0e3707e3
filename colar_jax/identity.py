"""What a checkpoint belongs to: the settings that it depends on, and the base model that its adapters stand beside."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from colar_jax.config import parse_targets
from colar_jax.errors import UserError
from colar_jax.run import Run

# Settings that say when to look, not what to compute: they may change between a run and its resumption.
_OBSERVING = ("log_every", "eval_every", "save_every")
# In reinforcement learning: what a collapse does, and how many questions are decoded at a time (draws are their own).
_OBSERVING_RL = ("stop_on_collapse", "rollout_questions")
# Settings of the data that training depends on; what is tested may change.
_TRAINING_DATA = ("train", "train_limit", "tokenizer", "held_out")
# Groups of a stage that only the method of their name reads.
_OF_METHODS = ("icot", "coconut", "codi")


def identity_of(run: Run, name: str) -> dict:
    """The settings that a stage's checkpoints depend on, flat, so that a message can name what changed."""
    config = run.config
    data = {field: getattr(config.data, field) for field in _TRAINING_DATA}
    settings = dataclasses.asdict(config.stages[name])
    is_sft = config.stages[name].trainer == "sft"
    unused = (*_OBSERVING, "trainer", "rl") if is_sft else _OBSERVING
    unused += tuple(group for group in _OF_METHODS if group != config.stages[name].method)
    stage = {field: value for field, value in settings.items() if field not in unused}
    if not is_sft:
        stage["rl"] = {field: value for field, value in stage["rl"].items() if field not in _OBSERVING_RL}
    model = dataclasses.asdict(config.model)
    if config.model.lora.rank:
        model["lora"]["targets"] = ",".join(parse_targets(config.model.lora.targets))
    else:  # settings of adapters that are not there
        del model["lora"], model["base_dtype"]
    if not run.method(name).trains_projection:  # then it is not in the checkpoint either
        del model["projection"]
    # A base model is known by its content: it may move, and then `model.base` says another folder.
    unread = ("base", "preset") if run.base_identity else ("base",)
    model = {field: value for field, value in model.items() if field not in unread}
    base = {name: value for name, value in run.base_identity.items() if name != "name"}
    groups = {"seed": config.seed, "stage": stage, "model": model, "base": base, "data": data}
    if not is_sft:  # how rollouts are sampled, and what they are worth
        groups |= {"decode": dataclasses.asdict(config.decode), "verifier": config.data.verifier}
    return dict(_flatten(groups))


def _adapter_identity(identity: dict) -> dict:
    """Of an identity, what says which frozen weights its adapters stand beside, and how; empty without adapters."""
    if "model.lora.rank" not in identity:
        return {}
    # Random weights follow from the seed and the shape; those of a base model are known by what is under `base`.
    base = [name for name in identity if name.startswith("base.")] or ["seed", "model.preset"]
    lora = [f"model.lora.{field}" for field in ("rank", "alpha", "targets")]
    return {name: identity.get(name) for name in (*base, "data.tokenizer", *lora)}


def refuse_other_adapters(run: Run, folder: Path, saved_identity: dict) -> None:
    """UserError where the adapters of a stage folder are not for this run's base, or only one of the two has any."""
    saved = _adapter_identity(saved_identity)
    ours = _adapter_identity(identity_of(run, run.config.stage_names[0]))
    if bool(saved) != bool(ours):
        was, fix = (
            ("with adapters", "set model.lora as it was there, and the same base")
            if saved
            else ("without adapters", "set model.lora.rank=0, or make a base model of it and name that in model.base")
        )
        raise UserError(f"{folder} was trained {was}, and model.lora.rank={run.config.model.lora.rank} here: {fix}")
    names = dict.fromkeys([*ours, *saved])
    changed = [name for name in names if saved.get(name) != ours.get(name)]
    if changed:
        raise UserError(
            f"the adapters of {folder} belong to another base, or are others: "
            + "; ".join(f"{name} was {saved.get(name)!r}, is {ours.get(name)!r}" for name in changed)
        )


def _flatten(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
