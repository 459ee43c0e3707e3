import dataclasses

import numpy as np
import pytest

from colar_jax.report.differences import differences, not_compared
from colar_jax.report.files import Report, latex_of, markdown_of
from colar_jax.report.pareto import pareto_points
from colar_jax.report.results import Result
from colar_jax.report.rows import table_rows
from colar_jax.report.table_text import markdown_text
from colar_jax.report.tables import causal_table, differences_table


def result(stage, speed, num_right, *, length=5, dataset="a", method="", **fields):
    right_SN = np.arange(10)[None] < num_right
    wrong_SN = np.zeros_like(right_SN)
    lengths_SN = np.full(right_SN.shape, length)
    fields = {"sampling": "greedy", "questions": dataset} | fields
    return Result(
        stage, dataset, speed, right_SN=right_SN, lengths_SN=lengths_SN, forced_stops_SN=wrong_SN,
        method=method or stage, **fields,
    )  # fmt: skip


RESULTS = [
    result("cot", "-", 9, length=20),
    result("colar", "1", 5, length=9, was_trained=False),
    result("colar", "2", 8, length=10),
    result("colar", "5", 6, length=4),
    result("no_cot", "-", 2, length=0),
]


def of(found):
    return {
        difference.way.name: (difference.reference.name, round(difference.accuracy.center, 6)) for difference in found
    }


def test_the_reference_is_colar_at_the_lowest_speed_that_it_was_trained_at():
    assert of(differences(table_rows(RESULTS))) == {
        "cot, greedy": ("colar, speed 2, greedy", 0.1),
        "colar, speed 1, greedy": ("colar, speed 2, greedy", -0.3),
        "colar, speed 5, greedy": ("colar, speed 2, greedy", -0.2),
        "no_cot, greedy": ("colar, speed 2, greedy", -0.6),
    }
    assert differences(table_rows([RESULTS[0], RESULTS[-1]])) == []


def test_another_reference_can_be_named():
    rows = table_rows(RESULTS)
    assert of(differences(rows, "cot"))["no_cot, greedy"] == ("cot, greedy", -0.7)
    assert of(differences(rows, "colar@5"))["cot, greedy"] == ("colar, speed 5, greedy", 0.3)
    with pytest.raises(ValueError, match=r"--reference=colar@3.*name one of cot, colar@1, colar@2, colar@5, no_cot"):
        differences(rows, "colar@3")


def test_rows_are_compared_with_the_reference_of_their_own_kind():
    ways = [{"sampling": "greedy"}, {"sampling": "sampled"}, {"sampling": "sampled", "temperature": "0.5"}]
    results = [result(stage, "-", 5 + i, method="colar", **way) for stage in "ab" for i, way in enumerate(ways)]
    assert of(differences(table_rows(results), "b")) == {
        "a, greedy": ("b, greedy", 0.0),
        "a, sampled": ("b, sampled", 0.0),
        "a, temperature 0.5, sampled": ("b, temperature 0.5, sampled", 0.0),
    }


def test_a_row_without_a_limit_is_compared_at_its_own_temperature():
    limited = [
        result("colar", "2", 8, sampling="sampled", temperature=t, latent_limit=limit)
        for t in ("0.5", "1") for limit in ("4", "8")
    ]  # fmt: skip
    rows = table_rows([*limited, result("cot", "-", 9, sampling="sampled", temperature="1")])
    assert of(differences(rows))["cot, temperature 1, sampled"] == (
        "colar, speed 2, #L at most 4, temperature 1, sampled",
        0.1,
    )


def of_runs(*names, without=()):
    return [dataclasses.replace(r, run=run) for run in names for r in RESULTS if (run, r.stage, r.speed) not in without]


def test_of_several_runs_the_same_stage_at_the_same_speed_is_compared_with_the_first_run():
    found = of(differences(table_rows(of_runs("A", "B", "C"))))
    assert found["B: colar, speed 5, greedy"] == ("A: colar, speed 5, greedy", 0.0)
    assert found["C: cot, greedy"] == ("A: cot, greedy", 0.0)
    assert len(found) == 2 * len(RESULTS) and not any(name.startswith("A:") for name in found)


def test_what_one_run_lacks_is_skipped_with_a_line():
    results = of_runs("A", "B", without=[("A", "cot", "-"), ("B", "colar", "5"), ("B", "no_cot", "-")])
    lines = [
        "Not compared: cot of B, which A does not have.",
        "Not compared: colar@5, no_cot of A, which B does not have.",
    ]
    rows = table_rows(results)
    assert not_compared(rows) == lines and not_compared(rows, "colar@2") == []
    assert set(of(differences(rows))) == {"B: colar, speed 1, greedy", "B: colar, speed 2, greedy"}
    assert all(line in markdown_of(Report("", "", results)) for line in lines)
    nothing_in_common = [dataclasses.replace(RESULTS[0], run="A"), dataclasses.replace(RESULTS[1], run="B")]
    report = Report("", "", nothing_in_common)
    assert "Not compared: colar@1 of B" in markdown_of(report)
    in_latex = latex_of(report)
    assert "\n% Not compared: colar@1 of B" in in_latex and "tab:differences" not in in_latex, "a table without rows"
    assert not_compared(table_rows(RESULTS)) == []


