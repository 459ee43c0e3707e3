"""The table over seeds: which results are repetitions of each other, and what a row is compared with."""

import importlib
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from colar_jax.config import config_beside, defaults, plain, resolve, stage_defaults

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "over_seeds.py"


def result(stage, accuracy, **others):
    return {
        "dataset": "gsm8k", "run": "", "stage": stage, "speed": "-", "latent_limit": "-", "temperature": "-",
        "trim": "-", "sampling": "greedy", "questions": "abc", "accuracy": accuracy, "mean_length": 4.0,
    } | others  # fmt: skip


def folder_of(path: Path, *results) -> str:
    path.mkdir()
    (path / "report.json").write_text(json.dumps({"results": results}))
    return str(path)


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)


def table(*arguments) -> dict[tuple[str, ...], dict[str, str]]:
    """The lines by what makes a row: all cells before the accuracy."""
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    header, _, *lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines())
    place = header.index("accuracy, %")
    return {tuple(line[:place]): dict(zip(header[place:], line[place:], strict=True)) for line in lines}


def test_trimmed_rows_and_other_runs_are_no_seeds(tmp_path):
    """Of one report, that is of one seed, no two results are averaged, whatever they differ in."""
    results = [
        result("cot", 0.5), result("cot", 0.6, trim="1"), result("cot", 0.7, trim="2"), result("cot", 0.8, run="other")
    ]  # fmt: skip
    lines = table(folder_of(tmp_path / "a", *results))
    assert [line["accuracy, %"] for line in lines.values()] == ["50.0", "60.0", "70.0", "80.0"]
    assert {line["seeds"] for line in lines.values()} == {"1"}


def test_what_answers_cost_and_whether_latents_are_used(tmp_path):
    def of_seed(seed, passes, is_used):
        cost = {"forward_passes": passes, "flops": 2e6, "kv_bytes": 2048.0, "seconds_per_question": 0.5}
        folder = folder_of(
            tmp_path / seed,
            result("colar", 0.8, speed="2", cost=cost, thinks_in="latents", discarded_thoughts=3.0),
            result("no_cot", 0.3, cost=cost, thinks_in=""),
        )
        names = {"zero": True, "shuffle": is_used, "swap": False, "truncate": True if is_used else None}
        tests = [{"intervention": "none", "used": False, "p": None, "accuracy": 0.8}]
        accuracy = 0.4 if seed == "0" else 0.6
        tests += [{"intervention": name, "used": used, "p": 0.5, "accuracy": accuracy} for name, used in names.items()]
        report = json.loads((Path(folder) / "report.json").read_text())
        report["causal"] = [test | {"dataset": "gsm8k", "stage": "colar", "speed": "2"} for test in tests]
        (Path(folder) / "report.json").write_text(json.dumps(report))
        return folder

    lines = table(of_seed("0", 4.0, True), of_seed("1", 6.0, False), "--costs")
    colar, no_cot = lines["gsm8k", "colar", "2", "-", "-"], lines["gsm8k", "no_cot", "-", "-", "-"]
    used = [f"accuracy, % (seeds that use latents): {name}" for name in ("zero", "shuffle", "swap", "truncate")]
    assert (colar["thinks in"], colar["forward passes"], colar["MFLOP"]) == ("latents", "5.0", "2.0")
    assert (colar["ms a question, in batches"], colar["KV KiB"]) == ("500.0", "2.0")
    assert (colar["discarded"], no_cot["discarded"]) == ("3.0", "-") and "verifier's passes" not in colar
    assert [colar[name] for name in used] == ["50.0 (2)", "50.0 (1)", "50.0 (0)", "50.0 (1 of 1)"]
    assert (no_cot["thinks in"], no_cot[used[0]]) == ("-", "-")


def test_what_is_decoded_otherwise_is_compared_with_the_plain_row_of_its_seed(tmp_path):
    """A trimmed or limited row of the reference's own stage, in the same report or in one of the same training seed."""

    def of_seed(seed, *results):
        folder = folder_of(tmp_path / f"{seed}_{len(results)}", *results)
        report = json.loads((Path(folder) / "report.json").read_text()) | {"made": {"seeds": {"training": {"": seed}}}}
        (Path(folder) / "report.json").write_text(json.dumps(report))
        return folder

    folders = []
    for seed, accuracy in ((0, 0.8), (1, 0.6)):
        trimmed = result("cot", accuracy - 0.1, trim="1", discarded_thoughts=2.0 + seed)
        folders.append(of_seed(seed, result("cot", accuracy), trimmed, result("concise", accuracy + 0.1)))
        folders.append(of_seed(seed, result("cot", accuracy - 0.2, latent_limit="32")))
    lines = table(*folders, "--against", "cot")
    assert {(way[1], way[3], way[5]): line["minus cot"] for way, line in lines.items()} == {
        ("cot", "-", "-"): "", ("cot", "-", "1"): "-10.0 ± 0.0", ("concise", "-", "-"): "10.0 ± 0.0",
        ("cot", "32", "-"): "-20.0 ± 0.0",
    }  # fmt: skip


