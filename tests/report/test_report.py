import csv
import dataclasses
import json
import re

import numpy as np
import pytest
from scipy import stats

from colar_jax.evaluation.cost import Cost
from colar_jax.report import columns
from colar_jax.report import files as report_module
from colar_jax.report.files import Report, latex_of, markdown_of, numbers_of, read_report, write_report
from colar_jax.report.number_text import length_text
from colar_jax.report.results import Result
from colar_jax.report.rows import table_rows
from colar_jax.report.table_text import markdown_text
from colar_jax.report.tables import accuracy_table, cost_table


def result(stage, dataset, speed, sampling, rights, lengths, num_questions=100, num_forced=0):
    """One seed for each entry of rights: so many right answers of num_questions, all of one length."""
    right_SN = np.arange(num_questions) < np.array(rights)[:, None]
    lengths_SN = np.broadcast_to(np.array(lengths)[:, None], right_SN.shape)
    forced_stops_SN = np.broadcast_to(np.arange(num_questions) < num_forced, right_SN.shape)
    return Result(stage, dataset, speed, sampling, right_SN, lengths_SN, forced_stops_SN)


RESULTS = [
    result("cot", "arithmetic", "-", "greedy", [92], [20]),
    result("cot", "gsmhard", "-", "greedy", [12], [34], num_questions=50),
    result("colar", "arithmetic", "5", "sampled", [80, 84], [4, 5]),
    result("colar", "gsmhard", "5", "sampled", [10, 16], [6, 6], num_questions=50, num_forced=2),
    result("colar", "arithmetic", "1.5", "greedy", [90], [13]),
]

# Wilson and t-intervals below are scipy's: binomtest(92, 100).proportion_ci(method="wilson"),
# t.interval(0.95, 1, 0.82, sem([0.80, 0.84])) and so on.
TABLE = """\
| stage | speed | sampling | arithmetic | gsmhard | mean |
| --- | --- | --- | --- | --- | --- |
| cot | - | greedy | 92.0 [85.0, 95.9] / 20.0 | 24.0 [14.3, 37.4] / 34.0 | 58.0 / 27.0 |
| colar | 1.5 | greedy | 90.0 [82.6, 94.5] / 13.0 | - | - |
| colar | 5 | sampled | 82.0 ± 25.4 [73.3, 88.3] / 4.50 | 26.0 ± 76.2 [15.9, 39.6] / 6.00 | 54.0 ± 50.8 / 5.25 |

Accuracy in % / #L (positions of reasoning, mean over examples). [low, high]: 95 % Wilson interval over questions. \
±: half width of the 95 % t-interval over seeds. mean: every data set weighs the same. \
Questions: arithmetic 100, gsmhard 50. Seeds: greedy 1, sampled 2.

Reasoning cut at its limit: colar, speed 5, sampled, on gsmhard 4.0 %.
"""


def table_of(results):
    return markdown_text(accuracy_table(results))


def test_markdown_of_a_small_case():
    assert table_of(RESULTS) == TABLE


def test_the_pinned_intervals_are_those_of_scipy():
    low, high = stats.binomtest(92, 100).proportion_ci(0.95, method="wilson")
    assert f"92.0 [{100 * low:.1f}, {100 * high:.1f}] / 20.0" in TABLE
    low, high = stats.t.interval(0.95, 1, loc=82, scale=stats.sem([80, 84]))
    assert f"82.0 ± {(high - low) / 2:.1f} [" in TABLE


def test_one_seed_and_one_data_set_need_no_mean_and_no_plus_minus():
    table = table_of(RESULTS[:1])
    assert "±" not in table and "mean:" not in table and "cut" not in table
    assert table.splitlines()[0] == "| stage | speed | sampling | arithmetic |"


