"""Where a setting is that somebody looks for: under its own name elsewhere in the tree, or under another program's."""

import difflib
from collections.abc import Iterable, Sequence

from colar_jax.config.reference import settings
from colar_jax.settings.checks import nearest

_OPTIMIZER = "stages.*.optimizer."

# What users of Hugging Face's trainers, PEFT and TRL type -> where it is here; `*` is a stage.
OTHER_NAMES = {
    "accum_steps": "stages.*.accumulation",
    "adam_beta1": _OPTIMIZER + "b1",
    "adam_beta2": _OPTIMIZER + "b2",
    "attn_implementation": "parallel.attention",
    "base_model": "model.base",
    "batch_size": "stages.*.rows",
    "beta1": _OPTIMIZER + "b1",
    "beta2": _OPTIMIZER + "b2",
    "bf16": "model.dtype",
    "block_size": "stages.*.row_positions",
    "checkpoint_dir": "workdir",
    "data_path": "data.train",
    "dataset": "data.train",
    "dataset_name": "data.train",
    "eval_dataset": "data.val",
    "eval_steps": "stages.*.eval_every",
    "fp16": "model.dtype",
    "generation_batch_size": "stages.*.rl.num_questions",
    "grad_clip": _OPTIMIZER + "clip_norm",
    "gradient_accumulation": "stages.*.accumulation",
    "gradient_accumulation_steps": "stages.*.accumulation",
    "gradient_checkpointing": "model.remat",
    "group_size": "stages.*.rl.num_generations",
    "hub_model_id": "model.base",
    "kl_coef": "stages.*.rl.beta",
    "logging_steps": "stages.*.log_every",
    "lora_alpha": "model.lora.alpha",
    "lora_dropout": "model.lora.dropout",
    "lora_r": "model.lora.rank",
    "lora_rank": "model.lora.rank",
    "lora_target_modules": "model.lora.targets",
    "lr": _OPTIMIZER + "learning_rate",
    "lr_scheduler": _OPTIMIZER + "schedule",
    "lr_scheduler_type": _OPTIMIZER + "schedule",
    "max_completion_length": "decode.max_step_tokens",
    "max_grad_norm": _OPTIMIZER + "clip_norm",
    "max_length": "stages.*.row_positions",
    "max_new_tokens": "decode.max_answer_tokens",
    "max_seq_len": "stages.*.row_positions",
    "max_seq_length": "stages.*.row_positions",
    "max_steps": "stages.*.steps",
    "micro_batch_size": "stages.*.accumulation",
    "mixed_precision": "model.dtype",
    "model": "model.base",
    "model_id": "model.base",
    "model_name": "model.base",
    "model_name_or_path": "model.base",
    "n_epochs": "stages.*.epochs",
    "num_epochs": "stages.*.epochs",
    "num_steps": "stages.*.steps",
    "num_train_epochs": "stages.*.epochs",
    "num_warmup_steps": _OPTIMIZER + "warmup_steps",
    "optim": _OPTIMIZER + "name",
    "optimiser": _OPTIMIZER + "name",
    "optimizer": _OPTIMIZER + "name",
    "optimizer_class": _OPTIMIZER + "name",
    "optimizer_name": _OPTIMIZER + "name",
    "optimizer_type": _OPTIMIZER + "name",
    "out_dir": "workdir",
    "output_dir": "workdir",
    "per_device_eval_batch_size": "eval.batch_size",
    "per_device_train_batch_size": "stages.*.rows",
    "precision": "model.dtype",
    "pretrained_model_name_or_path": "model.base",
    "projection": "stages.*.codi.projection_size",
    "random_seed": "seed",
    "resume_from_checkpoint": "workdir",
    "save_dir": "workdir",
    "save_steps": "stages.*.save_every",
    "save_total_limit": "keep_checkpoints",
    "sequence_length": "stages.*.row_positions",
    "target_modules": "model.lora.targets",
    "test_file": "data.test",
    "tokenizer_name": "data.tokenizer",
    "torch_dtype": "model.dtype",
    "train_batch_size": "stages.*.rows",
    "train_dataset": "data.train",
    "train_file": "data.train",
    "training_steps": "stages.*.steps",
    "val_file": "data.val",
    "validation_file": "data.val",
    "warmup_ratio": _OPTIMIZER + "warmup_steps",
    "wd": _OPTIMIZER + "weight_decay",
}

# What a stage of rewards has in place of settings that it does not read.
_IN_REWARDS = {"stages.<stage>.rows": "stages.<stage>.rl.minibatch_size", "stages.<stage>.row_positions": ""}


def what_is_meant(path: str, beside: Iterable[str] = (), stages: Sequence[str] = ()) -> str:
    """` Did you mean ...?` or ` The setting is ...`, for a setting that does not exist; or nothing.

    Args:
        path: what was asked for, such as `config.stages.cot.learning_rate`, or a word alone.
        beside: the names that its group has.
        stages: the names of the run's stages, in order, where they are known.
    """
    *groups, name = path.split(".")
    wanted = name.replace("-", "_").lower()
    by_name: dict[str, list[str]] = {}
    for setting in settings():
        by_name.setdefault(setting.path.rpartition(".")[2], []).append(setting.path)
    meant = OTHER_NAMES.get(wanted, "").replace("*", "<stage>") or _highest(by_name.get(wanted, []))
    if meant in _IN_REWARDS and "rl" in beside:
        return _said(_IN_REWARDS[meant], groups, stages) if _IN_REWARDS[meant] else ""
    if not meant:
        if hint := nearest(name, beside):
            return hint
        close = difflib.get_close_matches(wanted, by_name, n=1, cutoff=0.75)
        meant = _highest(by_name[close[0]]) if close else ""
    return _said(meant, groups, stages) if meant else ""


def _highest(places: list[str]) -> str:
    """The place nearest to the root."""
    return min(places, key=lambda place: (place.count("."), place), default="")


def _said(place: str, groups: list[str], stages: Sequence[str]) -> str:
    asked = groups[2:3] if groups[1:2] == ["stages"] else []
    stage, *others = asked or stages or ["<stage>"]
    text = f" The setting is config.{place.replace('<stage>', stage)}"
    return text + (f" (or of another stage: {', '.join(others)})." if others and "<stage>" in place else ".")
