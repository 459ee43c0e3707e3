"""The numbers that a question says: which can be exchanged for another, and which say something of their own.

In "On the 3rd day she sold 20% of her 1,200 eggs, half of them at 7:30." 20 and 1,200 can be other numbers; 3, 7 and 30
cannot.
"""

import dataclasses
import re
from fractions import Fraction

# fmt: off
_ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]
# fmt: on
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]

_DIGITS = r"\d{1,3}(?:,\d{3})+(?!\d)|\d+"
_WORD = rf"(?:(?:{'|'.join(_TENS)})(?:[- ](?:{'|'.join(_ONES[1:10])}))?|{'|'.join(_ONES)})"
_NUMBER = re.compile(rf"(?P<digits>(?:{_DIGITS})?\.\d+|{_DIGITS})|\b(?P<word>{_WORD})\b", re.IGNORECASE)

# What makes a number more than a count: part of a fraction, a time, a name, an ordinal, or of a number in words.
_BEFORE_FIXED = re.compile(
    r"(?:[\w/:.#^*+=]|\b(?:(?:hundred|thousand|million|billion)(?: and)?|and a) )\Z", re.IGNORECASE
)
_AFTER_FIXED = re.compile(
    r"\s?(?:[/:^*+=]|(?:st|nd|rd|th|s|x|am|pm|a\.m|p\.m|AM|PM)\b)|[a-zA-Z_]"
    r"|[ -](?:hundred|thousand|million|billion|and (?:a|one)[ -](?:half|third|quarter|fourth)"
    r"|thirds?|half|halves|quarters?|fourths?|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?"
    r"|o'clock|out of every)\b"
)
_PERCENT = re.compile(r"\s?(?:%|percent\b)", re.IGNORECASE)
_CENTS = re.compile(r"[ -]?(?:cents?\b|¢)", re.IGNORECASE)
# "5 days a week" has at most 7.
_CAPS = (
    (re.compile(r"[ -]days?,? (?:a|per|each|every|of the|in a|out of the) week", re.IGNORECASE), 7),
    (re.compile(r"[ -]hours?,? (?:a|per|each|every|in a) day", re.IGNORECASE), 24),
    (re.compile(r"[ -]months?,? (?:a|per|each|every|of the|in a) year", re.IGNORECASE), 12),
    (re.compile(r"[ -]weeks?,? (?:a|per|each|every|in a) month", re.IGNORECASE), 4),
)
_YEARS = range(1800, 2101)
# "There are 1000 MB in a GB" says what a unit is.
_UNIT = re.compile(r" \w+ in (?:a|an|one|1|each|every)\b", re.IGNORECASE)
_UNITS = frozenset((7, 12, 16, 24, 60, 100, 365, 1000, 1024))


@dataclasses.dataclass(frozen=True)
class Mention:
    """A number in a text.

    Attributes:
        start, stop: where it stands.
        value: what it is.
        is_fixed: it cannot be another number.
        hundredths: it is a percentage or an amount in cents, which equations may write as a hundredth of it.
        largest: what it may be at most; None: anything.
    """

    start: int
    stop: int
    value: Fraction
    is_fixed: bool
    hundredths: bool = False
    largest: int | None = None


def mentions_of(text: str) -> list[Mention]:
    """The numbers of a text in their order, in digits or in words up to ninety-nine."""
    return [_mention(text, match) for match in _NUMBER.finditer(text)]


def _mention(text: str, match: re.Match) -> Mention:
    before, after = text[: match.start()], text[match.end() :]
    is_word = match["word"] is not None
    value = Fraction(_value_of_word(match[0])) if is_word else Fraction(match[0].replace(",", ""))
    cap = next((largest for pattern, largest in _CAPS if pattern.match(after)), None)
    hundredths = bool(_PERCENT.match(after) or _CENTS.match(after))
    is_fixed = (
        bool(_BEFORE_FIXED.search(before))
        or bool(_AFTER_FIXED.match(after))
        or value < 2  # "one of them", and halves of something
        or (not is_word and value in _YEARS and match[0].isdigit() and len(match[0]) == 4)
        or (value in _UNITS and _UNIT.match(after) is not None)
        or (hundredths and (is_word or value >= 100))
    )
    return Mention(match.start(), match.end(), value, is_fixed, hundredths, cap)


def with_numbers(text: str, mentions: list[Mention], values: dict[Fraction, Fraction]) -> str:
    """A text in which each mention that is not fixed says the new number for its value, in the form of the old one."""
    parts, end = [], 0
    for mention in mentions:
        new = mention.value if mention.is_fixed else values.get(mention.value, mention.value)
        old_text = text[mention.start : mention.stop]
        parts += [text[end : mention.start], old_text if new == mention.value else _written_like(old_text, new)]
        end = mention.stop
    return "".join([*parts, text[end:]])


def decimal_text(value: Fraction, decimals: int = 0) -> str:
    """A number as digits, with at least so many decimals; it must have finitely many."""
    while (value * 10**decimals).denominator != 1:
        decimals += 1
    whole, rest = divmod(abs(int(value * 10**decimals)), 10**decimals)
    sign = "-" if value < 0 else ""
    return f"{sign}{whole}.{rest:0{decimals}d}" if decimals else f"{sign}{whole}"


def _written_like(old: str, new: Fraction) -> str:
    if old[0].isalpha():
        text = _word_of(int(new)) if new.denominator == 1 and new < 100 else decimal_text(new)
        return text.capitalize() if old[0].isupper() else text
    text = decimal_text(new, len(old.partition(".")[2]))
    whole, point, rest = text.partition(".")
    has_commas = "," in old or len(whole) > 4
    return (f"{int(whole):,}" if has_commas else whole) + point + rest


def _value_of_word(word: str) -> int:
    tens, _, ones = re.sub(r"[- ]", "-", word.lower()).partition("-")
    if tens in _TENS:
        return 20 + 10 * _TENS.index(tens) + (_ONES.index(ones) if ones else 0)
    return _ONES.index(tens)


def _word_of(value: int) -> str:
    if value < len(_ONES):
        return _ONES[value]
    tens, ones = divmod(value, 10)
    return _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")
