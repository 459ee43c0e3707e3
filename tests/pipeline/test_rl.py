"""A whole run of CoLaR and reinforcement learning, tiny: what it leaves, and that a kill changes nothing of it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from pico_rewards import fewer_latents_and_longer_answers
from pipeline.tiny import CONFIG_FILE, ROOT, smoke_config_dict, untimed_metrics, without_times

from colar_jax.config import OnResume, resolve, stage_defaults
from colar_jax.errors import UserError
from colar_jax.metric_writer import read_metrics
from colar_jax.report.files import read_report
from colar_jax.rl.health import Collapsed
from colar_jax.runs import pipeline
from colar_jax.runs.identity import changes_since, identity_of
from colar_jax.runs.run import prepare
from colar_jax.runs.starts import finished_parameters
from colar_jax.training.checkpoints import Checkpoints

pytestmark = pytest.mark.slow

ITERATIONS = 5
TINY = {
    "run": "colar,rl",
    "data.train_limit": 60,
    "data.num_val": 4,
    "data.num_test": 4,
    "decode.max_latents": 4,
    "decode.max_answer_tokens": 3,
    "eval.seeds": 1,
    "eval.speeds": "5",
    "stages.colar.steps": 2,
    "stages.colar.rows": 2,
    "stages.rl.steps": ITERATIONS,
    "stages.rl.save_every": 1,
    "stages.rl.eval_every": 4,
    "stages.rl.log_every": 2,
    "stages.rl.rl.reward": "pico_rewards:fewer_latents_and_longer_answers",
    "stages.rl.rl.num_questions": 3,
    "stages.rl.rl.minibatch_size": 4,
    "stages.rl.rl.num_iterations": 2,
    "stages.rl.rl.beta": 0.1,
    "stages.rl.rl.entropy_weight": 0.01,
    "stages.rl.rl.skip_solved": True,
    "stages.rl.rl.redraws": 1,
    "stages.rl.rl.length_credit": "penalty",
    "stages.rl.rl.budget": 2.0,
    "stages.rl.rl.stop_on_collapse": False,  # a policy that was never trained has ratios of any size
}


def tiny_config_dict(workdir, **overrides):
    return smoke_config_dict(TINY, workdir, **overrides)


def tiny_config(workdir, **overrides):
    return resolve(tiny_config_dict(workdir, **overrides))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a run that was never stopped. Not to be changed."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    pipeline.train(tiny_config(workdir))
    return workdir


def saved(workdir: Path) -> tuple[dict[str, bytes], dict]:
    """Every leaf of the last checkpoint of the stage, and what was saved beside it."""
    folder = workdir / "rl" / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest_step() == ITERATIONS
        metadata = checkpoints._metadata(ITERATIONS).metadata
        abstract = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in metadata.items()}
        leaves = {path: np.asarray(leaf).tobytes() for path, leaf in checkpoints.restore(ITERATIONS, abstract).items()}
        return leaves, checkpoints.read(ITERATIONS)[1]["trainer"]


def untimed(workdir: Path) -> list[dict]:
    return untimed_metrics(workdir / "rl")


def test_what_the_stage_leaves_behind(finished):
    lines = untimed(finished)
    assert [line["step"] for line in lines] == [2, 4, 4, 5, 5]
    for name in ("reward", "accuracy", "length", "reward_spread", "zero_variance", "forced_stops", "loss", "updates"):
        assert name in lines[0], name
    for kind in ("latent", "decision", "answer"):
        for name in ("gap", "ratio", "clip_fraction", "kl", "log_ratio", "lost"):
            assert np.isfinite(lines[0][f"{name}/{kind}"]), (name, kind)
        assert lines[0][f"gap/{kind}"] < 1e-4
    assert lines[0]["latent_std"] > 0 and 0 <= lines[0]["latent_std_at_bound"] <= 1
    assert "time/host_share" in read_metrics(finished / "rl")[0]
    memory = saved(finished)[1]
    assert memory["questions"]["position"] >= 3 * ITERATIONS and memory["health"]["iterations"] == ITERATIONS
    assert memory["length_weight"] != tiny_config(finished).stages["rl"].rl.length_weight, "it followed the budget"
    rows = json.loads((finished / "report.json").read_text())["results"]
    assert ("rl", "5", "greedy") in [(row["stage"], row["speed"], row["sampling"]) for row in rows]
    (row,) = [row for row in rows if (row["stage"], row["sampling"]) == ("rl", "greedy")]
    assert row["needed_length"] == prepare(tiny_config(finished)).tests["arithmetic"].needed_latents(5.0)
    # The policy moved away from where it started.
    run = prepare(tiny_config(finished))
    before, after = (finished_parameters(run, finished / name) for name in ("colar", "rl"))
    assert all(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (before["llama"], after["llama"])), strict=True))


def test_the_best_checkpoint_is_the_one_of_most_reward(finished):
    """By the stage's own reward function, of what the policy answers to the validation set."""
    rewards = {line["step"]: line["val/reward"] for line in untimed(finished) if "val/reward" in line}
    samples = [json.loads(line) for line in (finished / "rl" / "samples.jsonl").read_text().splitlines()]
    answers, lengths = ([sample[name] for sample in samples] for name in ("prediction", "length"))
    expected = np.mean(fewer_latents_and_longer_answers(None, answers, lengths))
    assert rewards.keys() == {4, ITERATIONS} and rewards[ITERATIONS] == pytest.approx(expected)
    with Checkpoints(finished / "rl" / "checkpoints") as checkpoints:
        assert checkpoints.best_step() == max(rewards, key=lambda step: (rewards[step], step))


