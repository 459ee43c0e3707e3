"""Whole runs, tiny ones: what they leave behind, and that stopping one at any moment changes nothing of it."""

import dataclasses
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from colar_jax import pipeline
from colar_jax.config import Config, resolve, stage_defaults
from colar_jax.metric_writer import read_metrics
from colar_jax.run import prepare
from colar_jax.training.checkpoints import Checkpoints
from colar_jax.training.stage import Diverged, saved_tree
from colar_jax.training.state import initial_state, join, make_optimizer, partition

ROOT = Path(__file__).parents[1]
CONFIG_FILE = ROOT / "configs" / "arithmetic.py"
STAGES = ("cot", "colar", "no_cot")
NUM_STEPS = 7
# Validations at 3, 6 and 7; saves without one at 2 and 4; nothing happens at 1 and 5.
TINY = {
    "run": ",".join(STAGES),
    "data.train_limit": 60,
    "data.num_val": 4,
    "data.num_test": 4,  # as many, so that the programs that decode are the same ones
    "decode.max_step_tokens": 5,
    "decode.max_latents": 4,
    "decode.max_answer_tokens": 3,
    "eval.seeds": 2,
    "eval.speeds": "2,5",
    **{
        f"stages.{stage}.{name}": value
        for stage in STAGES
        for name, value in dict(steps=NUM_STEPS, rows=2, log_every=2, eval_every=3, save_every=2).items()
    },
}


def tiny_config_dict(workdir, **overrides):
    config = runpy.run_path(str(CONFIG_FILE))["get_config"]("smoke")
    config.update_from_flattened_dict(TINY | {"workdir": str(workdir)} | overrides)
    return config


def tiny_config(workdir, **overrides) -> Config:
    return resolve(tiny_config_dict(workdir, **overrides))


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Programs are compiled once for all runs of this file, those of other processes included."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    if before[names[0]] is None:
        for name, value in zip(names, (str(tmp_path_factory.mktemp("compiled")), 0), strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    yield {name.upper(): str(getattr(jax.config, name)) for name in names}
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, compiled_once) -> Path:
    """The folder of a run that was never stopped. Not to be changed."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        taken = count_steps(patch)
        pipeline.train(tiny_config(workdir))
    assert taken == [*range(NUM_STEPS)] * len(STAGES)
    return workdir


def copy_of(workdir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(workdir, tmp_path / "copy"))


def count_steps(monkeypatch) -> list[int]:
    """Note the steps that are taken from now on, whatever their stage: `state.step` before each."""
    taken = []
    make = pipeline.make_train_step

    def make_counting(*arguments):
        step = make(*arguments)

        def counting(state, *others):
            taken.append(int(state.step))
            return step(state, *others)

        return counting

    monkeypatch.setattr(pipeline, "make_train_step", make_counting)
    return taken


def final_state(run, name: str, workdir: Path):
    """Everything in a stage's last checkpoint."""
    stage = run.config.stages[name]
    trainable, frozen = partition(run.initial, trains_latent_head=run.method(name).trains_latent_head)
    state = initial_state(trainable, make_optimizer(stage.optimizer, stage.steps))
    with Checkpoints(workdir / name / "checkpoints") as checkpoints:
        return jax.device_get(checkpoints.restore(stage.steps, saved_tree(state, frozen)))


def assert_same_run(workdir: Path, expected: Path):
    """All that matters of two finished runs is the same, to the last bit."""
    run = prepare(tiny_config(expected))
    for name in STAGES:
        actual_state, expected_state = (final_state(run, name, folder) for folder in (workdir, expected))
        for (path, a), (_, b) in zip(
            *map(jax.tree_util.tree_leaves_with_path, (actual_state, expected_state)), strict=True
        ):
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), (
                name,
                jax.tree_util.keystr(path),
            )
        for folder in (workdir, expected):
            assert {path.name for path in (folder / name / "checkpoints").iterdir()} == {"3", "6", "7"}
        for file in ("metrics.jsonl", "samples.jsonl"):
            assert (workdir / name / file).read_text() == (expected / name / file).read_text(), (name, file)
    for file in ("report.json", "report.md", "samples.jsonl"):
        assert (workdir / file).read_text() == (expected / file).read_text(), file


def test_what_a_run_leaves_behind(finished):
    assert json.loads((finished / "config.json").read_text()) == dataclasses.asdict(tiny_config(finished))
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
    table = (finished / "report.md").read_text()
    assert [line.split(" | ")[:3] for line in table.splitlines() if line.startswith(("| c", "| n"))] == [
        [f"| {stage}", speed, sampling] for stage, speed, sampling, *_ in rows
    ]
    samples = [json.loads(line) for line in (finished / "samples.jsonl").read_text().splitlines()]
    assert [(sample["stage"], sample["dataset"]) for sample in samples] == [
        (stage, "arithmetic") for stage in ("cot", "colar", "colar", "no_cot") for _ in range(4)
    ]


