"""A list of questions, one a line, out of a file or of standard input."""

from collections.abc import Callable, Iterable, Iterator

from colar_jax.command_line.environment import require_text

_BYTE_ORDER_MARK = "\ufeff"


def question_lines(lines: Iterable[str], name_of: Callable[[int], str]) -> Iterator[tuple[str, str]]:
    """What each line is called, and its question, "" of a blank one: without white space and byte order mark before it.

    Some editors write the mark at the beginning of a file; of files that are joined it begins any line.

    Args:
        lines: each decoded as UTF-8 with `surrogateescape`.
        name_of: the number of a line, from 1 on -> what messages call it.

    Raises:
        UserError: a line is not UTF-8.
    """
    for number, line in enumerate(lines, start=1):
        name = name_of(number)
        yield name, require_text(line.strip(), name).removeprefix(_BYTE_ORDER_MARK).strip()
