import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colar_jax.data.answers import (
    VERIFIERS,
    check_verifier,
    extract_answer,
    find_verifier,
    is_right,
    is_same_mathematics,
    is_same_text,
)
from colar_jax.data.prompts import answer_text
from colar_jax.errors import UserError

# The published implementation on 48 texts: {output, answer, extracted, right} each (../shared/golden/h_answers.json).
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "answers.json").read_text(encoding="utf-8"))

# Where we differ: (text, answer) -> (published verdict, ours, why).
DIFFERENCES = {
    ("Answer:123", "1,2,3"): (True, False, "the published code drops every comma; here one only separates thousands"),
    ("Answer:$18", "18"): (False, True, "a number as people write it is that number"),
    ("Answer:18%", "18"): (False, True, "and a percent sign says no more than the question does"),
}


def test_golden_has_all_48_cases_and_every_difference():
    assert len(GOLDEN) == 48
    assert DIFFERENCES.keys() <= {(case["output"], case["answer"]) for case in GOLDEN}


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['output']!r}-{case['answer']!r}")
def test_agrees_with_published_code(case):
    extracted = extract_answer(case["output"])
    assert extracted == case["extracted"]
    verdict = is_right(extracted, case["answer"])
    difference = DIFFERENCES.get((case["output"], case["answer"]))
    if difference is None:
        assert verdict is case["right"]
    else:
        assert (case["right"], verdict) == difference[:2]


@given(st.text().filter(lambda text: "Answer:" not in text))
def test_extracts_what_the_answer_template_wrote(answer):
    assert extract_answer("<<1+2=3>>###" + answer_text(answer)) == answer


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        ("(1,2)", "(12)", False),  # equal in the published code
        ("1,2", "12", False),
        ("", "...", False),
        (".", "...", False),
        ("...", "...", True),
        ("four.", "four", True),
        ("1,20", "120", False),
        ("1,2000", "12000", False),
        (",100", "100", False),
        ("1,234,567", "1234567", True),
        ("-12,345.60", "-12345.6", True),
        ("1,234.", "1234", True),
        ("10.0", "10", True),
        ("10.01", "10", False),
        ("2.0107e-06", "0.0000020107", True),
        ("9007199254740993", "9007199254740992", False),  # the same float
        ("0.1", "0.1000000000000000055511151231257827", False),  # the same float
        ("nan", "nan", False),
        ("nan", "18", False),
        ("snan", "18", False),
        ("snan", "snan", False),
        ("-inf", "inf", False),
        ("", "0", False),
        ("eighteen", "eighteen.\n.\n", True),
        ("2x", "x2", False),
        ("128", "12_8", False),  # 12 in base 8
        ("12_8", "12_8", True),
        ("yes", "Yes", False),
        ("22,000 dollars", "22,000", False),
    ],
)
def test_compares_numbers_by_value_and_the_rest_by_text(prediction, answer, right):
    assert is_right(prediction, answer) is right
    assert is_right(answer, prediction) is right


