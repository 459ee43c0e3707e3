"""A config file: Python with a function `get_config(argument)`. Whatever is wrong in it is one line that says where."""

import importlib.util
import inspect
import os
import traceback
from pathlib import Path

import ml_collections

import colar_jax
from colar_jax.errors import UserError
from colar_jax.settings.checks import nearest

_PACKAGE = Path(colar_jax.__file__).parent


def load_config_file(value: str) -> ml_collections.ConfigDict:
    """What `get_config(argument)` of a file returns, where `value` is `file.py:argument` or `file.py`.

    Raises:
        UserError: there is no such file, it cannot be run, it has no `get_config`, or that returns no config.
    """
    if not value:
        raise UserError("name a config: --config=configs/arithmetic.py (and --config.some.setting=value to change it)")
    path, argument = _split(value)
    _require_file(path, value)
    namespace: dict = {"__file__": str(path), "__name__": path.stem}
    try:
        exec(_compiled(path), namespace)  # a config is a program, as the flag's user knows
        if not callable(namespace.get("get_config")):
            raise UserError(f"{path} has no function get_config(argument)")
        config = namespace["get_config"](*_arguments(namespace["get_config"], argument, path))
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise _located(error, path) from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(
            f"{path}: get_config returned {type(config).__name__}: return the config that colar_jax.config.defaults() "
            "makes, filled in"
        )
    return ml_collections.ConfigDict(config)  # one that is frozen can be changed by flags


def _split(value: str) -> tuple[Path, str]:
    """File and argument; a folder's name may have a colon."""
    name, colon, argument = value.partition(".py:")
    if colon:
        return Path(name + ".py").expanduser(), argument
    if os.path.exists(Path(value).expanduser()):  # unlike Path's, never an error itself
        return Path(value).expanduser(), ""
    name, _, argument = value.partition(":")
    return Path(name).expanduser(), argument


def _require_file(path: Path, value: str) -> None:
    if os.path.isdir(path):
        raise UserError(f"--config={value}: {path} is a folder; name a file in it")
    if not os.path.isfile(path):
        beside = [str(p) for p in path.parent.glob("*.py")] if os.path.isdir(path.parent) else []
        raise UserError(f"--config={value}: there is no file {path}.{nearest(str(path), beside)}")


def _compiled(path: Path):
    try:
        return compile(importlib.util.decode_source(path.read_bytes()), str(path), "exec")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except SyntaxError as error:
        where = f"{path}, line {error.lineno}" if error.lineno else f"{path}"
        raise UserError(f"{where}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:  # not UTF-8; a zero byte; brackets without end
        raise UserError(f"{path} is no Python: {error}") from None


def _arguments(get_config, argument: str, path: Path) -> tuple[str, ...]:
    """What to call it with: a function without parameters is right where there is no argument."""
    try:
        inspect.signature(get_config).bind(argument)
    except TypeError:
        if argument:
            raise UserError(f"{path}: get_config takes no argument, and {argument!r} was given") from None
        return ()
    except ValueError:  # nothing is known of its parameters
        pass
    return (argument,)


def _located(error: BaseException, path: Path) -> BaseException:
    """A `UserError` with the line of the file; or the error itself, where the program is at fault."""
    frames = traceback.extract_tb(error.__traceback__)
    if _PACKAGE in Path(frames[-1].filename).parents and frames[-1].filename != __file__:
        return error
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())[:300]
    if isinstance(error, ValueError) and _is_raised_by(frames[-1], path):
        return UserError(text)  # what the file's author refuses, such as an argument
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    where = f"{path}, line {lines[-1]}" if lines else f"{path}"
    if "ml_collections" in Path(frames[-1].filename).parts:  # a setting that does not exist, or of a wrong type
        return UserError(f"{where}: {text}")
    return UserError(f"{where}: {type(error).__name__}: {text}")


def _is_raised_by(frame: traceback.FrameSummary, path: Path) -> bool:
    return frame.filename == str(path) and (frame.line or "").lstrip().startswith("raise ")