def test_what_was_limited_otherwise_is_no_reference(tmp_path):
    """Of word budgets alone, for which latents are not decoded."""
    results = [result("cot", value, latent_limit=limit) for limit, value in (("16", 0.1), ("128", 0.8))]
    results += [result("colar", 0.7), result("concise", 0.9, latent_limit="128")]
    results += [result("icot", 0.9, latent_limit="128", thinks_in="latents")]
    lines = table(folder_of(tmp_path / "a", *results), "--against", "cot")
    found = {(way[1], way[3]): line["minus cot"] for way, line in lines.items()}
    assert found == {
        ("cot", "16"): "", ("cot", "128"): "", ("colar", "-"): "", ("concise", "128"): "10.0", ("icot", "128"): "",
    }  # fmt: skip


@pytest.mark.parametrize("costs", [(), ("--costs",)])
def test_nothing_that_was_decoded_so_is_said(tmp_path, costs):
    done = run(folder_of(tmp_path / "a", result("cot", 0.5)), "--sampling=sampled", *costs)
    assert done.returncode == 2 and "--sampling=sampled: no result was decoded so" in done.stderr


def test_a_row_is_compared_at_its_own_speed(tmp_path):
    def of_seed(seed, shift):
        results = [result("colar", value, speed=speed) for speed, value in (("2", 0.8), ("5", 0.4))]
        results += [result("rl", value + shift, speed=speed) for speed, value in (("2", 0.8), ("5", 0.4))]
        return folder_of(tmp_path / seed, *results)

    lines = table(of_seed("0", 0.1), of_seed("1", 0.1), "--against", "colar")
    assert {way[1:3]: line["minus colar"] for way, line in lines.items()} == {
        ("colar", "2"): "", ("colar", "5"): "", ("rl", "2"): "10.0 ± 0.0", ("rl", "5"): "10.0 ± 0.0",
    }  # fmt: skip


def test_a_reference_of_several_speeds_has_to_be_named(tmp_path):
    results = [result("colar", 0.8, speed="2"), result("colar", 0.4, speed="5"), result("cot", 0.9)]
    folder = folder_of(tmp_path / "a", *results)
    refused = run(folder, "--against", "colar")
    assert refused.returncode == 2 and "name one of colar@2, colar@5" in refused.stderr
    lines = table(folder, "--against", "colar@5")
    assert [line["minus colar@5"] for line in lines.values()] == ["40.0", "", "50.0"]
    assert run(folder, "--against", "colr").returncode == 2


@pytest.mark.parametrize("other", [{"questions": "xyz"}, None])
def test_what_is_no_repetition_is_refused(tmp_path, other):
    first = folder_of(tmp_path / "a", result("cot", 0.5))
    second = first if other is None else folder_of(tmp_path / "b", result("cot", 0.7, **other))
    done = run(first, second)
    assert done.returncode == 2 and ("named twice" if other is None else "other questions of gsm8k") in done.stderr


def report_of(path: Path, *results, seed=0, **more) -> str:
    """A folder whose report says where it comes from; `decode` and the others are what differs."""
    folder = folder_of(path, *results)
    given = {"seeds": {"training": {"": seed}}, "settings": {"": {"decode": more.pop("decode", {})}}} | more
    (path / "report.json").write_text(json.dumps({"results": results, "made": given}))
    return folder


def test_one_seed_twice_is_refused(tmp_path):
    """Copies of a report, too; another row of the same seed is none."""
    first, copy = (report_of(tmp_path / name, result("cot", 0.5), seed=3) for name in "ab")
    refused = run(first, copy)
    assert refused.returncode == 2 and "both have cot of training seed 3 in the same row" in refused.stderr
    budgets = report_of(tmp_path / "c", result("cot", 0.4, latent_limit="32"), seed=3)
    assert {line["seeds"] for line in table(first, budgets).values()} == {"1"}


