"""Read the answer out of a model's text, and decide whether it is right."""

import re
import string
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

from colar_jax.data import math_equivalence
from colar_jax.data.prompts import ANSWER_PREFIX
from colar_jax.errors import UserError
from colar_jax.settings.import_path import import_object, is_import_path, unknown_name

# (prediction, answer) -> is the prediction right?
Verifier = Callable[[str, str], bool]

# A comma (or 1_000's underscore, 1 000's space, 1'000's apostrophe) is part of a number only where it separates
# thousands: 1,200 and 12,345.6, but not 1,2,3 or (1,2), and not 12_8, which is in base 8.
_SPACE = r"[ \u00a0\u2009\u202f]"
_NUMBER_WITH_THOUSANDS = re.compile(
    rf"[+-]?(?![0\uff10])\d{{1,3}}((,\d{{3}})+|(_\d{{3}})+|({_SPACE}\d{{3}})+|(['’]\d{{3}})+)(\.\d*)?"
)
_PLAIN_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)

# What people put around a number. Words are not in it: "12 and 3" is no number, so neither is "12 apples".
_WRAPPED = re.compile(
    r"\*{1,3}([^*]+)\*{1,3}|`([^`]+)`|\${1,2}([^$]+)\${1,2}|\\\((.+)\\\)|\\\[(.+)\\\]|\\boxed\{(.+)\}|\"([^\"]+)\"|“([^”]+)”"
)
_MOST_WRAPPINGS = 4
_LONGEST_WRAPPED = 1000
# The sign of subtraction, the en dash in its place, and full-width signs.
_SIGNS = str.maketrans("−–－＋．，％＄￥", "---+.,%$¥")
_CURRENCY_BEFORE = re.compile(r"^([+-]?)\\?[$€£¥₹]\s?")
_UNIT_AFTER = re.compile(r"\s?(\\?%|[€£¥₹]|\\?\$)$")


def extract_answer(text: str) -> str:
    """The answer that a generated text gives: what follows its first `Answer:`, up to a second one, as it stands.

    A text without the prefix is its own answer, as in the published evaluation: a model that says only `18` is right.
    """
    _, prefix, rest = text.partition(ANSWER_PREFIX)
    return rest.partition(ANSWER_PREFIX)[0] if prefix else text


def is_right(prediction: str, answer: str) -> bool:
    """Whether two answers are the same number (10.0 = 10, 1,000 = 1e3) or, where one is no number, the same text.

    A number may be written as people do: $29.00, 50 % (which is 50), **73**, \\boxed{73}, −5, 1 000. White space around
    and full stops at the end do not count. Numbers are compared exactly, not as floats: 2**53 and 2**53 + 1 differ. Not
    a number (`nan`) is never right.
    """
    prediction, answer = map(_without_full_stops, (prediction, answer))
    numbers = tuple(_parse_number(text, as_people_write=True) for text in (prediction, answer))
    if None in numbers:
        return prediction == answer
    # A signalling NaN raises when it is compared, so no NaN may reach the comparison.
    return not any(number.is_nan() for number in numbers) and numbers[0] == numbers[1]


def _without_full_stops(text: str) -> str:
    """A text without white space around it and full stops at its end, unless it is nothing else."""
    text = text.strip()
    return text.rstrip(string.whitespace + ".") or text


def is_same_text(prediction: str, answer: str) -> bool:
    """Whether two answers are the same text, white space around them aside; for answers in words (ProsQA)."""
    return prediction.strip() == answer.strip()


def is_same_mathematics(prediction: str, answer: str) -> bool:
    """Whether two answers, in LaTeX or not, are the same mathematics; for MATH. Needs the extra `math`.

    What `is_right` accepts is right, and two plain numbers are compared by it alone, so that nothing else has to be
    asked about most answers.
    """
    if is_plainly_right(prediction, answer):
        return True
    if all(_parse_number(text.strip()) is not None for text in (prediction, answer)):
        return False
    return math_equivalence.is_equivalent(prediction, answer)


def is_plainly_right(prediction: str, answer: str) -> bool:
    """What `is_same_mathematics` says without asking math-verify: right at a glance, or not known to be."""
    return is_right(prediction, answer) or math_equivalence.is_same_but_for_layout(prediction, answer)


def check_verifier(name: str, *, judges: bool = True) -> None:
    """UserError where `data.verifier=name` names nothing, or `judges` and lacks what it needs.

    One that is not going to judge need not be there: a model is asked elsewhere than where it was trained.
    """
    if judges or not is_import_path(name):
        verifier = find_verifier(name)
        if judges and verifier is is_same_mathematics:
            math_equivalence.require_library()


def find_verifier(name: str) -> Verifier:
    """What `data.verifier=name` names: one of `VERIFIERS`, or a function of the user's own, `package.module:function`.

    Raises:
        UserError: there is none of this name, or it cannot be called.
    """
    if is_import_path(name):
        if not callable(verifier := import_object("data.verifier", name)):
            raise UserError(f"data.verifier={name!r} is no function (prediction, answer) that says whether it is right")
        return verifier
    if name not in VERIFIERS:
        raise unknown_name("data.verifier", name, VERIFIERS, "A function")
    return VERIFIERS[name]


def _parse_number(text: str, *, as_people_write: bool = False) -> Decimal | None:
    """The exact value of a decimal number, or None. Takes no time or memory for `1e999999999`."""
    if _NUMBER_WITH_THOUSANDS.fullmatch(text):
        text = re.sub(r"[^\d.+-]", "", text)
    if "_" in text:  # Python reads it as nothing, wherever it stands
        return None
    try:
        return Decimal(text)
    except InvalidOperation:
        return _parse_number(_bare(text)) if as_people_write else None


def _bare(text: str) -> str:
    """A number without what people write around it; "" for what then still is no number."""
    if len(text) > _LONGEST_WRAPPED:
        return ""
    for _ in range(_MOST_WRAPPINGS):
        if (wrapped := _WRAPPED.fullmatch(text)) is None:
            break
        text = wrapped[wrapped.lastindex].strip().rstrip(string.whitespace + ".")
    text = text.replace("{,}", ",").replace("\\,", " ").translate(_SIGNS)
    text = _UNIT_AFTER.sub("", _CURRENCY_BEFORE.sub(r"\1", text, count=1), count=1)
    return text if _PLAIN_NUMBER.fullmatch(text) or _NUMBER_WITH_THOUSANDS.fullmatch(text) else ""


VERIFIERS: dict[str, Verifier] = {
    "numeric": is_right,
    "exact": is_same_text,
    "math": is_same_mathematics,
}