# python -c DRIVER <moment> <n> <signal> <arguments of colar_jax.train>: the signal comes at the n-th such moment.
DRIVER = """
import os, sys
from colar_jax import pipeline
from colar_jax.command_line import run_main
from colar_jax.evaluation.evaluator import Evaluator
from colar_jax.training.checkpoints import Checkpoints

moment, number, signal_number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
del sys.argv[1:4]
count = 0

def then_signal(function, when):
    def wrapped(*arguments, **options):
        global count
        result = function(*arguments, **options)
        count += when == moment
        if when == moment and count == number:
            print("signal", flush=True)
            os.kill(os.getpid(), signal_number)
        return result
    return wrapped

make = pipeline.make_train_step
pipeline.make_train_step = lambda *arguments: then_signal(make(*arguments), "step")
Evaluator._judge = then_signal(Evaluator._judge, "validation")  # decoded, and not yet written
Checkpoints.save = then_signal(Checkpoints.save, "save")  # it goes on in the background
run_main(pipeline.train)
"""


def start(*arguments, environment: dict) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def flags(workdir: Path) -> list[str]:
    overrides = TINY | {"workdir": str(workdir)}
    return [f"--config={CONFIG_FILE}:smoke", *(f"--config.{name}={value}" for name, value in overrides.items())]


def checkpoint_steps(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    with Checkpoints(folder) as checkpoints:
        return checkpoints.steps()


def latest_steps(workdir: Path) -> tuple[int, ...]:
    """The steps that the stages have been saved at: 0 for one without a checkpoint."""
    return tuple(max(checkpoint_steps(workdir / name / "checkpoints"), default=0) for name in STAGES)


def stop_run(workdir: Path, stop: "Stop", environment: dict) -> None:
    """Start a run, or go on with one, stop it by a signal, and look at how it ended."""
    process = start("-c", DRIVER, stop.moment, stop.number, int(stop.signal), *flags(workdir), environment=environment)
    output, errors = process.communicate(timeout=300)
    assert "signal" in output, errors
    assert latest_steps(workdir) in stop.latest
    if stop.signal == signal.SIGTERM:
        assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in errors, errors
        assert "signal 15, saved step" in output.splitlines()[-1]
    else:
        assert process.returncode == -stop.signal, errors


def assert_goes_on_to_the_same_end(workdir: Path, finished: Path, monkeypatch):
    latest = latest_steps(workdir)
    taken = count_steps(monkeypatch)
    pipeline.train(tiny_config(workdir))
    assert taken == [step for start in latest for step in range(start, NUM_STEPS)]
    assert_same_run(workdir, finished)


@dataclasses.dataclass(frozen=True)
class Stop:
    """A signal at the `number`-th of such moments of a process, and the steps that the stages may be saved at then.

    More than one where a save may still be under way.
    """

    signal: signal.Signals
    moment: str  # "step", "validation" or "save"
    number: int
    latest: tuple[tuple[int, ...], ...]


KILL, TERM = signal.SIGKILL, signal.SIGTERM
STOPS = [
    # In the save at step 4 of colar; then told to end in the step after what was saved.
    [Stop(KILL, "save", 8, ((7, 3, 0), (7, 4, 0))), Stop(TERM, "step", 1, ((7, 4, 0), (7, 5, 0)))],
    [Stop(KILL, "step", 1, ((0, 0, 0),)), Stop(KILL, "validation", 1, ((0, 0, 0), (2, 0, 0)))],
    [Stop(KILL, "save", 1, ((0, 0, 0), (2, 0, 0))), Stop(TERM, "step", 4, ((4, 0, 0), (6, 0, 0)))],
    # In the second of a validation's two speeds.
    [Stop(KILL, "validation", 7, ((7, 3, 0), (7, 4, 0))), Stop(TERM, "step", 3, ((7, 6, 0), (7, 7, 0)))],
    # Told to end in a stage's last step.
    [Stop(TERM, "step", 14, ((7, 7, 0),)), Stop(KILL, "step", 3, ((7, 7, 0), (7, 7, 2)))],
]


@pytest.mark.parametrize("stops", [STOPS[0], *(pytest.param(stops, marks=pytest.mark.slow) for stops in STOPS[1:])])
def test_a_run_that_is_stopped_goes_on_to_the_same_end(tmp_path, monkeypatch, finished, compiled_once, stops):
    for stop in stops:
        stop_run(tmp_path / "run", stop, compiled_once)
    assert_goes_on_to_the_same_end(tmp_path / "run", finished, monkeypatch)


@pytest.mark.slow
def test_a_run_killed_at_random_moments_goes_on_to_the_same_end(tmp_path, monkeypatch, finished, compiled_once):
    workdir, rng = tmp_path / "run", random.Random(time.time_ns())
    begin = time.monotonic()
    start("-m", "colar_jax.train", *flags(tmp_path / "measured"), environment=compiled_once).communicate(timeout=600)
    seconds, delays = time.monotonic() - begin, []
    for _ in range(5):
        delays.append(rng.uniform(0.3, 0.7) * seconds)
        process = start("-m", "colar_jax.train", *flags(workdir), environment=compiled_once)
        try:
            process.communicate(timeout=delays[-1])
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    print("killed after", delays, latest_steps(workdir))
    assert_goes_on_to_the_same_end(workdir, finished, monkeypatch)


@pytest.mark.parametrize("bad_step", [4, 5])  # a step that is saved, and one that is looked at later
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
    with pytest.raises(ValueError, match=r"colar.*stage.optimizer.learning_rate was 0.002, is 0.25"):
        pipeline.train(tiny_config(workdir, **learning_rate))
    assert (workdir / "config.json").read_text() == config_file, "what was refused is not what the run is"

    taken = count_steps(monkeypatch)
    looks = {f"stages.{name}.{field}": 5 for name in STAGES for field in ("log_every", "eval_every", "save_every")}
    monkeypatch.setattr(pipeline, "evaluate", lambda run: "evaluated")
    assert pipeline.train(tiny_config(workdir, **looks)) == "evaluated" and not taken


class Captured(Exception):
    """Ends a stage where a test has seen enough."""


def captured_by(run, name: str):
    with pytest.raises(Captured) as captured:
        pipeline.train_stage(run, name)
    return captured.value.args[0]


def capture_stage(monkeypatch, run, name: str):
    """The `StageRun` that a stage would be run with."""

    def capture(stage, *others):
        raise Captured(stage)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "run_stage", capture)
        return captured_by(run, name)