@pytest.mark.parametrize(
    ("way", "sampling", "setting", "is_refused"),
    [
        ({}, "greedy", "max_latents", True),
        ({}, "greedy", "top_p", False),
        ({}, "sampled", "top_p", True),
        ({"latent_limit": "8"}, "greedy", "max_latents", False),
        ({"temperature": "0.5"}, "sampled", "stop_temperature", False),
    ],
)
def test_what_was_decoded_otherwise_is_no_repetition(tmp_path, way, sampling, setting, is_refused):
    """Unless the row has its own of it, or does not read it."""
    of_seeds = [
        report_of(tmp_path / str(n), result("colar", 0.5, sampling=sampling, **way), seed=n, decode={setting: 1 + n})
        for n in range(2)
    ]
    done = run(*of_seeds, f"--sampling={sampling}")
    assert done.returncode == (2 if is_refused else 0), done.stderr
    assert (f"colar has decode.{setting}=1 in {of_seeds[0]} and 2 in {of_seeds[1]}" in done.stderr) == is_refused


@pytest.mark.parametrize("setting", ["steps", "log_every", "init_from"])
def test_what_was_trained_otherwise_is_no_repetition(tmp_path, setting):
    folders = []
    for seed, value in enumerate({"steps": (10, 20), "log_every": (10, 20), "init_from": ("cot", "x/cot")}[setting]):
        folders.append(report_of(tmp_path / str(seed), result("colar", 0.5), seed=seed))
        config = defaults()
        config.run, config.seed = "colar", seed
        config.stages.colar = stage_defaults(method="colar", **{"steps": 10} | {setting: value})
        (tmp_path / str(seed) / "config.json").write_text(json.dumps(plain(resolve(config))))
    done = run(*folders)
    if setting == "steps":
        assert done.returncode == 2 and "colar has stages.colar.steps=10 in" in done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_another_commit_is_said_below_the_table(tmp_path):
    first, second = (
        report_of(tmp_path / commit, result("cot", 0.5, num_seeds=n), seed=n, git_commit=commit, devices=["cpu"])
        for n, commit in ((1, "abc"), (2, "def"))
    )
    told = run(first, second).stdout.splitlines()[-1]
    assert told == "Seeds of one row differ in git_commit (abc, def); decodes of a question (1, 2)."
    assert "differ" not in run(first).stdout


def test_tests_of_latents_are_of_plain_greedy_rows(tmp_path):
    ways = ({}, {"latent_limit": "8"}, {"trim": "1"}, {"sampling": "sampled"})
    cost = {"forward_passes": 1.0, "flops": 1.0, "kv_bytes": 1.0, "seconds_per_question": 1.0}
    results = [result("colar", 0.8, speed="2", cost=cost, thinks_in="latents", **way) for way in ways]
    tests = [{"dataset": "gsm8k", "stage": "colar", "speed": "2", "intervention": "zero", "p": 0.1}]
    report = {"results": results, "causal": [tests[0] | {"accuracy": 0.1, "used": True}]}
    folder_of(tmp_path / "a")
    (tmp_path / "a" / "report.json").write_text(json.dumps(report))
    lines = table(str(tmp_path / "a"), "--costs")
    heading = "accuracy, % (seeds that use latents): zero"
    assert [line[heading] for line in lines.values()] == ["10.0 (1)", "-", "-"]
    (sampled,) = table(str(tmp_path / "a"), "--costs", "--sampling=sampled").values()
    assert heading not in sampled


def test_a_mean_of_some_seeds_says_of_how_many(tmp_path):
    first = folder_of(tmp_path / "a", result("cot", 0.5), result("colar", 0.8))
    second = folder_of(tmp_path / "b", result("colar", 0.9))
    lines = table(first, second, "--against=cot")
    assert lines["gsm8k", "colar", "-", "-", "-"]["minus cot"] == "30.0 (of 1)"


def test_a_report_of_before_is_read(tmp_path):
    older = {name: value for name, value in result("cot", 0.5).items() if name not in ("trim", "run")}
    (line,) = table(folder_of(tmp_path / "a", older), folder_of(tmp_path / "b", result("cot", 0.7))).values()
    assert (line["accuracy, %"].split()[0], line["seeds"]) == ("60.0", "2")


