"""What `--help` prints: what the program does, its own flags, and the settings of its config."""

import dataclasses

from colar_jax.config.reference import settings


def help_text(about: str, own: list[dataclasses.Field]) -> str:
    """Everything that may stand on a command line.

    Args:
        about: what the program does.
        own: its flags, made by `colar_jax.command_line.flag`.
    """
    lines = [about.strip(), "", "Flags, as --name=value or --name value; of one given twice the last counts:", ""]
    lines += [_line(f"--{field.name}", field.default, _help(field)) for field in own]
    lines += [
        "",
        "Settings of the config, as --config.name=value; <stage> is the name of a stage:",
        "",
    ]
    lines += [_line(f"--config.{found.path}", found.default, found.comment) for found in settings()]
    return "\n".join(lines)


def _help(field: dataclasses.Field) -> str:
    choices = ", ".join(field.metadata["choices"])
    return f"{field.metadata['help']} ({choices})" if choices else field.metadata["help"]


def _line(name: str, default: object, comment: str) -> str:
    shown = "" if default == "" else default
    return f"  {name}={shown}" + (f"\n      {comment}" if comment else "")
