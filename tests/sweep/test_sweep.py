"""Sweeps over tiny runs: what is decoded, compiled, written, and gone on with after a kill."""

import csv
import json
import re

import numpy as np
import pytest
from sweep.tiny_runs import config_of, make_run

from colar_jax.errors import UserError
from colar_jax.report.files import read_report
from colar_jax.runs.sweep import store as store_module
from colar_jax.runs.sweep import sweep as sweep_module
from colar_jax.runs.sweep.store import Store
from colar_jax.runs.sweep.sweep import run_names, sweep

pytestmark = pytest.mark.slow

VARIED = {"eval.temperatures": "0.5,1", "eval.latent_limits": "2,4"}
NUM_QUESTIONS = 6
# Of CoT greedy and two temperatures with two seeds; of CoLaR the same at three speeds and two limits.
NUM_CELLS = 5 + 3 * 2 * 5
FILES = {
    "cells.jsonl",
    "pareto.pdf",
    "pareto.png",
    "pareto.svg",
    "report.html",
    "report.json",
    "report.md",
    "results.csv",
    "results.tex",
    "samples.jsonl",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def configs(folder):
    """Two runs of one shape and another seed; the second has CoLaR only."""
    return [
        make_run(folder / "first", **VARIED),
        make_run(folder / "second", **VARIED | {"run": "colar", "seed": 1}),
    ]


@pytest.fixture(scope="module")
def whole(configs, folder):
    """The report of a sweep over both that was never stopped."""
    sweep(configs)
    return folder / "sweep"


def without_times(report: dict) -> dict:
    report = dict(report)
    del report["timing"], report["made"]
    report["results"] = [
        result | {"cost": {n: v for n, v in result["cost"].items() if n != "seconds_per_question"}}
        for result in report["results"]
    ]
    return report


def test_everything_that_was_asked_is_there_and_every_program_was_compiled_once(whole):
    assert {path.name for path in whole.iterdir() if not path.name.startswith(".")} == FILES
    report = read_report(whole)
    ways = [
        (r["run"], r["stage"], r["speed"], r["latent_limit"], r["temperature"], r["sampling"])
        for r in report["results"]
    ]
    samplings = [("-", "greedy"), ("0.5", "sampled"), ("1", "sampled")]
    colar = [("colar", s, limit, *way) for s in ("1", "2", "auto") for limit in ("2", "4") for way in samplings]
    cot = [("cot", "-", "-", *way) for way in samplings]
    assert ways == [("first", *way) for way in (*cot, *colar)] + [("second", *way) for way in colar]
    assert {r["num_seeds"] for r in report["results"] if r["sampling"] == "sampled"} == {2}

    timing = report["timing"]
    assert timing["num_compiled"] == 4, "CoT and CoLaR, greedy and sampled; the second run shares the first's programs"
    assert timing["num_decoded"] == NUM_QUESTIONS * (2 * NUM_CELLS - 5)
    assert 0 < timing["host_share"] < 1 and timing["examples_per_second"] > 0

    assert {r["speed"] for r in report["results"] if not r["was_trained"]} == {"1", "auto"}
    assert {d["name"].replace("second:", "first:") for d in report["differences"]} == {
        d["reference"] for d in report["differences"]
    }
    assert {d["run"] for d in report["differences"]} == {"second"}
    assert "Not compared: cot of first, which second does not have." in (whole / "report.md").read_text()
    assert report["made"]["seeds"] == {"training": {"first": 0, "second": 1}, "decoding": [0, 1]}
    assert {name: of["decode"]["max_latents"] for name, of in report["made"]["settings"].items()} == {
        "first": 4, "second": 4
    }  # fmt: skip
    assert {of["data"]["verifier"] for of in report["made"]["settings"].values()} == {"numeric"}
    assert report["made"]["unfinished"] == {} and "unlike_settings" not in report
    assert {r["stage"]: r["thinks_in"] for r in report["results"]} == {"cot": "words", "colar": "latents"}
    assert all(0 <= r["cut_answer_share"] <= 1 for r in report["results"])


def test_limits_cut_and_temperatures_matter(whole):
    results = {r["name"]: r for r in read_report(whole)["results"]}
    cut = [r for r in results.values() if r["latent_limit"] == "2"]
    assert max(r["mean_length"] for r in cut) <= 2 < max(r["mean_length"] for r in results.values())
    cells = [json.loads(line) for line in (whole / "cells.jsonl").read_text().splitlines()]
    of_temperature = {
        cell["depends_on"]["decode"]["answer_temperature"]: cell["outcome"]["predictions"]
        for cell in cells
        if (cell["depends_on"]["stage"], cell["depends_on"]["seed"]) == ("cot", 0)
    }
    assert of_temperature[0.5] != of_temperature[1.0]


def test_what_the_files_say_is_the_same(whole):
    report = read_report(whole)
    with (whole / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines] == [r["name"] for r in report["results"]]
    assert [float(line["accuracy"]) for line in lines] == [r["accuracy"] for r in report["results"]]
    assert [float(line["forward_passes"]) for line in lines] == [r["cost"]["forward_passes"] for r in report["results"]]
    samples = [json.loads(line) for line in (whole / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == NUM_QUESTIONS * (1 + 6 + 6), "greedy answers, at every speed and limit"
    greedy = [r for r in report["results"] if r["sampling"] == "greedy"]
    accuracy = np.reshape([sample["right"] for sample in samples], (-1, NUM_QUESTIONS)).mean(axis=1)
    np.testing.assert_allclose(accuracy, [r["accuracy"] for r in greedy])
    assert (whole / "pareto.png").read_bytes().startswith(b"\x89PNG")
    for section in ("Differences on the same questions", "What an answer costs"):
        assert section in (whole / "report.md").read_text()


def test_a_killed_sweep_goes_on_where_it_was(configs, folder, monkeypatch):
    """Sampled cells of one stage, sixteen of them: there is one program to compile."""
    asked = [
        config_of(configs[1].workdir, run="colar", seed=1, **VARIED | {"eval.greedy": False, "eval.speeds": "2,5"})
    ]
    add, decoded = Store.add, []

    def killed_at_the_tenth(self, *arguments):
        if len(decoded) == 10:
            with self._path.open("a") as file:
                file.write('{"cell":"cut sho')
            raise KeyboardInterrupt
        decoded.append(arguments[0])
        add(self, *arguments)

    whole, again = folder / "unstopped", folder / "again"
    sweep(asked, whole)
    with monkeypatch.context() as patch:
        patch.setattr(store_module.Store, "add", killed_at_the_tenth)
        with pytest.raises(KeyboardInterrupt):
            sweep(asked, again)
        assert not (again / "report.json").exists()
    sweep(asked, again)
    report = read_report(again)
    assert report["timing"]["num_decoded"] == NUM_QUESTIONS * (16 - 10) and report["timing"]["num_compiled"] == 1
    assert without_times(report) == without_times(read_report(whole))
    assert (again / "samples.jsonl").read_text() == (whole / "samples.jsonl").read_text()

    sweep(asked, again)  # nothing is left to do
    assert "timing" not in read_report(again) and read_report(again)["results"] == report["results"]


def test_a_single_run_is_reported_in_its_own_folder(configs, folder):
    one = config_of(configs[1].workdir, run="colar", seed=1, **{"eval.speeds": "2", "eval.greedy": False})
    (result,) = sweep([one])
    assert (result.run, result.way.name, result.num_seeds) == ("", "colar, speed 2, sampled", 2)
    samples = [json.loads(line) for line in (folder / "second" / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == NUM_QUESTIONS and not {"run", "temperature", "latent_limit"} & samples[0].keys()
    assert read_report(one.workdir)["title"] == one.title


def test_answers_that_were_timed_in_other_batches_are_not_decoded_again_and_have_no_time(configs, folder):
    asked, out = {"run": "colar", "seed": 1, "eval.speeds": "2", "eval.seeds": 0}, folder / "timed"

    def sweep_in_batches_of(size, **more):
        sweep([config_of(configs[1].workdir, **asked | {"eval.batch_size": size} | more)], out)
        text = (out / "report.md").read_text()
        return [r["cost"]["seconds_per_question"] for r in read_report(out)["results"]], "timed on other" in text

    (seconds,), has_note = sweep_in_batches_of(4)
    assert seconds > 0 and not has_note
    assert sweep_in_batches_of(1) == ([None], True) and "timing" not in read_report(out)
    (first, second), has_note = sweep_in_batches_of(1, **{"eval.speeds": "2,5"})
    assert first is None and second > 0 and has_note
    assert sweep_in_batches_of(4) == ([seconds], False)
    cells = [json.loads(line) for line in (out / "cells.jsonl").read_text().splitlines()]
    for cell in cells:  # as an earlier version left them
        del cell["outcome"]["timed_on"]
    (out / "cells.jsonl").write_text("".join(json.dumps(cell) + "\n" for cell in cells))
    assert sweep_in_batches_of(1) == ([seconds], False)


def test_a_larger_report_that_is_replaced_and_the_worst_cut_are_said_in_a_line_each(configs, folder, caplog):
    caplog.set_level("INFO")
    asked = {"run": "colar", "seed": 1, "eval.seeds": 0}
    small, large = (config_of(configs[1].workdir, **asked, **{"eval.speeds": speeds}) for speeds in ("2", "1,2,auto"))
    sizes = []
    for config in (large, large, small, small):
        caplog.clear()
        sweep([config], folder / "replaced")
        sizes.append([line for line in caplog.messages if "is replaced" in line])
        assert len([line for line in caplog.messages if "answers were cut at" in line]) == 1
    assert [len(lines) for lines in sizes] == [0, 0, 1, 0]
    assert "the report of 3 rows on 6 questions is replaced; --out=FOLDER keeps it" in sizes[2][0]
    (folder / "replaced" / "report.json").write_text("[]")
    sweep([small], folder / "replaced")  # what is no report is replaced without a word


def test_a_stage_without_a_checkpoint_is_found_before_anything_is_decoded(configs, folder):
    missing = config_of(folder / "first", **{"run": "cot,colar,no_cot", "eval.stages": "no_cot"})
    with pytest.raises(ValueError, match="no_cot has no checkpoints"):
        sweep([configs[1], missing], folder / "nothing")
    assert not (folder / "nothing").exists()


def test_every_test_set_counts_for_the_time_that_is_left(tmp_path):
    """Two sets are twice as many decodes: with the cells of one, a time below nothing was left."""
    sets = {"data.test": "a=arithmetic; b=arithmetic:max_number=20"}
    one, two = config_of(tmp_path), config_of(tmp_path, **sets)
    assert sweep_module._num_cells(two) == 2 * sweep_module._num_cells(one)


def test_runs_are_named_after_their_folders(tmp_path):
    def names(*folders):
        return run_names([config_of(tmp_path / folder) for folder in folders])

    assert names("a") == [""] and names("x/a", "x/b") == ["a", "b"]
    assert names("x/a", "y/a") == [str(tmp_path / "x/a"), str(tmp_path / "y/a")]


def test_a_stage_that_is_finished_in_another_run_alone_is_skipped_with_a_line(configs, folder, caplog):
    caplog.set_level("INFO")
    both = config_of(folder / "second", **VARIED | {"run": "cot,colar", "seed": 1})
    kept = sweep_module._with_finished_stages([configs[0], both])
    assert [config.eval.stages for config in kept] == ["cot,colar", "colar"]
    assert re.search("skipped: .*cot has no checkpoints", caplog.text)
    for alone in ([both], [both, configs[1]]):
        with pytest.raises(UserError, match="cot has no checkpoints"):
            sweep_module._with_finished_stages(alone)


def test_a_wrong_reference_or_folder_is_found_before_anything_is_decoded(configs, tmp_path):
    for reference in ("colr", "colar@7", "third:colar", "@2", "cot@2", ":"):
        with pytest.raises(UserError, match=r"--reference=.*name one of first:cot, first:colar@1, first:colar@2"):
            sweep(configs, tmp_path / "new", reference=reference)
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        with pytest.raises(UserError, match=r"--out=.*file is a file, and a report is a folder of files"):
            sweep(configs, out)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_that_is_named_twice_is_found_before_anything_is_decoded(configs, folder):
    with pytest.raises(UserError, match="--workdir names the run .*first twice"):
        sweep([*configs, config_of(folder / "second" / ".." / "first")], folder / "twice")
    assert not (folder / "twice").exists()


def test_an_unregistered_method_is_one_line(configs):
    with pytest.raises(UserError, match=r"method='colr' is none of no_cot, cot, colar.*Did you mean 'colar'"):
        config_of(configs[0].workdir, **{"stages.colar.method": "colr"})


def test_a_chain_in_words_is_ended_at_each_budget(folder):
    """One program for all; the largest budget is no other decode than one without a budget."""
    settings = {"run": "cot", "eval.seeds": 0, "decode.max_step_tokens": 4}
    config = make_run(folder / "budgets", **settings)
    budgets = config_of(folder / "budgets", **settings, **{"eval.word_budgets": "1,2,4"})
    (plain,) = sweep([config])
    results = sweep([budgets])
    rows = {result.latent_limit: result for result in results}
    assert rows.keys() == {"1", "2", "4"}
    assert read_report(budgets.workdir)["timing"]["num_compiled"] == 1
    assert rows["1"].mean_length == 1 < rows["4"].mean_length <= 4
    assert rows["1"].forced_stop_share == 1 and "#L at most 1" in rows["1"].way.name
    for field in ("right_SN", "lengths_SN", "forced_stops_SN"):
        np.testing.assert_array_equal(getattr(rows["4"], field), getattr(plain, field))
