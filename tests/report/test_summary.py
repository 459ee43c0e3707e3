"""Two sentences that are right whatever a report has."""

import dataclasses
import re

import numpy as np
import pytest
from report.test_differences import result

from colar_jax.report.pareto import MEAN, pareto_points
from colar_jax.report.rows import table_rows
from colar_jax.report.summary import summary

COT = result("cot", "-", 9, length=20, thinks_in="words")
FAST = result("colar", "5", 6, length=4, thinks_in="latents")
SLOW = result("colar", "2", 8, length=10, thinks_in="latents")
UNTRAINED = result("colar", "1", 10, length=9, thinks_in="latents", was_trained=False)
PLAIN = result("no_cot", "-", 2, length=0)
OTHER_SET = [dataclasses.replace(r, dataset="b", questions="b") for r in (COT, FAST, SLOW)]
SAMPLED = [dataclasses.replace(r, sampling="sampled") for r in (COT, SLOW)]


def test_latents_beside_a_chain_of_thought():
    assert summary([COT, FAST, SLOW, UNTRAINED, PLAIN]) == (
        "In latents, colar (speed 2), the best of 2, answers 80.0 % of 10 questions of a right (95 % interval 49.0 to "
        "94.3), after 10.0 positions of reasoning. In words, as a chain of thought, cot answers 90.0 % right after "
        "20.0 positions: the difference of 10.0 points is within its 95 % interval for a choice among so many, at 50 % "
        "of the length."
    )


def test_the_number_of_questions_is_that_of_the_row_that_is_described():
    few = dataclasses.replace(SLOW, run="A", questions="few")
    more = np.tile(SLOW.right_SN, (1, 3))
    many = dataclasses.replace(
        SLOW, run="B", right_SN=more & False, lengths_SN=np.full(more.shape, 10), forced_stops_SN=more & False
    )
    assert "answers 80.0 % of 10 questions of a right" in summary([few, many])


@pytest.mark.parametrize("wrong", [[("cot", "words"), ("colar", "latents")], [("colar", "latents")], [("no_cot", "")]])
def test_when_nothing_is_right_nothing_was_learned(wrong):
    results = [result(stage, "-", 0, length=5, **({"thinks_in": kind} if kind else {})) for stage, kind in wrong]
    assert summary(results).startswith("Nothing was learned: none of 10 questions of a is answered right.")
    assert "Nothing was learned" not in summary([*results, SLOW])


def test_a_difference_beyond_chance_is_called_so():
    worse = result("colar", "2", 2, length=10, thinks_in="latents")
    assert "the first is 70.0 points worse, beyond the 95 % interval, at 50 %" in summary([COT, worse])


def test_the_best_of_equal_speeds_is_called_better_by_chance_as_seldom_as_one_speed_alone():
    """Nine speeds of equal use beside a chain of thought that is as good: at most 2.5 % of reports say "better"."""
    rng, said = np.random.default_rng(0), 0
    for _ in range(200):
        right = rng.random((10, 1, 300)) < 0.5
        lengths, forced = np.full((1, 300), 5), np.zeros((1, 300), bool)
        kept = {"lengths_SN": lengths, "forced_stops_SN": forced}
        speeds = [dataclasses.replace(FAST, speed=str(i), right_SN=right[i], **kept) for i in range(1, 10)]
        text = summary([dataclasses.replace(COT, right_SN=right[0], **kept), *speeds])
        assert "the best of 9," in text
        said += "better, beyond" in text
    assert said <= 9, said


def test_several_sets_have_a_paired_interval_too():
    """Of two sets on which the same questions are right, and one more of each: far beyond chance only with many."""
    rng = np.random.default_rng(0)
    right = rng.random((2, 1, 400)) < 0.5
    worse = right & (rng.random(right.shape) < 0.8)

    def of(row, right_SN, dataset):
        kept = {"lengths_SN": np.full((1, 400), 5), "forced_stops_SN": np.zeros((1, 400), bool)}
        return dataclasses.replace(row, right_SN=right_SN, dataset=dataset, questions=dataset, **kept)

    pairs = list(zip("ab", right, worse, strict=True))
    results = [of(SLOW, here, name) for name, here, _ in pairs] + [of(COT, low, name) for name, _, low in pairs]
    assert "points better, beyond the 95 % interval, at" in summary(results)


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([SLOW], "In latents, colar .speed 2. answers 80.0 % .*Nothing else was measured beside it."),
        ([COT], "In words, as a chain of thought, cot answers 90.0 % .*Nothing else was measured beside it."),
        ([PLAIN], "no_cot answers 20.0 % .*, without any reasoning. Nothing else was measured beside it."),
        ([COT, PLAIN], "In words, .*cot answers 90.0 .* no_cot answers 20.0 % right without any reasoning: "),
        ([FAST, SLOW], "colar .speed 2., the best of 2, .* colar .speed 5. answers 60.0 % right after 4.00 "),
        ([UNTRAINED], "In latents, colar \\(speed 1\\) answers 100.0 %"),
        ([COT, FAST, SLOW, *OTHER_SET], "80.0 % of the questions .mean of 2 data sets. right, .* is within"),
        ([COT, FAST, *OTHER_SET[1:2]], "In latents, colar \\(speed 5\\) answers 60.0 % of the questions \\(mean of 2"),
        ([COT, *OTHER_SET[1:2]], "cot answers 90.0 % of 10 questions of a right .*Nothing else"),
        (SAMPLED, "In latents, colar \\(speed 2\\) answers 80.0 %"),
        ([dataclasses.replace(SLOW, run="A: b"), dataclasses.replace(COT, run="B")], "A: b: colar .speed 2. .* B: cot"),
        ([SLOW, dataclasses.replace(COT, questions="others")], "In latents, .*Nothing else was asked the same q"),
        (
            [dataclasses.replace(FAST, questions="others"), SLOW, COT],
            "In latents, colar .speed 2. answers 80.0 % .* cot answers 90.0 % .* is within",
        ),
    ],
)  # fmt: skip
def test_every_shape_of_a_report_has_two_sentences(results, expected):
    text = summary(results)
    assert re.search(expected, text), text
    assert len(re.findall(r"[.](?: |$)", text)) == 2, text
    assert "#L" not in text and "nan" not in text


def test_an_interval_of_shares_stays_within_them():
    """The t-interval of a mean over sets, of two seeds: their spread says little, and no accuracy is above 100 %."""
    right_SN = np.array([[True] * 9 + [False], [True] * 5 + [False] * 5])
    seeds = dataclasses.replace(
        SLOW,
        sampling="sampled",
        right_SN=right_SN,
        lengths_SN=np.full((2, 10), 10),
        forced_stops_SN=np.zeros((2, 10), bool),
    )
    results = [seeds, dataclasses.replace(seeds, dataset="b", questions="b")]
    assert "(95 % interval 0.0 to 100.0)" in summary(results)
    points = pareto_points(table_rows(results), ["a", "b"])
    assert {(point.accuracy.low, point.accuracy.high) for point in points if point.dataset == MEAN} == {(0.0, 1.0)}