def test_other_questions_are_not_compared_and_a_reference_may_name_its_run():
    others = [dataclasses.replace(r, questions="others") if r.run == "B" else r for r in of_runs("A", "B")]
    assert differences(table_rows(others)) == []
    assert "Not compared: a of B, which has other questions than that of A." in not_compared(table_rows(others))
    assert not any("other questions" in line for line in not_compared(table_rows(of_runs("A", "B"))))
    assert not_compared(table_rows(others), "B:cot") == [
        "Not compared: a of A, which has other questions than that of B."
    ]
    rows = table_rows(of_runs("A", "B"))
    assert {difference.reference.run for difference in differences(rows, "B:cot")} == {"B"}
    by_speed = of(differences(rows, "A:colar"))
    assert by_speed["B: colar, speed 5, greedy"][0] == "A: colar, speed 5, greedy"
    assert by_speed["B: cot, greedy"][0] == by_speed["A: cot, greedy"][0] == "A: colar, speed 1, greedy"
    assert of(differences(rows, "colar@2"))["B: colar, speed 5, greedy"][0] == "A: colar, speed 2, greedy"


def test_a_run_s_name_may_have_an_at_sign():
    rows = table_rows(of_runs("A", "b@lr1e-4"))
    found = differences(rows, "b@lr1e-4:colar@2")
    assert {difference.reference.run for difference in found} == {"b@lr1e-4"}


def test_as_a_table():
    table = markdown_text(differences_table(differences(table_rows(RESULTS))))
    assert "| minus colar, speed 2, greedy | a |" in table and "| no_cot, greedy | -60.0 [-90.0, -30.0] |" in table
    assert differences_table([]) is None


def test_dominated_points():
    points = pareto_points(table_rows(RESULTS), ["a"])
    dominated = [(point.way.stage, point.way.speed) for point in points if point.is_dominated]
    assert len(points) == 5 and dominated == [("colar", "1")]
    twins = [result("x", "-", 5), result("y", "-", 5), result("z", "-", 5, length=6)]
    assert [point.is_dominated for point in pareto_points(table_rows(twins), ["a"])] == [False, False, True]


def test_greedy_and_sampled_points_and_data_sets_do_not_compete():
    results = [
        result("cot", "-", 5),
        result("cot", "-", 9, sampling="sampled"),
        result("cot", "-", 9, dataset="b"),
        result("cot", "-", 9, dataset="b", sampling="sampled"),
    ]
    points = pareto_points(table_rows(results), ["a", "b"])
    assert [point.dataset for point in points] == ["mean", "mean", "a", "a", "b", "b"]
    assert not any(point.is_dominated for point in points)
    assert points[0].accuracy.center == 0.7


def test_points_of_other_questions_do_not_compete():
    """Two runs on two single files, whose test sets have one name."""
    better = [result("cot", "-", 9, length=2, run="B", questions="others"), result("cot", "-", 5, length=8, run="A")]
    assert [point.is_dominated for point in pareto_points(table_rows(better), ["a"])] == [False, False]
    same = [dataclasses.replace(of_run, questions="a") for of_run in better]
    assert [point.is_dominated for point in pareto_points(table_rows(same), ["a"])] == [False, True]


def causal_text(causal):
    return markdown_text(causal_table(causal))


def test_causal_tests_as_a_table():
    test = {"stage": "colar", "speed": "2", "accuracy": 0.9, "difference": -0.5, "interval": [-0.6, -0.4], "used": True}
    others = [test | {"intervention": name, "used": used} for name, used in {"swap": False, "truncate": None}.items()]
    table = causal_text([test | {"intervention": "zero"}, *others])
    assert "| colar | 2 | zero | 90.0 | -50.0 [-60.0, -40.0] | yes |" in table
    assert "| no |" in table and "| too few |" in table and "does not need" not in table
    several = causal_text([test | {"intervention": "zero", "run": "A", "dataset": name} for name in ("a", "b")])
    assert "| run | data set | stage |" in several and "| A | b | colar | 2 | zero |" in several
    assert causal_table([]) is None


def points_at(*places, questions=100):
    """Rows of one stage and sampling, right so many times in a hundred at some #L."""
    right = np.arange(questions)
    results = [
        Result("colar", "a", str(i + 1), "greedy", (right < questions * share / 100)[None],
               np.full((1, questions), length), np.zeros((1, questions), bool))
        for i, (length, share) in enumerate(places)
    ]  # fmt: skip
    return {point.length: point.is_on_line for point in pareto_points(table_rows(results), ["a"])}


def test_the_line_leaves_out_what_is_worse_than_its_neighbours_by_more_than_its_interval():
    # 6 is hardly shorter than 7 and far worse; 10 lies a little below the line from 7 to 14, within its interval.
    assert points_at((6, 47), (7, 83), (10, 88), (14, 99)) == {6: False, 7: True, 10: True, 14: True}
    assert points_at((0, 36), (6, 47), (7, 83)) == {0: True, 6: False, 7: True}
    assert points_at((7, 83), (10, 84), (12, 99)) == {7: True, 10: False, 12: True}
    assert points_at((5, 80), (12, 60)) == {5: True, 12: False}, "dominated"
    assert points_at((0, 50)) == {0: True} and points_at((3, 0), (9, 0)) == {3: True, 9: False}
