"""Where a run's numbers go besides its folder: Weights & Biases, or a function of the user's own (`report_to`)."""

import inspect
from collections.abc import Callable
from pathlib import Path

from colar_jax.errors import UserError
from colar_jax.settings.checks import split_names
from colar_jax.settings.import_path import import_object, is_import_path, unknown_name

# Called with a step and the values that are written at it.
Hook = Callable[[int, dict[str, float]], object]


def check_hooks(report_to: str) -> None:
    """UserError where `report_to` names something that cannot be called, or is not installed."""
    for name in split_names(report_to):
        if name == "wandb":
            _import_wandb()
        elif is_import_path(name):
            _import_hook(name)
        else:
            raise unknown_name("report_to", name, ["wandb"], "A function")


def open_hooks(report_to: str, folder: Path, config: dict) -> list[Hook]:
    """The hooks of a stage that is about to run in `folder`."""
    return [_open_wandb(folder, config) if name == "wandb" else _import_hook(name) for name in split_names(report_to)]


def _import_hook(path: str) -> Hook:
    hook = import_object("report_to", path)
    if not callable(hook):
        raise UserError(f"report_to={path!r} is no function: it is called with a step and a dict of numbers")
    try:
        inspect.signature(hook).bind(1, {})
    except TypeError as error:
        raise UserError(f"report_to={path!r} cannot be called with a step and a dict of numbers: {error}") from None
    except ValueError:  # a builtin does not say
        pass
    return hook


def _import_wandb():
    try:
        import wandb
    except ImportError:
        raise UserError("report_to='wandb': wandb is not installed; pip install -e '.[wandb]'") from None
    return wandb


def _open_wandb(folder: Path, config: dict) -> Hook:
    """A run of Weights & Biases for each stage; its own settings are in the environment (WANDB_PROJECT, WANDB_MODE)."""
    wandb = _import_wandb()
    name = f"{folder.parent.name}/{folder.name}"
    run = wandb.init(name=name, group=folder.parent.name, dir=str(folder), config=config, reinit="finish_previous")
    return lambda step, values: run.log(values, step=step)