def test_what_a_collapse_does_may_change_in_a_folder(tmp_path):
    before = identity_of(prepare(tiny_config(tmp_path)), "rl")

    def changed(**settings):
        settings = {f"stages.rl.rl.{name}": value for name, value in settings.items()}
        changes = changes_since(before, prepare(tiny_config(tmp_path, **settings)), "rl")
        return {change.name for change in changes if change.on_resume is not OnResume.EXECUTION}

    assert changed(stop_on_collapse=False, rollout_questions=1) == set()
    assert changed(min_std=0.3) == {"stage.rl.min_std"}


def test_a_checkpoint_that_is_older_than_a_setting_goes_on_as_it_was_trained(tmp_path):
    """Where the default is another than what was done before the setting was there."""
    run = prepare(tiny_config(tmp_path))
    before = {"minibatches": "filled", "centre": "group", "latent_ratio": "reduced"}
    younger = {f"stage.rl.{name}" for name in before}
    older = {setting: value for setting, value in identity_of(run, "rl").items() if setting not in younger}
    changes = {change.name: change.was for change in changes_since(older, run, "rl")}
    assert changes == {f"stage.rl.{name}": value for name, value in before.items()}
    as_it_was = prepare(tiny_config(tmp_path, **{f"stages.rl.rl.{name}": value for name, value in before.items()}))
    assert changes_since(older, as_it_was, "rl") == []


# python -c DRIVER <moment> <n> <arguments of colar_jax.train>: killed at the n-th such moment.
DRIVER = """
import os, signal, sys
from colar_jax.runs import pipeline
from colar_jax.command_line import run_main
from colar_jax.rl import grpo
from colar_jax.rl.rollout import Sampler
from colar_jax.training.checkpoints import Checkpoints

moment, number = sys.argv[1], int(sys.argv[2])
del sys.argv[1:3]
count = 0

def then_kill(function, when):
    def wrapped(*arguments, **options):
        global count
        result = function(*arguments, **options)
        count += when == moment
        if when == moment and count == number:
            print("killed", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapped

Sampler._start = then_kill(Sampler._start, "rollout")  # under way
make = grpo.make_policy_step
grpo.make_policy_step = lambda *arguments: then_kill(make(*arguments), "update")
Checkpoints.save = then_kill(Checkpoints.save, "save")  # it goes on in the background
run_main(pipeline.train)
"""


