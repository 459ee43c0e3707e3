"""The flags of a command: declared once, as the fields of a frozen dataclass, and parsed by absl.

`--name=value` and `--name value` mean the same; of a flag that is given twice the last counts. What begins with a dash
is a flag, so a value that does is written `--name=-value` (numbers need not).
"""

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Iterator
from typing import Any

import ml_collections
from absl import flags as absl_flags

from colar_jax.config import stage_defaults
from colar_jax.config.names import what_is_meant
from colar_jax.config.stage_settings import unread_by
from colar_jax.errors import UserError
from colar_jax.settings.checks import nearest, split_names

_PARSERS = {int: absl_flags.IntegerParser(), float: absl_flags.FloatParser(), str: absl_flags.ArgumentParser()}
# absl reads these whether they are declared or not; each can hide a flag.
_OF_ABSL = ("flagfile", "undefok")

# What Python says of a value that is of another type -> what is wanted.
_WANTED = {
    r"\('Non-boolean argument to boolean flag', (.*)\)$": r"true or false, not \1",
    r"invalid literal for int\(\) with base \d+: (.*)$": r"a whole number is wanted, not \1",
    r"could not convert string to float: (.*)$": r"a number is wanted, not \1",
}


def flag(default: bool | int | float | str, help: str, choices: tuple[str, ...] = ()) -> Any:
    """A field of a command's flags; its default says of which type its values are."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


def parse_own(arguments: list[str], declared: list[dataclasses.Field]) -> tuple[dict[str, Any], list[str]]:
    """The values of a command's own flags by name, and the arguments that are not theirs.

    Args:
        arguments: the words after the program's name.
        declared: the flags, made by `flag`.

    Raises:
        UserError: a flag without its value, or with a value of another type.
    """
    values = absl_flags.FlagValues()
    values.set_gnu_getopt(True)  # flags may stand after what belongs to the config
    for field in declared:
        _define(values, field.name, field.default, field.metadata["choices"])
    rest = _parse(values, arguments, known_only=True)
    return {field.name: values[field.name].value for field in declared}, rest


def override(config: ml_collections.ConfigDict, arguments: list[str], own_names: list[str]) -> None:
    """Set what `--config.some.setting=value` says; every argument must be of that kind.

    Args:
        config: changed in place.
        arguments: what `parse_own` left.
        own_names: the command's own flags, for messages.

    Raises:
        UserError: anything else, with the nearest flag or setting that exists.
    """
    _bring_groups(config, arguments)
    values, places = absl_flags.FlagValues(), {}
    for path, node, key in _settings(config, "config"):
        if " " not in path:  # no flag can be called so, and no stage (`config.run`)
            places[path] = (node, key)
            _define(values, path, node[key])
    try:
        stray = _parse(values, arguments)
    except absl_flags.UnrecognizedFlagError as error:
        raise UserError(_what_is_unknown(error.flagname, config, own_names)) from None
    if stray:
        raise UserError(f"{stray[0]!r} is no flag: settings are given as --config.some.setting=value")
    given = {path for path in places if not values[path].using_default_value}
    for path in given:
        node, key = places[path]
        node[key] = values[path].value
    _refuse_unread_epochs(config, given)


def _stage_groups(config: ml_collections.ConfigDict) -> dict[str, ml_collections.ConfigDict]:
    """The settings of each stage by their path; what else stands there is refused where it is checked."""
    stages = config.get("stages")
    named = stages.items() if isinstance(stages, ml_collections.ConfigDict) else ()
    return {f"config.stages.{name}": of for name, of in named if isinstance(of, ml_collections.ConfigDict)}


def _refuse_unread_epochs(config: ml_collections.ConfigDict, given: set[str]) -> None:
    """UserError for a flag that sets the epochs of a stage whose length its config file gives in steps."""
    for path, stage in _stage_groups(config).items():
        if f"{path}.epochs" in given and f"{path}.steps" not in given and stage.get("steps"):
            raise UserError(
                f"--{path}.epochs does nothing beside {path}.steps={stage.steps}: add --{path}.steps=0, or set steps"
            )


def _bring_groups(config: ml_collections.ConfigDict, arguments: list[str]) -> None:
    """Give each stage the settings of the method and trainer that flags set, so that flags can set these, too."""
    for path, stage in _stage_groups(config).items():
        values = absl_flags.FlagValues()
        for key in ("method", "trainer"):
            if key in stage and " " not in path:
                _define(values, f"{path}.{key}", stage[key])
        _parse(values, arguments, known_only=True)
        kind = {name.rpartition(".")[2]: values[name].value for name in values}
        if all(values[name].using_default_value for name in values):
            continue
        with contextlib.suppress(UserError):  # a method that does not exist is said where it is checked
            of_kind = stage_defaults(**kind)
            missing = {key: value for key, value in of_kind.items() if key not in stage}
            with stage.unlocked():
                stage.update(missing)
                for key in unread_by(kind.get("trainer", "")):
                    if key in stage:
                        del stage[key]


def _define(values: absl_flags.FlagValues, name: str, default: Any, choices: tuple[str, ...] = ()) -> None:
    # Not by absl's DEFINE_*, each of which looks through all modules for the one that it is called from.
    if isinstance(default, bool):
        values[name] = absl_flags.BooleanFlag(name, default, "")
        return
    kind = type(default) if type(default) in _PARSERS else str  # a setting that is None is text, until it is checked
    parser = absl_flags.EnumParser(list(choices)) if choices else _PARSERS[kind]
    values[name] = absl_flags.Flag(parser, None, name, None if default is None else parser.parse(default), "")


def _parse(values: absl_flags.FlagValues, arguments: list[str], *, known_only: bool = False) -> list[str]:
    for argument, following in itertools.pairwise([*arguments, None]):
        name = _name(argument)
        if name == "":
            raise UserError(f"{argument!r} is no flag: settings are given as --config.some.setting=value")
        if name in _OF_ABSL:
            raise UserError(f"--{name} is no flag of this program: write its flags on the command line")
        if following is None or name not in values or "=" in argument:
            continue
        if values[name].boolean and _name(following) is None:
            raise UserError(f"{following!r} is no flag: a switch takes its value as in --{name}={following}")
        if not values[name].boolean and _name(following) is not None:
            raise UserError(f"--{name} has no value: a value that begins with a dash is written --{name}={following}")
    try:
        return values(["", *arguments], known_only=known_only)[1:]
    except ValueError as error:  # --noswitch=value
        raise UserError(str(error)) from None
    except absl_flags.UnrecognizedFlagError:
        raise
    except absl_flags.Error as error:
        text = str(error)
        for said, wanted in _WANTED.items():
            text = re.sub(said, wanted, text)
        raise UserError(text) from None


def _name(argument: str) -> str | None:
    """What flag an argument names; None where it is a value."""
    if not argument.startswith("-") or argument == "-":
        return None
    try:
        float(argument)
    except ValueError:
        return argument.removeprefix("-").removeprefix("-").partition("=")[0]
    return None


def _settings(node: ml_collections.ConfigDict, path: str) -> Iterator[tuple[str, ml_collections.ConfigDict, str]]:
    """Every setting of a tree: its path, the group that it is in, its name there."""
    for key, value in node.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from _settings(value, f"{path}.{key}")
        else:
            yield f"{path}.{key}", node, key


def _what_is_unknown(name: str, config: ml_collections.ConfigDict, own_names: list[str]) -> str:
    if name == "config":
        return (
            "--config is no flag of this program, which takes the config of the run in --workdir: change its settings "
            "by --config.some.setting=value"
        )
    path = name.removeprefix("no") if name.startswith("noconfig.") else name
    if not path.startswith("config."):
        meant = what_is_meant(name, [f"--{own}" for own in own_names], _stages(config))
        return f"--{name} is no flag of this program.{meant}"
    node, group = config, "config"
    parts = path.split(".")[1:]
    for part in parts:
        names = list(node.keys()) if isinstance(node, ml_collections.ConfigDict) else []
        if part not in names:
            is_last = part is parts[-1] or not names
            meant = what_is_meant(path, names, _stages(config)) if is_last else nearest(part, names)
            return f"--{name}: {group} has no setting {part!r}.{meant}"
        node, group = node[part], f"{group}.{part}"
    if isinstance(node, ml_collections.ConfigDict):
        return f"--{name}: {group} is a group of settings ({', '.join(node)}): set one of them, --{group}.name=value"
    return f"--{name}: {group} is no switch; give it a value, --{group}=value"


def _stages(config: ml_collections.ConfigDict) -> list[str]:
    """The run's stages in order, then those that are only defined."""
    defined = list(config.get("stages", {}))
    return list(dict.fromkeys([*(name for name in split_names(str(config.get("run"))) if name in defined), *defined]))
