"""Hides what Orbax, and the libraries under it, print and log."""

import contextlib
import gc
import io
import logging
import pathlib
import sys
from collections.abc import Callable, Iterator

_LOGGERS = (None, "absl", "asyncio")  # None: the root


class _Chatter(logging.Filter):
    """Drops what Orbax says below WARNING, dozens of lines a save, through the logger that programs on absl share.

    And the exceptions that end its threads: they are raised again where the save is waited for.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        is_worth_it = record.levelno >= logging.WARNING and not record.exc_info
        return is_worth_it or "orbax" not in pathlib.PurePath(record.pathname).parts


def drop_chatter() -> None:
    """From now on, warnings only."""
    logging.getLogger("absl").addFilter(_Chatter())
    sys.unraisablehook = _without_orbax(sys.unraisablehook)


def _without_orbax(hook: Callable) -> Callable:
    """Of coroutines that nobody waited for: reads of what is damaged, which may go only when the process ends."""

    def others(unraisable) -> None:
        code = getattr(unraisable.object, "cr_code", None)
        if code is None or "orbax" not in pathlib.PurePath(code.co_filename).parts:
            hook(unraisable)

    return others


class _Kept(logging.Filter):
    """Keeps records back, to be handed on or forgotten."""

    def __init__(self):
        super().__init__()
        self.records: list[tuple[logging.Logger, logging.LogRecord]] = []

    def filter(self, record: logging.LogRecord) -> bool:
        self.records.append((logging.getLogger(record.name), record))
        return False


@contextlib.contextmanager
def silenced(*, only_on_error: bool = False) -> Iterator[None]:
    """Nothing that is logged inside, or printed to standard error, comes out; `only_on_error`: where it ends in one.

    A file that cannot be read makes hundreds of lines, of the event loops and of coroutines that nobody waits for.
    """
    kept, printed, before = _Kept(), io.StringIO(), (sys.stderr, sys.unraisablehook)
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(kept)
    sys.stderr = printed
    is_said = False
    try:
        yield
        is_said = only_on_error
    except Exception:
        sys.unraisablehook = lambda unraisable: None
        gc.collect()  # what the coroutines say, they say when they go
        raise
    finally:
        sys.stderr, sys.unraisablehook = before
        for name in _LOGGERS:
            logging.getLogger(name).removeFilter(kept)
    if is_said:
        sys.stderr.write(printed.getvalue())
        for logger, record in kept.records:
            logger.handle(record)