@pytest.mark.variant
@pytest.mark.slow
def test_a_run_killed_in_a_rollout_an_update_and_a_save_goes_on_to_the_same_end(tmp_path, finished):
    """Four processes and a run: too long for CI, which asks `tests/rl` what is remembered; `-m slow` runs it."""
    workdir = tmp_path / "run"
    flags = [f"--config.{name}={value}" for name, value in (TINY | {"workdir": str(workdir)}).items()]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    # The first save of all is the CoLaR stage's, at its end.
    for moment, number in (("save", 2), ("rollout", 2), ("update", 7), ("save", 2)):
        process = subprocess.run(
            [sys.executable, "-c", DRIVER, moment, str(number), f"--config={CONFIG_FILE}:smoke", *flags],
            env=environment, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert process.returncode == -signal.SIGKILL and "killed" in process.stdout, process.stderr
    pipeline.train(tiny_config(workdir))
    for actual, expected in zip(saved(workdir), saved(finished), strict=True):
        assert actual == expected
    assert untimed(workdir) == untimed(finished)
    assert (workdir / "samples.jsonl").read_text() == (finished / "samples.jsonl").read_text()
    assert without_times(read_report(workdir)) == without_times(read_report(finished))


def test_another_way_to_sample_is_refused(finished):
    for setting in ({"decode.top_p": 0.5}, {"stages.rl.rl.epsilon": 0.3}):
        with pytest.raises(ValueError, match="other settings: (decode|stages.rl.rl)"):
            pipeline.train(tiny_config(finished, **setting))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages.rl.init_from": "", "run": "rl"}, "improves a trained model: name one with init_from="),
        ({"stages.rl.rl.num_questions": 99}, "rl.num_questions=99, but there are only 60 training questions"),
        ({"stages.rl.rl.reward": "best"}, "rl.reward='best' is none of correctness"),
    ],
)
def test_one_error_for_what_cannot_be(tmp_path, finished, settings, message):
    settings = {"stages.rl.init_from": str(finished / "colar")} | settings
    with pytest.raises(ValueError, match=message):
        pipeline.train_stage(prepare(tiny_config(tmp_path / "run", **settings)), "rl")


def test_nothing_is_learned_from_rewards_where_nothing_is_thought(tmp_path, finished):
    config = tiny_config_dict(tmp_path / "run")
    config.stages.rl = stage_defaults(method="no_cot", trainer="grpo", init_from=str(finished / "colar"), steps=1)
    with pytest.raises(UserError, match="or of words, and method='no_cot' has neither: use colar"):
        pipeline.train_stage(prepare(resolve(config)), "rl")


def test_latents_that_were_never_trained_are_no_policy(tmp_path):
    config = tiny_config_dict(tmp_path / "run", **{"run": "cot", "eval.stages": "cot", "stages.cot.steps": 1})
    pipeline.train(resolve(config))
    config.run = "cot,rl"
    config.stages.rl.init_from = "cot"
    with pytest.raises(ValueError, match="needs latents that were trained, and .*cot has none yet"):
        pipeline.train_stage(prepare(resolve(config)), "rl")


def test_a_policy_that_explodes_is_stopped_and_told_why(tmp_path, finished):
    """Without a floor and with a learning rate that no ratio survives."""
    settings = {"stages.rl.init_from": str(finished / "colar"), "stages.rl.rl.min_std": 0.0, "stages.rl.rl.beta": 0.0}
    settings |= {"stages.rl.optimizer.learning_rate": 0.3, "stages.rl.optimizer.warmup_steps": 0, "run": "rl"}
    # With a limit on bad actions no loss is infinite, which would be what ends the run.
    settings |= {"stages.rl.rl.stop_on_collapse": True, "stages.rl.rl.dual_clip": 3.0}
    run = prepare(tiny_config(tmp_path / "run", **settings))
    with pytest.raises(Collapsed, match=r"ratios explode: .* of the latent terms .*raise rl.min_std") as stopped:
        pipeline.train_stage(run, "rl")
    assert "checkpoint is untouched" in str(stopped.value)
    last = read_metrics(tmp_path / "run" / "rl")[-1]  # the iteration that showed it is in the log
    assert f"iteration {last['step']}:" in str(stopped.value) and "accuracy" in last and last["lost/latent"] > 0.5


def test_a_stage_at_its_defaults_is_valid():
    config = tiny_config_dict("nowhere")
    config.stages.rl = stage_defaults(method="colar", trainer="grpo", init_from="colar")
    assert resolve(config).stages["rl"].rl.num_generations == 8
