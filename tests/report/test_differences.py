import dataclasses

import numpy as np
import pytest

from colar_jax.report.differences import differences
from colar_jax.report.markdown import causal_table, differences_table
from colar_jax.report.pareto import pareto_points
from colar_jax.report.results import Result
from colar_jax.report.rows import table_rows


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
        "colar, speed 2, at most 4 latents, temperature 1, sampled",
        0.1,
    )


def test_runs_are_told_apart_and_other_questions_are_not_compared():
    first, second = ([dataclasses.replace(r, run=run) for r in RESULTS] for run in ("A", "B"))
    second = [dataclasses.replace(r, questions="others") for r in second]
    found = differences(table_rows([*first, *second]))
    assert {difference.way.run for difference in found} == {"A"}
    assert {difference.reference.run for difference in differences(table_rows([*first, *second]), "B:cot")} == {"B"}


def test_as_a_table():
    table = differences_table(differences(table_rows(RESULTS)))
    assert "| minus colar, speed 2, greedy | a |" in table and "| no_cot, greedy | -60.0 [-90.0, -30.0] |" in table
    assert differences_table([]) == ""


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


def test_causal_tests_as_a_table():
    test = {"stage": "colar", "speed": "2", "accuracy": 0.9, "difference": -0.5, "interval": [-0.6, -0.4], "used": True}
    table = causal_table([test | {"intervention": "zero"}, test | {"intervention": "swap", "used": False}])
    assert "| colar | 2 | zero | 90.0 | -50.0 [-60.0, -40.0] | yes |" in table and "| no |" in table
    several = causal_table([test | {"intervention": "zero", "run": "A", "dataset": name} for name in ("a", "b")])
    assert "| run | data set | stage |" in several and "| A | b | colar | 2 | zero |" in several
    assert causal_table([]) == ""
