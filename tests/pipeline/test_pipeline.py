"""Whole runs, tiny ones: what they leave behind, what ends them, and what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import fast
from pipeline.tiny import (
    STAGES,
    capture_stage,
    checkpoint_steps,
    copy_of,
    count_steps,
    start,
    tiny_config,
)

from colar_jax.config import plain
from colar_jax.metric_writer import read_metrics
from colar_jax.runs import pipeline
from colar_jax.runs.run import prepare
from colar_jax.training.late_log import Diverged


def test_what_a_run_leaves_behind(finished):
    assert json.loads((finished / "config.json").read_text()) == plain(tiny_config(finished))
    for name in STAGES:
        lines = read_metrics(finished / name)
        # The newest step is still under way when a line is written, unless there is a validation: nothing at 4.
        assert [line["step"] for line in lines] == [2, 3, 3, 6, 6, 7, 7]
        validations = [line for line in lines if "val/accuracy" in line]
        assert [line["step"] for line in validations] == [3, 6, 7]
        assert ("latent_loss" in lines[0]) == (name == "colar")
        assert ("val/length/speed_5" in lines[2]) == (name == "colar")
        losses = [line["loss"] for line in lines if "loss" in line]
        assert losses[-1] < losses[0]
        assert any((finished / name / "tensorboard").glob("events*"))

        samples = [json.loads(line) for line in (finished / name / "samples.jsonl").read_text().splitlines()]
        assert [sample["speed"] for sample in samples] == {
            "cot": ["1"] * 4, "colar": ["2"] * 4 + ["5"] * 4, "no_cot": ["auto"] * 4,
        }[name]  # fmt: skip
        run = prepare(tiny_config(finished))
        questions = [problem.question for problem in run.val.problems]
        assert [sample["question"] for sample in samples][: len(questions)] == questions
        mean_right = np.mean([sample["right"] for sample in samples])
        assert lines[-1]["val/accuracy"] == pytest.approx(mean_right)

    results = json.loads((finished / "report.json").read_text())["results"]
    rows = [(row["stage"], row["speed"], row["sampling"], row["num_seeds"], row["num_questions"]) for row in results]
    assert rows == [
        (stage, speed, sampling, num_seeds, 4)
        for stage, speed in (("cot", "-"), ("colar", "2"), ("colar", "5"), ("no_cot", "-"))
        for sampling, num_seeds in (("greedy", 1), ("sampled", 2))
    ]
    table = (finished / "report.md").read_text().partition("##")[0]
    assert [line.split(" | ")[:3] for line in table.splitlines() if line.startswith(("| c", "| n"))] == [
        [f"| {stage}", speed, sampling] for stage, speed, sampling, *_ in rows
    ]
    samples = [json.loads(line) for line in (finished / "samples.jsonl").read_text().splitlines()]
    assert [(sample["stage"], sample["dataset"]) for sample in samples] == [
        (stage, "arithmetic") for stage in ("cot", "colar", "colar", "no_cot") for _ in range(4)
    ]


@pytest.mark.parametrize("bad_step", fast([4, 5], 4))  # a step that is saved, and one that is looked at later
def test_nan_stops_a_stage_and_spares_its_checkpoints(tmp_path, monkeypatch, bad_step):
    make = pipeline.make_train_step

    def make_poisoned(*arguments):
        step = make(*arguments)

        def poisoned(state, frozen, batch, key):
            if int(state.step) == bad_step - 1:
                state = dataclasses.replace(state, trainable=jax.tree.map(lambda leaf: leaf * jnp.nan, state.trainable))
            return step(state, frozen, batch, key)

        return poisoned

    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "make_train_step", make_poisoned)
        with pytest.raises(Diverged, match=rf"stage cot: not finite at step {bad_step} \(loss nan.*learning_rate"):
            pipeline.train(tiny_config(workdir))
    assert checkpoint_steps(workdir / "cot" / "checkpoints")[-1] == bad_step - 1
    assert max(line["step"] for line in read_metrics(workdir / "cot")) < bad_step

    folder = workdir / "cot" / "diverged"
    assert {path.name for path in folder.iterdir()} == {f"batch_{bad_step}.npz", f"metrics_{bad_step}.json"}
    assert json.loads((folder / f"metrics_{bad_step}.json").read_text())["loss"] == "nan"
    stage = capture_stage(monkeypatch, prepare(tiny_config(workdir)), "cot")
    with np.load(folder / f"batch_{bad_step}.npz") as saved:
        for name, array in dataclasses.asdict(stage.trainer.loader.batch(bad_step - 1)).items():
            np.testing.assert_array_equal(saved[name], array)


def test_a_learning_rate_that_explodes_is_reported(tmp_path):
    config = tiny_config(tmp_path / "run", **{"stages.cot.optimizer.learning_rate": 1e30})
    with pytest.raises(Diverged, match="Lower optimizer.learning_rate"):
        pipeline.train(config)


def test_another_learning_rate_is_refused_and_another_look_is_not(tmp_path, monkeypatch, finished):
    workdir = copy_of(finished, tmp_path)
    learning_rate = {"stages.colar.optimizer.learning_rate": 0.25}
    config_file = (workdir / "config.json").read_text()
    with pytest.raises(ValueError, match=r"stages.colar.optimizer.learning_rate was 0.002, is 0.25"):
        pipeline.train(tiny_config(workdir, **learning_rate))
    assert (workdir / "config.json").read_text() == config_file, "what was refused is not what the run is"

    taken = count_steps(monkeypatch)
    looks = {f"stages.{name}.{field}": 5 for name in STAGES for field in ("log_every", "eval_every", "save_every")}
    monkeypatch.setattr(pipeline, "sweep_run", lambda run: "evaluated")
    assert pipeline.train(tiny_config(workdir, **looks)) == "evaluated" and not taken


@pytest.mark.slow
def test_a_finished_run_is_evaluated_as_asked(tmp_path, finished):
    workdir = copy_of(finished, tmp_path)
    process = start(
        *("-m", "colar_jax.evaluate", f"--workdir={workdir}", "--config.eval.speeds=1,3.5", "--config.eval.seeds=3"),
        *("--config.eval.stages=colar,no_cot", "--config.eval.greedy=False"),
    )
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    rows = json.loads((workdir / "report.json").read_text())["results"]
    assert [(row["stage"], row["speed"], row["sampling"], row["num_seeds"]) for row in rows] == [
        ("colar", "1", "sampled", 3),
        ("colar", "3.5", "sampled", 3),
        ("no_cot", "-", "sampled", 3),
    ]
    printed = output[output.index("| stage") : output.index("report: ")]
    assert printed.strip() in (workdir / "report.md").read_text()
    # The first two of the seeds are those of the run itself.
    (before,) = (
        row
        for row in json.loads((finished / "report.json").read_text())["results"]
        if (row["stage"], row["sampling"]) == ("no_cot", "sampled")
    )
    assert rows[2]["accuracy_per_seed"][:2] == before["accuracy_per_seed"]
    assert (workdir / "config.json").read_text() == (finished / "config.json").read_text()


def test_a_folder_of_no_run_is_one_line_and_status_2(tmp_path):
    process = start("-m", "colar_jax.evaluate", f"--workdir={tmp_path}")
    output, errors = process.communicate(timeout=300)
    assert (process.returncode, output) == (2, "")
    assert errors == f"error: --workdir={tmp_path}: name the folder of a run; {tmp_path}/config.json does not exist\n"
