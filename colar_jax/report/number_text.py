"""Measured numbers as a table shows them."""

from colar_jax.statistics.intervals import Interval

_PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def percent(share: float) -> str:
    """0.921 as "92.1"."""
    return f"{100 * share:.1f}"


def plus_minus(over_seeds: Interval) -> str:
    """The half width of a t-interval as " ± 1.1"; nothing where there is none."""
    return "" if over_seeds.half_width is None else f" ± {percent(over_seeds.half_width)}"


def difference_text(difference: Interval) -> str:
    """In percentage points, as in "-5.2 [-7.1, -3.3]"."""
    ends = "" if difference.low is None else f" [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"
    return f"{100 * difference.center:+.1f}{ends}"


def length_text(length: float) -> str:
    """Three digits as in the paper (5.57, 25.6, 209), and a plain 0 for a method that does not reason."""
    if length == 0:
        return "0"
    if length < 9.995:
        return f"{length:.2f}"
    return f"{length:.1f}" if length < 99.95 else f"{length:.0f}"


def quantity(value: float, unit: str = "") -> str:
    """Three digits with a metric prefix: 1,234,567 as "1.23 M"."""
    power = 0
    while value >= 999.5 and power < len(_PREFIXES) - 1:
        value, power = value / 1000, power + 1
    return f"{length_text(value)} {_PREFIXES[power]}{unit}".rstrip()