def test_rows_come_in_order_of_stage_then_speed_then_sampling():
    ways = [("auto", "greedy"), ("10", "greedy"), ("2", "sampled"), ("2", "greedy"), ("1.5", "greedy"), ("-", "greedy")]
    results = [result("colar", "arithmetic", speed, sampling, [1], [1]) for speed, sampling in ways]
    results.append(result("cot", "arithmetic", "-", "greedy", [1], [1]))
    rows = [(row.way.stage, row.way.speed, row.way.sampling) for row in table_rows(results)]
    assert rows == [
        ("colar", "-", "greedy"),
        ("colar", "1.5", "greedy"),
        ("colar", "2", "greedy"),
        ("colar", "2", "sampled"),
        ("colar", "10", "greedy"),
        ("colar", "auto", "greedy"),
        ("cot", "-", "greedy"),
    ]


@pytest.mark.parametrize(
    ("length", "text"), [(0, "0"), (0.5, "0.50"), (9.994, "9.99"), (9.996, "10.0"), (99.96, "100"), (1234.5, "1234")]
)
def test_lengths_show_three_digits_as_in_the_paper(length, text):
    assert length_text(length) == text


def test_lengths_are_exact_means_over_examples():
    right_SN = np.ones((2, 3), dtype=bool)
    lengths_SN = np.array([[1, 2, 4], [8, 16, 33]], dtype=np.int16)
    measured = Result("colar", "arithmetic", "2", "sampled", right_SN, lengths_SN, ~right_SN)
    assert measured.mean_length == 64 / 6


def test_small_integers_do_not_overflow():
    lengths_SN = np.full((1, 1000), 120, dtype=np.int8)
    wrong_SN = np.zeros((1, 1000), dtype=bool)
    assert Result("cot", "arithmetic", "-", "greedy", wrong_SN, lengths_SN, wrong_SN).mean_length == 120


def test_asking_the_same_questions_again_does_not_narrow_the_interval_over_questions():
    once = result("colar", "arithmetic", "2", "sampled", [70], [5])
    four_times = result("colar", "arithmetic", "2", "sampled", [70] * 4, [5] * 4)
    assert four_times.accuracy_over_questions == once.accuracy_over_questions
    assert once.accuracy_over_seeds.half_width is None and four_times.accuracy_over_seeds.half_width == 0


def test_a_column_is_one_entry_that_all_outputs_read(tmp_path, monkeypatch):
    fake = columns.Column("oddness", lambda result: 0.125, "how odd", lambda value: f"{value:.3f} odd", "Odd rows")
    monkeypatch.setattr(columns, "COLUMNS", (*columns.COLUMNS, fake))
    cost = Cost(forward_passes=5.0, flops=1e9, kv_bytes=1e6, seconds_per_question=0.01)
    write_report(tmp_path, Report("t", "", [dataclasses.replace(r, cost=cost) for r in RESULTS]))
    for name in ("report.md", "results.tex", "report.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "how odd" in text and "0.125 odd" in text and "Odd rows: " in text, name
    assert all(record["oddness"] == 0.125 for record in read_report(tmp_path)["results"])
    with (tmp_path / "results.csv").open() as file:
        assert [line["oddness"] for line in csv.DictReader(file)] == ["0.125"] * len(RESULTS)


def test_a_row_that_was_timed_elsewhere_has_no_time_and_a_note():
    here = Cost(forward_passes=5.0, flops=1e9, kv_bytes=1e6, seconds_per_question=0.01)
    costs = [here, dataclasses.replace(here, seconds_per_question=None)]
    results = [dataclasses.replace(r, cost=cost) for r, cost in zip(RESULTS[:2], costs, strict=True)]
    table = cost_table(results)
    at = table.header.index("ms a question")
    assert [row[at] for row in table.rows] == ["10.0", "-"] and "timed on other devices" in table.notes[-1]
    told = [record["cost"]["seconds_per_question"] for record in numbers_of(Report("", "", results))["results"]]
    assert told == [0.01, None]
    assert len(cost_table(results[:1]).notes) == 1


def test_answers_that_were_cut_are_counted_and_said():
    cut_SN = np.arange(100)[None] < 7
    with_cut = [dataclasses.replace(RESULTS[0], measured_SN={"cut_answer": cut_SN}), RESULTS[4]]
    assert "\n\nAnswers cut at decode.max_answer_tokens: cot, greedy, on arithmetic 7.0 %.\n" in table_of(with_cut)
    shares = [record["cut_answer_share"] for record in numbers_of(Report("", "", with_cut))["results"]]
    assert shares == [0.07, None], "of the second nothing was recorded"
    none_cut = dataclasses.replace(RESULTS[0], measured_SN={"cut_answer": cut_SN & False})
    assert "Answers cut" not in table_of([none_cut])
    with pytest.raises(ValueError, match="got cut_answer of shape"):
        dataclasses.replace(RESULTS[0], measured_SN={"cut_answer": cut_SN[0]})


def test_latex_is_whole_tables_in_which_no_sign_is_a_command():
    hostile = [dataclasses.replace(r, dataset=r.dataset + "_50%&{x}#$~^\\") for r in RESULTS]
    text = latex_of(Report("t", "", hostile))
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1 and r"\toprule" in text
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0].splitlines()
    rows = [line for line in body if line and line != r"\midrule"]
    assert len(rows) == 1 + 3 and all(line.endswith(r" \\") for line in rows)
    assert {len(re.split(r"(?<!\\)&", line)) for line in rows} == {6}
    assert r"arithmetic\_50\%\&\{x\}\#\$\textasciitilde{}\textasciicircum{}\textbackslash{}" in rows[0]
    assert r"82.0 $\pm$ 25.4 {[}73.3, 88.3{]} / 4.50" in text