SAME = [  # as people write it, and the number
    *[
        ("$29.00", "29"),
        ("$ 29", "29"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("\\$1,200.50", "1200.5"),
        ("€5", "5"),
        ("5 €", "5"),
    ],
    *[("£3.20", "3.2"), ("¥500", "500"), ("₹ 12", "12"), ("5$", "5")],
    *[("50%", "50"), ("50 %", "50%"), ("50\\%", "50"), ("-2.5%", "-2.5")],
    *[("**73**", "73"), ("*73*", "73"), ("***73***", "73"), ("**73.**", "73"), ("**$73**", "73"), ("`73`", "73")],
    *[
        ("\\boxed{73}", "73"),
        ("$\\boxed{73}$", "73"),
        ("$73$", "73"),
        ("$$73$$", "73"),
        ("\\(73\\)", "73"),
        ('"73"', "73"),
    ],
    *[("**\\boxed{\\$1{,}200}**.", "1200"), ("\\[ 73 \\]", "73"), ("“73”", "73")],
    *[("−5", "-5"), ("–5", "-5"), ("－５", "-5"), ("$−5.0", "-5"), ("+5", "5"), ("-0", "0"), ("$-0.00", "0")],
    *[
        ("72.", "72"),
        ("72.00.", "72"),
        (".5", "0.5"),
        ("007", "7"),
        ("７３", "73"),
        ("７３．５", "73.5"),
        ("１，２００", "1200"),
    ],
    *[
        ("1 000", "1000"),
        ("12\u202f345.6", "12345.6"),
        ("1\u00a0000 000", "1000000"),
        ("1'000", "1000"),
        ("1\\,000", "1000"),
    ],
    *[("$1,000", "1000"), ("1,000%", "1000"), ("1e3", "$1000")],
]
OTHER = [  # two answers that must not be taken for one
    *[("$(1,2)$", "12"), ("**1,2**", "12"), ("$1,2", "12"), ("\\boxed{1,2}", "12"), ("(1,2)", "12"), ("1 2", "12")],
    *[
        ("1 00", "100"),
        ("1 0000", "10000"),
        ("10 000 00", "1000000"),
        ("1'00", "100"),
        ("1{,}2", "12"),
        ("1,000 000", "1000000"),
        ("0,500", "500"),
        ("00 500", "500"),
        ("0'500", "500"),
    ],
    *[
        ("50%", "0.5"),
        ("50 %", "0.5"),
        ("5‰", "5"),
        ("5²", "52"),
        ("5²", "5"),
        ("½", "0.5"),
        ("1/2", "0.5"),
        ("5!", "5"),
    ],
    *[
        ("73 apples", "73"),
        ("12 and 3", "12"),
        ("x = 5", "5"),
        ("(73)", "73"),
        ("$5-$7", "5"),
        ("- 5", "5"),
        ("- 5", "-5"),
    ],
    *[
        ("--5", "5"),
        ("-$-5", "-5"),
        ("-−5", "5"),
        ("$$", "0"),
        ("%", "0"),
        ("**", "0"),
        ("1.000,50", "1000.5"),
    ],
    *[
        ("$inf", "inf"),
        ("**nan**", "nan"),
        ("5*", "5"),
        ("**5", "5"),
        ("$5€x", "5"),
        ("5'", "5"),
        ('5"', "5"),
        ("12_8%", "128"),
    ],
    *[("\\boxed{5}+1", "5"), ("\\boxed{5}\\boxed{6}", "5"), ("**5** or **6**", "5"), ("$5$ or $6$", "5")],
]


@pytest.mark.parametrize(("written", "number"), SAME)
def test_a_number_as_people_write_it(written, number):
    assert is_right(written, number) and is_right(number, written)
    assert is_same_mathematics(written, number)
    assert not is_right(written, number + "1")


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_what_is_not_that_number(one, other):
    assert not is_right(one, other)
    assert not is_right(other, one)


@given(
    st.integers(-(10**9), 10**9),
    st.sampled_from(["${}", "{}%", "**{}**", "\\boxed{{{}}}", "€{}", "`{}`", "{}.", "${}$"]),
)
def test_what_is_around_a_number_changes_none(number, around):
    assert is_right(around.format(f"{number:,}"), str(number))
    assert is_right(around.format(str(number).replace("-", "−")), str(number))
    assert not is_right(around.format(number), str(number + 1))


@pytest.mark.parametrize(
    "hostile", ["*" * 10**5, "$" * 10**5, "`" * 9 + "9" * 10**5, "\\boxed{" * 10**4, "1 " * 10**5, "$1e" + "9" * 50]
)
def test_hostile_wrappings_do_not_hang(hostile):
    start = time.monotonic()
    is_right(hostile, "18"), is_right(hostile, hostile)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("huge", ["1e999999999", "-1e-999999999", "1e" + "9" * 50, "9" * 100_000])
def test_huge_numbers_do_not_hang(huge):
    start = time.monotonic()
    assert is_right(huge, huge)
    assert not is_right(huge, "18")
    assert time.monotonic() - start < 1


@given(st.integers(), st.integers())
def test_integers_are_equal_exactly_when_they_are(a, b):
    assert is_right(f"{a:,}", str(b)) is (a == b)
    assert is_right(f"{a:,}", f"{a}.0")


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6))
def test_a_decimal_is_itself_in_every_notation(x):
    assert is_right(f" {x:f}.\n", f"{x:,f}")
    assert is_right(f"{x:f}000", f"{x:e}")
    assert not is_right(f"{x:f}1", f"{x:f}")


@given(st.text(), st.text())
def test_any_text_is_judged_symmetrically_and_without_an_error(a, b):
    assert is_right(a, b) is is_right(b, a)


def test_exact_verifier_compares_text():
    assert is_same_text(" Tom is a lempus.\n", "Tom is a lempus.")
    assert not is_same_text("10.0", "10") and not is_same_text("yes", "Yes")
    assert {"numeric": is_right, "exact": is_same_text, "math": is_same_mathematics} == VERIFIERS


def without_units(prediction: str, answer: str) -> bool:
    return prediction.split()[:1] == answer.split()[:1]


def test_a_verifier_of_ones_own():
    verifier = find_verifier(f"{__name__}:without_units")
    assert verifier("3 km", "3") and not verifier("4 km", "3")
    check_verifier("nowhere:at_all", judges=False)  # a model is asked where nothing is judged, too
    with pytest.raises(UserError, match="cannot be imported"):
        check_verifier("nowhere:at_all")
    for name, said in {
        f"{__name__}:VERIFIERS": "is no function",
        f"{__name__}:nothing": "cannot be imported",
        "maths": "is none of numeric, exact, math. Did you mean 'math'? A function of your own is named as",
    }.items():
        with pytest.raises(UserError, match=f"^data.verifier='{re.escape(name)}' {re.escape(said)}"):
            find_verifier(name)