@pytest.mark.slow
def test_a_seed_that_fails_ends_the_table_in_a_line(tmp_path):
    script = [sys.executable, SCRIPT.with_name("methods_table.py"), tmp_path]
    twice = subprocess.run([*script, "--seeds", "0,1,0"], capture_output=True, text=True, check=False)
    assert twice.returncode == 2 and "a seed is named twice" in twice.stderr
    failed = subprocess.run(
        [*script, "--seeds", "3", "--", "--config.eval.seeds=-1"], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert "eval.seeds=-1 is negative" in failed.stderr and "seed 3 ended with status 2" in failed.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "other"),
    [
        (("--config.stages.colar.steps=7",), "with stages.colar.steps=4 where 7 is asked:"),
        (("--config.eval.seeds=2", "--config.eval.speeds=2"), "with eval.speeds='2,5' where '2' is asked, and 1 more:"),
        (("--config.stages.colar.log_every=1", "--config.eval.batch_size=4"), ""),
    ],
)
def test_a_finished_seed_with_other_settings_is_refused(tmp_path, asked, other):
    """As `-- --config.stages.colar.steps=7` after seed 0: the table would average two trainings."""
    methods = SCRIPT.parents[1] / "configs" / "methods.py"
    config = config_beside(str(methods), "methods").get_config("smoke")
    config.workdir = str(tmp_path / "seed_0")
    cost = dict.fromkeys(("forward_passes", "flops", "kv_bytes", "seconds_per_question"), 1.0)
    rows = [result(name, 0.5, cost=cost, thinks_in="") for name in config.run.split(",")]
    folder_of(tmp_path / "seed_0", *rows)
    (tmp_path / "seed_0" / "config.json").write_text(json.dumps(plain(resolve(config))))
    script = [sys.executable, SCRIPT.with_name("methods_table.py"), tmp_path, f"--config={methods}:smoke"]
    done = subprocess.run([*script, "--seeds=0", "--", *asked], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert f"seed_0 is finished, {other}" in done.stderr if other else "finished" not in done.stderr
    assert not other or done.returncode == 1


@pytest.fixture
def commands_of(monkeypatch):
    """What methods_table.py starts, for its arguments; nothing is started."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    methods_table = importlib.import_module("methods_table")

    monkeypatch.setattr("colar_jax.runs.starts.unfinished", lambda folder: "")

    def commands(*arguments):
        started = []

        def run(command, check):
            started.append(command)
            return types.SimpleNamespace(returncode=0)

        monkeypatch.setattr(methods_table.subprocess, "run", run)
        monkeypatch.setattr(sys, "argv", ["methods_table.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            methods_table.main()
        return ended.value.code, started

    return commands


def test_only_some_stages_are_trained_in_the_configs_order(tmp_path, commands_of):
    code, (first, second, table) = commands_of(tmp_path, "--seeds=0,1", "--stages=no_cot,codi")
    assert code == 0
    assert "--config.run=cot,codi,no_cot" in first and not any("init_from" in flag for flag in first)
    assert "--config.eval.stages=cot,codi,no_cot" in first
    assert "--config.run=codi,no_cot" in second
    assert f"--config.stages.codi.init_from={tmp_path / 'seed_0' / 'cot'}" in second
    assert sum("init_from" in flag for flag in second) == 2
    assert "--against=no_cot" in table


def test_what_an_earlier_call_trained_stays_in_the_report(tmp_path, commands_of):
    for seed in (0, 1):
        folder_of(tmp_path / f"seed_{seed}", result("no_cot", 0.3), result("codi", 0.5))
    code, (first, second, _) = commands_of(tmp_path, "--seeds=0,1", "--stages=ruplar")  # against no_cot, which is there
    assert code == 0
    assert "--config.run=cot,ruplar" in first and "--config.eval.stages=cot,ruplar,no_cot,codi" in first
    assert "--config.run=ruplar" in second and "--config.eval.stages=ruplar,no_cot,codi" in second
    assert sum("init_from" in flag for flag in second) == 3


def test_seeds_do_not_start_from_a_chain_of_thought_that_is_still_trained(tmp_path, commands_of, monkeypatch):
    monkeypatch.setattr("colar_jax.runs.starts.unfinished", lambda folder: "step 100, trained to 100 of 600")
    code, started = commands_of(tmp_path, "--seeds=3", "--first=0")
    assert not started and f"{tmp_path / 'seed_0' / 'cot'} is still trained (step 100, trained to 100 of 600)" in code


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("--stages=no_cot,coda", "--stages: there is none called coda, only more_cot, colar,"),
        ("--stages=codi", "--against=no_cot: not one of the stages that are trained: codi"),
        ("--against=none", "--against=none: not one of the stages"),
    ],
)
def test_stages_that_cannot_be_compared_are_not_trained(tmp_path, commands_of, capsys, asked, message):
    assert commands_of(tmp_path, asked) == (2, [])
    assert message in capsys.readouterr().err
