"""What a run's config says of a stage, beside the settings that a row of the ledger names."""

from typing import Any

from colar_jax.settings import DecodeConfig, parse_speeds, split_names

_LISTS = {"latent.speeds": parse_speeds, "model.lora.targets": split_names}  # settings in which order says nothing


def missing_settings(wanted: dict[str, object], config: dict, stage: str) -> list[str]:
    """Which settings of a row a stage of a run does not have, as in "latent.weight=0.5, not 1.0".

    Args:
        wanted: settings of the run (`model.`, `data.`, `decode.`, `eval.`) and of its stage; and two that are made of
            others, `trained_for` as in "50 epochs" or "1,000 steps", and `start` as in "cot for 10 epochs, colar for 50
            epochs": the stages before it, where they are of this run. Of others only the folder is recorded, and
            nothing is said.
    """
    found = []
    for setting, value in wanted.items():
        given = _setting(setting, config, stage)
        alike = _LISTS.get(setting)
        same = given == value if alike is None or given is None else set(alike(given)) == set(alike(value))
        # A folder that is called by the id; `config.json` has its whole path.
        same |= setting == "model.base" and str(given).endswith(f"/{value}")
        if setting == "start" and given is None:
            continue
        if not same:
            found.append(f"{setting}={_text(given)}, not {_text(value)}")
    return found


def stages_behind(config: dict, stage: str) -> list[str]:
    """A stage, and those of the run that it starts from, the first of them first."""
    behind: list[str] = []
    while stage in config["stages"] and stage not in behind:
        behind.insert(0, stage)
        stage = _source_of(config, stage)
    return behind


def _source_of(config: dict, stage: str) -> str:
    """As `Config.source_of`: a stage of the run or a folder; empty: initial weights."""
    names = list(split_names(config["run"]))
    index = names.index(stage) if stage in names else 0
    return config["stages"][stage]["init_from"] or (names[index - 1] if index else "")


def _setting(name: str, config: dict, stage: str) -> Any:
    """A setting of the run, or of its stage; None where it is not recorded, which a way to decode that is younger than
    the run does not have to be."""
    if name == "trained_for":
        return _length(config["stages"][stage])
    if name == "start":
        first, *_ = behind = stages_behind(config, stage)
        was_run_before = stage not in split_names(config["run"])  # after which other stage is not recorded
        if _source_of(config, first) or (was_run_before and first == stage):
            return None
        return ", ".join(f"{name} for {_length(config['stages'][name])}" for name in behind[:-1])
    *groups, last = name.split(".")
    if groups == ["decode"] and last not in config["decode"]:
        return getattr(DecodeConfig, last)
    at: Any = config if groups[:1] in (["model"], ["data"], ["decode"], ["eval"]) else config["stages"][stage]
    for group in (*groups, last):
        at = at.get(group) if isinstance(at, dict) else None
    return at


def _length(stage: dict) -> str:
    return f"{stage['steps']:,} steps" if stage["steps"] else f"{stage['epochs']:g} epochs"


def _text(value: Any) -> str:
    return "not recorded" if value is None else "none" if value == "" else str(value)