def test_an_untrained_speed_has_an_asterisk_in_every_table():
    results = [*RESULTS[:4], dataclasses.replace(RESULTS[4], was_trained=False)]
    assert "| colar | 1.5 * | greedy |" in table_of(results) and "| colar | 5 | sampled |" in table_of(results)
    assert "Speeds never trained (*): colar at 1.5." in markdown_of(Report("", "", results))


def test_json_holds_every_number(tmp_path):
    written = Report("A run", "Two stages.", RESULTS)
    write_report(tmp_path / "new", written)
    report = read_report(tmp_path / "new")
    assert (report["title"], report["notes"]) == ("A run", "Two stages.")
    assert report == numbers_of(written)

    assert [(r["stage"], r["speed"], r["dataset"]) for r in report["results"]] == [
        ("cot", "-", "arithmetic"),
        ("cot", "-", "gsmhard"),
        ("colar", "1.5", "arithmetic"),
        ("colar", "5", "arithmetic"),
        ("colar", "5", "gsmhard"),
    ]
    low, high = stats.t.interval(0.95, 1, loc=4.5, scale=stats.sem([4, 5]))
    assert report["results"][3]["length_over_seeds"] == pytest.approx({"center": 4.5, "low": low, "high": high})
    hard = report["results"][4]
    assert (hard["sampling"], hard["num_seeds"], hard["num_questions"]) == ("sampled", 2, 50)
    assert hard["accuracy"] == pytest.approx(13 / 50) and hard["accuracy_per_seed"] == pytest.approx([0.2, 0.32])
    assert (hard["mean_length"], hard["forced_stop_share"]) == (6.0, 0.04)
    low, high = stats.t.interval(0.95, 1, loc=0.26, scale=stats.sem([0.2, 0.32]))
    assert hard["accuracy_over_seeds"] == pytest.approx({"center": 0.26, "low": low, "high": high})
    low, high = stats.binomtest(13, 50).proportion_ci(0.95, method="wilson")
    assert hard["accuracy_over_questions"] == pytest.approx({"center": 0.26, "low": low, "high": high})

    cot_mean, colar_mean = report["means"]
    assert cot_mean["accuracy_over_seeds"] == {"center": pytest.approx(0.58), "low": None, "high": None}
    assert cot_mean["mean_length"] == 27.0
    assert (colar_mean["stage"], colar_mean["speed"], colar_mean["sampling"]) == ("colar", "5", "sampled")
    low, high = stats.t.interval(0.95, 1, loc=0.54, scale=stats.sem([0.50, 0.58]))
    assert colar_mean["accuracy_over_seeds"] == pytest.approx({"center": 0.54, "low": low, "high": high})


def test_a_mean_over_sets_with_different_numbers_of_seeds_has_no_interval():
    results = [
        result("colar", "arithmetic", "2", "sampled", [80, 84], [4, 4]),
        result("colar", "gsmhard", "2", "sampled", [10], [6]),
    ]
    (row,) = table_rows(results)
    assert row.mean_accuracy.center == pytest.approx(0.46) and row.mean_accuracy.half_width is None