def starts_with(monkeypatch, run, name: str) -> dict:
    """The parameters with which a stage takes its first step."""

    def step(state, frozen, batch, key):
        raise Captured(join(state.trainable, frozen))

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "make_train_step", lambda *arguments: step)
        return captured_by(run, name)


def parameters_of(run, value: float, embed_std: float) -> dict:
    """Parameters that can be told apart: `value` everywhere, but in the embedding matrix -value, 0, value, ..."""
    parameters = jax.tree.map(lambda leaf: jnp.full_like(leaf, value), run.initial)
    embedding = parameters["llama"]["embedding"]
    parameters["llama"]["embedding"] = value * jnp.sign(jnp.arange(embedding.size) % 3 - 1.0).reshape(embedding.shape)
    parameters["latent_head"]["embed_std"] = jnp.float32(embed_std)
    return parameters


def save_stage(folder: Path, parameters: dict, accuracies: dict[int, float], identity: dict) -> None:
    """A stage's checkpoints: the best one has `parameters`, the others zeros."""
    best = max(accuracies, key=accuracies.get)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        for step, accuracy in accuracies.items():
            tree = parameters if step == best else jax.tree.map(jnp.zeros_like, parameters)
            checkpoints.save(step, {"parameters": tree}, metrics={"accuracy": accuracy}, identity=identity)


def told(parameters: dict) -> tuple[float, float]:
    """What `parameters_of` was told."""
    return float(parameters["llama"]["final_norm"]["scale"][0]), float(parameters["latent_head"]["embed_std"])


