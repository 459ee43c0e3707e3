"""What the shell hands to a command besides flags: text, in some encoding."""

import codecs
import sys

from colar_jax.errors import UserError


def prepare_streams() -> None:
    """Print what there is to print whatever the locale says, and read standard input as UTF-8.

    A locale that has ASCII only would end a run at its first plus-minus sign.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            is_ascii = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding="utf-8" if is_ascii else stream.encoding, errors="backslashreplace")
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")


def arguments_as_utf8(arguments: list[str]) -> list[str]:
    """The words of a command line as text, also where the locale has ASCII only. UserError where they are no UTF-8."""
    return [require_text(argument, f"argument {place}") for place, argument in enumerate(arguments, 1)]


def require_text(text: str, where: str) -> str:
    """Text that the system decoded, whose bytes must be UTF-8; `where` says in the error what it is."""
    if not any("\ud800" <= letter <= "\udfff" for letter in text):
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        shown = text.encode("utf-8", "backslashreplace").decode("utf-8")
        raise UserError(f"{where} is not UTF-8: {shown[:80]!r}") from None
