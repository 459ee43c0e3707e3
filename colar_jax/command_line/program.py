"""What every command does around its own work: read flags, load the config, and say a user's mistake in one line."""

import codecs
import contextlib
import dataclasses
import errno
import logging
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any

import ml_collections
from absl import flags as absl_flags

from colar_jax.command_line.compilation_cache import use_compilation_cache
from colar_jax.command_line.config_source import CONFIG, Source, source_value
from colar_jax.command_line.environment import arguments_as_utf8, prepare_streams
from colar_jax.command_line.flags import flag, override, parse_own
from colar_jax.command_line.help import help_text
from colar_jax.config import Config, resolve
from colar_jax.errors import TrainingEnded, UserError, no_memory
from colar_jax.parallel import hosts
from colar_jax.settings import split_names
from colar_jax.training.disk import refusal_of_disk

logger = logging.getLogger(__name__)

# What a disk, or whoever owns a folder, refuses: no fault of the program, and nothing that a traceback explains.
_OF_THE_DISK = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOTEMPTY),
)


def run_main(main: Callable, flags: type | None = None, source: Source | None = None, about: str | None = None) -> None:
    """Read the command line, then call `main`; a user's mistake is one line on standard error and exit status 2.

    Args:
        main: called with the resolved config (the list of them, from `RUNS`) and, if there are any, with `flags`.
        flags: a frozen dataclass of the command's own flags, whose fields `flag` makes.
        source: where the config comes from: `CONFIG` (a config file; the default), `RUN` or `RUNS` (folders of runs).
    """
    with _mistakes_in_one_line():
        source = source or CONFIG
        own = list(dataclasses.fields(flags)) if flags else []
        common = [_field(source.name, flag("", source.help)), _field("help", flag(False, "print this"))]
        common += [_field(name, flag("", source.help)) for name in source.also]
        with _quoting_line_ends():
            given, rest = parse_own(arguments_as_utf8(sys.argv[1:]), [*own, *common])
        if given.pop("help"):
            with contextlib.suppress(BrokenPipeError):  # a reader of the first lines only
                print(help_text(sys.modules["__main__"].__doc__ or "", [*common[:1], *own]), flush=True)
            return
        with _quoting_line_ends():
            value = source_value(source, given)
            configs = _configs(source, value, rest, [field.name for field in (*own, *common)])
            options = [flags(**given)] if flags else []
        with _with_its_peers(configs[0]):
            main(configs if source.is_many else configs[0], *options)


def _field(name: str, field: dataclasses.Field) -> dataclasses.Field:
    field.name = name
    return field


def _configs(source: Source, value: str, rest: list[str], own_names: list[str]) -> list[Config]:
    """The resolved configs, each with the flags of the command line on top."""
    given, configs = source.load(value), []

    def prepared(config: ml_collections.ConfigDict, prepare: Callable) -> Any:
        try:
            return prepare(config)
        except UserError as error:  # what is right for one run may be wrong for another
            raise UserError(f"{config.workdir}: {error}" if source.is_many else str(error)) from None

    for config in given:
        prepared(config, lambda config: override(config, rest, own_names))
    _skip_stages_of_others(given)
    for config in given:
        configs.append(prepared(config, resolve))
    return configs


def _skip_stages_of_others(configs: list[ml_collections.ConfigDict]) -> None:
    """Of the stages that are asked for, a run leaves out those that only another run has."""
    known = {name for config in configs for name in config.stages}
    for config in configs:
        asked = split_names(config.eval.stages)
        lacking = [name for name in asked if name not in config.stages and name in known]
        kept = [name for name in asked if name not in lacking]
        if lacking and kept:
            logger.info("%s has no stage %s: skipped", config.workdir, ", ".join(lacking))
            config.eval.stages = ",".join(kept)


@contextlib.contextmanager
def _mistakes_in_one_line():
    prepare_streams()
    # By force: importing Orbax has already made a handler, for warnings to standard error.
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    for chatty in ("absl", "httpx", "jax"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        yield
    except (UserError, absl_flags.Error) as error:
        print("error: " + "".join(map(_visible, str(error))), file=sys.stderr)
        sys.exit(2)
    except TrainingEnded as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except UnicodeEncodeError as error:
        of_files = codecs.lookup(sys.getfilesystemencoding()).name
        if of_files == "utf-8" or codecs.lookup(error.encoding).name != of_files:
            raise  # a fault of the program
        name = error.object.encode("ascii", "backslashreplace").decode()
        print(f"error: {name}: this locale has no such file names; set PYTHONUTF8=1", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        if not _nobody_reads():
            raise  # of another pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end of the process
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if words := refusal_of_disk(error):  # libraries raise what they like when a disk refuses
            print(f"error: {words}, says the disk that is written to", file=sys.stderr)
            sys.exit(2)
        if words := no_memory(error):
            print(f"error: {words}", file=sys.stderr)
            sys.exit(1)
        raise


@contextlib.contextmanager
def _quoting_line_ends():
    """For messages that quote what the user wrote, which may have line ends in it."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("\n", "\\n")) from None


def _nobody_reads() -> bool:
    """Whether who read the standard output has gone, as in `... | head`."""
    watch = select.poll()
    watch.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in watch.poll(0))


def _visible(letter: str) -> str:
    """A letter as it is printed; control characters as Python writes them."""
    return letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1]


@contextlib.contextmanager
def _with_its_peers(config: Config) -> Any:
    """As one of several processes, where there are several; when one ends before its time, all do."""
    hosts.initialize(config.parallel)
    hosts.require_32_bits()
    use_compilation_cache(config.compilation_cache)
    with hosts.ends_with_its_peers():
        yield