def test_the_ladder_of_starts(tmp_path, monkeypatch):
    config = tiny_config_dict(tmp_path / "run", run="cot,colar,more,words,no_cot")
    common = dict(steps=NUM_STEPS, rows=2, row_positions=160)
    config.stages.more = stage_defaults(method="colar", **common)
    config.stages.words = stage_defaults(method="cot", **common)
    run = prepare(resolve(config))
    calibrated = np.sqrt(2 / 3)  # the standard deviation of -1, 0, 1, ...

    # Nothing before it: the model's initial weights, calibrated to their own embedding matrix.
    for actual, expected in zip(
        *map(jax.tree.leaves, (starts_with(monkeypatch, run, "cot"), run.initial)), strict=True
    ):
        np.testing.assert_array_equal(actual, expected)
    initial = run.initial["llama"]["embedding"]
    assert float(run.initial["latent_head"]["embed_std"]) == pytest.approx(float(jnp.std(initial)), rel=1e-6)

    def finish(name: str, parameters: dict, accuracies: dict[int, float]) -> None:
        save_stage(run.workdir / name, parameters, accuracies, capture_stage(monkeypatch, run, name).identity)

    # The stage before it, at its best. The first latent stage calibrates, and those after it keep what it was trained
    # with.
    finish("cot", parameters_of(run, 2.0, 0.5), {3: 0.1, 6: 0.9, 7: 0.5})
    assert told(starts_with(monkeypatch, run, "colar")) == pytest.approx((2.0, 2 * calibrated), rel=1e-3)
    finish("colar", parameters_of(run, 3.0, 0.25), {7: 0.0})
    assert told(starts_with(monkeypatch, run, "more")) == (3.0, 0.25)
    finish("more", parameters_of(run, 4.0, 0.125), {7: 0.0})
    assert told(starts_with(monkeypatch, run, "words")) == (4.0, 0.125)

    # `init_from` goes before the stage before it: a stage of this run, or a stage's folder of another.
    assert told(starts_with(monkeypatch, run, "no_cot")) == (2.0, 0.5)
    for source, expected in (("cot", (2.0, 2 * calibrated)), ("colar", (3.0, 0.25))):
        elsewhere = Path(shutil.copytree(run.workdir / source, tmp_path / "elsewhere" / source))
        config.stages.more.init_from = str(elsewhere)
        config.workdir = str(tmp_path / "other")
        other = dataclasses.replace(run, config=resolve(config), workdir=Path(config.workdir))
        assert told(starts_with(monkeypatch, other, "more")) == pytest.approx(expected, rel=1e-3), source

    # Its own latest checkpoint goes before everything, the best one included.
    stage = capture_stage(monkeypatch, run, "no_cot")
    trainable, frozen = partition(parameters_of(run, 5.0, 0.5), trains_latent_head=False)
    state = initial_state(trainable, make_optimizer(stage.config.optimizer, stage.num_steps))
    with Checkpoints(stage.folder / "checkpoints") as checkpoints:
        zeros = jax.tree.map(jnp.zeros_like, saved_tree(state, frozen))
        checkpoints.save(3, zeros, metrics={"accuracy": 1.0}, identity=stage.identity)
        checkpoints.save(4, saved_tree(state, frozen), metrics=None, identity=stage.identity)
    assert told(starts_with(monkeypatch, run, "no_cot")) == (5.0, 0.5)


def test_a_source_that_was_not_run_is_an_error(tmp_path, monkeypatch):
    run = prepare(tiny_config(tmp_path / "run"))
    with pytest.raises(ValueError, match="run/cot has no checkpoints: it is no folder of a stage that was run"):
        starts_with(monkeypatch, run, "colar")
    Checkpoints(run.workdir / "cot" / "checkpoints").__exit__()
    with pytest.raises(ValueError, match="run/cot has no finished checkpoint"):
        starts_with(monkeypatch, run, "colar")


def test_a_finished_run_is_evaluated_as_asked(tmp_path, finished, compiled_once):
    workdir = copy_of(finished, tmp_path)
    process = start(
        *("-m", "colar_jax.evaluate", f"--workdir={workdir}", "--config.eval.speeds=1,3.5", "--config.eval.seeds=3"),
        *("--config.eval.stages=colar,no_cot", "--config.eval.greedy=False"),
        environment=compiled_once,
    )
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    rows = json.loads((workdir / "report.json").read_text())["results"]
    assert [(row["stage"], row["speed"], row["sampling"], row["num_seeds"]) for row in rows] == [
        ("colar", "1", "sampled", 3),
        ("colar", "3.5", "sampled", 3),
        ("no_cot", "-", "sampled", 3),
    ]
    assert (workdir / "report.md").read_text().strip().endswith(output[output.index("| stage") :].strip())
    # The first two of the seeds are those of the run itself.
    (before,) = (
        row
        for row in json.loads((finished / "report.json").read_text())["results"]
        if (row["stage"], row["sampling"]) == ("no_cot", "sampled")
    )
    assert rows[2]["accuracy_per_seed"][:2] == before["accuracy_per_seed"]
    assert (workdir / "config.json").read_text() == (finished / "config.json").read_text()


def test_a_folder_of_no_run_is_one_line_and_status_2(tmp_path):
    process = start("-m", "colar_jax.evaluate", f"--workdir={tmp_path}", environment={})
    output, errors = process.communicate(timeout=300)
    assert (process.returncode, output) == (2, "")
    assert errors == f"error: --workdir={tmp_path}: name the folder of a run; {tmp_path}/config.json does not exist\n"
