"""What every check of a setting says, and text that holds several values."""

import difflib
import math
import typing

from colar_jax.errors import UserError

# The largest number of float32, which is what programs compute in.
_LARGEST = float.fromhex("0x1.fffffep127")


def require(condition: bool, message: str) -> None:
    """UserError with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    """UserError, with the nearest right word, unless `value` is allowed."""
    if value not in allowed:
        raise UserError(f"{field}={value!r} is none of {', '.join(allowed)}.{nearest(value, allowed)}")


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """` Did you mean ...?` for the known name nearest to a wrong one, or nothing."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def split_names(text: str) -> tuple[str, ...]:
    """`"cot, colar"` as `("cot", "colar")`."""
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def is_finite(number):
    """Whether a number, or each of an array, is finite in float32."""
    return abs(number) <= _LARGEST


def is_speed(number: float) -> bool:
    """Whether it is a thinking speed: at least 1, and as it is written in a prompt and in tables, with six digits."""
    return 1 <= number < math.inf and float(f"{number:g}") == number


# What a text or a number that is none is told.
A_SPEED = "a number of at least 1 (tokens per latent) with at most six digits, or auto"


def parse_speeds(text: str, shown: str = "") -> tuple[float | str, ...]:
    """Thinking speeds from text such as `1,1.5,2,auto`; UserError for anything but speeds (`is_speed`) and `auto`.

    Args:
        shown: the setting that the text is of, or is a part of, for that message: `eval.speeds='1,2'`.
    """
    speeds: list[float | str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            speed = part if part == "auto" else float(part)
        except ValueError:
            speed = math.nan
        if speed != "auto" and not is_speed(speed):
            raise UserError(f"{part!r}{f' of {shown}' if shown else ''} is no thinking speed: {A_SPEED}")
        speeds.append(speed)
    return tuple(speeds)


def parse_positive(field: str, text: str, kind: type) -> tuple:
    """The finite numbers above 0, int or float, that a text such as `0.5,1` lists; UserError for anything else."""
    numbers = []
    for part in split_names(text):
        try:
            number = kind(part)
        except ValueError:
            number = math.nan
        require(number > 0 and is_finite(number), f"{part!r} of {field}={text!r} is no {kind.__name__} above 0")
        numbers.append(number)
    return tuple(numbers)
