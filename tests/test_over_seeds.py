"""The table over seeds: which results are repetitions of each other, and what a row is compared with."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
