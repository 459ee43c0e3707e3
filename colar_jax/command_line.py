"""From flags to a checked config: `--config=file.py:argument --config.some.setting=value`."""

import contextlib
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from colar_jax.config import Config, nearest, resolve, split_names
from colar_jax.errors import UserError
from colar_jax.parallel import hosts
from colar_jax.run import CONFIG_FILE, saved_config


def run_main(
    main: Callable[[Config], object],
    load: Callable[[], ml_collections.ConfigDict] | None = None,
    own_flags: tuple[str, ...] = (),
    own_switches: tuple[str, ...] = (),
) -> None:
    """Load a config, override it by flags, resolve it and call `main`; a user's mistake is one line and exit status 2.

    `load` says where the config comes from: the file that `--config` names, unless given. `own_flags` are those that
    the program reads by itself with `flag_value`, `own_switches` those without a value, with `has_switch`.
    """
    with _mistakes_in_one_line():
        config = _overridden((load or load_config_file)(), own_flags, own_switches)
        with _with_its_peers(config):
            main(config)


def run_main_on_runs(
    main: Callable[[list[Config]], object], own_flags: tuple[str, ...] = (), own_switches: tuple[str, ...] = ()
) -> None:
    """As `run_main`, with the configs of all runs whose folders `--workdir` names; each is overridden by the flags."""
    with _mistakes_in_one_line():
        configs = []
        for workdir in split_names(flag_value("workdir")) or ("",):
            given = _config_of_run(workdir)
            try:
                configs.append(_overridden(given, (*own_flags, "workdir"), own_switches))
            except UserError as error:  # what is right for one run may be wrong for another
                raise UserError(f"{workdir}: {error}") from None
        with _with_its_peers(configs[0]):
            main(configs)


@contextlib.contextmanager
def _mistakes_in_one_line():
    # By force: importing Orbax has already made a handler, for warnings to standard error.
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    for chatty in ("absl", "httpx", "jax"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        yield
    except (UserError, flags.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@contextlib.contextmanager
def _with_its_peers(config: Config):
    """As one of several processes, where there are several; when one ends before its time, all do."""
    hosts.initialize(config.parallel)
    with hosts.ends_with_its_peers():
        yield


def _overridden(
    given: ml_collections.ConfigDict, own_flags: tuple[str, ...], own_switches: tuple[str, ...] = ()
) -> Config:
    """The resolved config, with the flags of the command line on top."""
    _check_overrides(sys.argv, given)
    values = flags.FlagValues()  # of this config alone: flags of several would be in each other's way
    for name in own_flags:
        flags.DEFINE_string(name, "", "read before the config", flag_values=values)
    for name in own_switches:
        flags.DEFINE_boolean(name, False, "read before the config", flag_values=values)
    arguments = [argument for argument in sys.argv if not argument.startswith(("--config=", "-config="))]
    holder = config_flags.DEFINE_config_dict("config", given, sys_argv=arguments, flag_values=values)
    stray = values(arguments)[1:]
    if stray:
        raise UserError(f"{stray[0]!r} is no flag: settings are given as --config.some.setting=value")
    return resolve(holder.value)


def load_config_file() -> ml_collections.ConfigDict:
    """What `get_config(argument)` of the file named by `--config=file.py:argument` returns.

    Raises:
        UserError: there is no such flag or file, the file has no `get_config`, or it sets a wrong type.
    """
    value = flag_value("config")
    if not value:
        raise UserError("name a config: --config=configs/arithmetic.py (and --config.some.setting=value to change it)")
    name, _, argument = value.partition(":")
    path = Path(name)
    if not path.is_file():
        beside = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise UserError(f"--config={value}: there is no file {name}.{nearest(name, beside)}")
    namespace: dict = {"__file__": str(path), "__name__": path.stem}
    exec(compile(path.read_text(), str(path), "exec"), namespace)  # a config is a program, as the flag's user knows
    if "get_config" not in namespace:
        raise UserError(f"{path} has no function get_config(argument)")
    try:
        return namespace["get_config"](argument)
    except ValueError as error:  # what the file's author refuses, such as an argument
        raise UserError(str(error)) from error
    except (TypeError, AttributeError, KeyError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        if "ml_collections" not in Path(frames[-1].filename).parts:
            raise  # a fault of the program
        line = [frame.lineno for frame in frames if frame.filename == str(path)][-1]
        raise UserError(f"{path}, line {line}: {error.args[0]}") from None


def load_run_config() -> ml_collections.ConfigDict:
    """The config of the run whose folder `--workdir` names. UserError where it is no run's folder."""
    return _config_of_run(flag_value("workdir"))


def _config_of_run(workdir: str) -> ml_collections.ConfigDict:
    path = Path(workdir).expanduser() / CONFIG_FILE
    if not workdir or not path.is_file():
        raise UserError(f"--workdir={workdir}: name the folder of a run; {path} does not exist")
    return saved_config(workdir)


def flag_value(name: str) -> str:
    """The value of the last `--name=value` on the command line, or "" (before flags are parsed)."""
    for argument in reversed(sys.argv[1:]):
        flag, _, value = argument.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            return value
    return ""


def has_switch(name: str) -> bool:
    """Whether `--name` stands on the command line."""
    return f"--{name}" in sys.argv[1:] or flag_value(name).lower() in ("1", "true", "yes")


def _check_overrides(arguments: list[str], config: ml_collections.ConfigDict) -> None:
    """Every `--config.a.b` names a setting that exists; ml_collections itself answers a wrong one with a traceback."""
    for argument in arguments[1:]:
        flag = argument.lstrip("-").partition("=")[0]
        if not argument.startswith("-") or not flag.startswith("config."):
            continue
        node, path = config, "config"
        for part in flag.split(".")[1:]:
            known = list(node.keys()) if isinstance(node, ml_collections.ConfigDict) else []
            if part not in known:
                raise UserError(f"--{flag}: {path} has no setting {part!r}.{nearest(part, known)}")
            node, path = node[part], f"{path}.{part}"