def test_report_files_are_whole_strict_and_replaced(tmp_path):
    write_report(tmp_path, Report("Old", "", RESULTS))
    write_report(tmp_path, Report("A run", "Two stages.\n", RESULTS))
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == f"# A run\n\nTwo stages.\n\n{TABLE}"
    names = ["pareto.pdf", "pareto.png", "pareto.svg", "report.html", "report.json", "report.md", "results.csv"]
    names.append("results.tex")
    assert sorted(path.name for path in tmp_path.iterdir()) == names

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)


def test_a_report_that_cannot_be_made_leaves_the_old_one(tmp_path):
    write_report(tmp_path, Report("Old", "", RESULTS))
    with pytest.raises(ValueError, match=r"two results for the same cell.*speed 5.*gsmhard"):
        write_report(tmp_path, Report("New", "", [*RESULTS, RESULTS[3]]))
    with pytest.raises(ValueError, match="at least one result"):
        write_report(tmp_path, Report("New", "", []))
    assert read_report(tmp_path)["title"] == "Old"


def test_a_write_that_is_cut_short_leaves_the_old_report(tmp_path, monkeypatch):
    write_report(tmp_path, Report("Old", "", RESULTS))

    def killed(source, destination):
        raise KeyboardInterrupt

    monkeypatch.setattr(report_module.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_report(tmp_path, Report("New", "", RESULTS))
    assert read_report(tmp_path)["title"] == "Old"
    assert (tmp_path / "report.md").read_text(encoding="utf-8").startswith("# Old")


def test_a_damaged_report_is_named(tmp_path):
    (tmp_path / "report.json").write_text('{"title": ')
    with pytest.raises(ValueError, match=r"report\.json is not JSON"):
        read_report(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"report\.json"):
        read_report(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speed": "fast"}, "speed.*'fast'"),
        ({"speed": "0"}, "speed.*'0'"),
        ({"speed": "nan"}, "speed.*'nan'"),
        ({"sampling": "beam"}, "sampling.*'beam'"),
        ({"right_SN": np.ones((1, 4))}, "right_SN must be of bool"),
        ({"lengths_SN": np.ones((1, 4))}, "lengths_SN must be of integer"),
        ({"lengths_SN": np.ones((1, 5), dtype=int)}, r"lengths_SN of shape \(1, 5\)"),
        ({"forced_stops_SN": np.ones((4,), dtype=bool)}, r"forced_stops_SN of shape \(4,\)"),
    ],
)
def test_a_wrong_field_is_named(changes, message):
    fields = {
        "stage": "colar",
        "dataset": "arithmetic",
        "speed": "auto",
        "sampling": "greedy",
        "right_SN": np.ones((1, 4), dtype=bool),
        "lengths_SN": np.ones((1, 4), dtype=int),
        "forced_stops_SN": np.zeros((1, 4), dtype=bool),
    }
    Result(**fields)
    with pytest.raises(ValueError, match=message):
        Result(**(fields | changes))


def test_no_questions_are_no_result():
    nothing_SN = np.zeros((2, 0), dtype=bool)
    with pytest.raises(ValueError, match="not empty"):
        Result("cot", "arithmetic", "-", "greedy", nothing_SN, nothing_SN.astype(int), nothing_SN)


def test_what_could_still_be_cut_stands_below_the_table():
    """Where the data knows which steps carry something; and nothing where it does not."""
    result = dataclasses.replace(RESULTS[0], needed_length=16.2)
    (told,) = [line for line in table_of([result]).splitlines() if "carries nothing" in line]
    share = f"{100 * (1 - 16.2 / result.mean_length):.1f}"
    assert (
        f"{result.way.name}, on {result.dataset} 16.2 of {length_text(result.mean_length)} ({share} % can go)" in told
    )
    shortest = dataclasses.replace(result, needed_length=result.mean_length)
    assert "can go" not in table_of([shortest]) and "carries nothing" in table_of([shortest])
    assert "carries nothing" not in table_of(RESULTS)
