"""Killed from outside at random moments, a run loses no finished checkpoint, and ends as one that was never stopped."""

import dataclasses
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from pipeline.tiny import TINY, checkpoint_steps, config_flags, start, untimed_metrics, without_times

from colar_jax.report.files import read_report
from colar_jax.training.checkpoints import Checkpoints

STAGES = ("cot", "colar", "rl")
SETTINGS = {name: value for name, value in TINY.items() if "no_cot" not in name} | {
    "run": ",".join(STAGES),
    "stages.rl.steps": 3,
    "stages.rl.log_every": 1,
    "stages.rl.eval_every": 2,
    "stages.rl.save_every": 1,
    "stages.rl.rl.num_questions": 2,
    "stages.rl.rl.num_generations": 2,
    "stages.rl.rl.minibatch_size": 4,
}
# Of training twice as many as of evaluation and export together; fewer for a quick look: KILLS=6.
NUM_KILLS = int(os.environ.get("KILLS", "40"))


@dataclasses.dataclass
class Killer:
    """Starts commands and kills them, at moments that follow from its seed and from how long a command takes."""

    rng: random.Random = dataclasses.field(default_factory=lambda: random.Random(20250516))

    def run(self, *command) -> float:
        """Lets a command end by itself; how long it took."""
        since = time.monotonic()
        process = start(*command)
        _, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors[-3000:]
        return time.monotonic() - since

    def kill(self, seconds: float, *command) -> bool:
        """Whether a command that takes so long was stopped before its end."""
        process = start(*command)
        try:
            process.communicate(timeout=self.rng.uniform(0.15, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            number = self.rng.choice((signal.SIGKILL, signal.SIGTERM))
            process.send_signal(number)
            _, errors = process.communicate(timeout=300)
            # A request to stop while a stage runs is answered when the state is saved.
            assert process.returncode in (-number, 128 + number, 0), errors[-3000:]
            return process.returncode != 0
        assert process.returncode == 0
        return False


def train(workdir: Path) -> list[str]:
    return ["-m", "colar_jax.train", *config_flags(SETTINGS | {"workdir": str(workdir)})]


def evaluate(workdir: Path) -> list[str]:
    return [
        "-m",
        "colar_jax.evaluate",
        f"--workdir={workdir}",
        "--config.eval.seeds=4",
        "--config.eval.stages=colar,rl",
    ]


def export(workdir: Path, out: Path) -> list[str]:
    return ["-m", "colar_jax.export", f"--workdir={workdir}", "--stage=rl", f"--out={out}"]


def latest_steps(workdir: Path) -> list[int]:
    """After a look at every checkpoint: each must be readable."""
    latest = []
    for stage in STAGES:
        folder = workdir / stage / "checkpoints"
        steps = checkpoint_steps(folder)
        if steps:
            with Checkpoints(folder) as checkpoints:
                for step in steps:
                    checkpoints.read(step)
        latest.append(max(steps, default=0))
    return latest


def assert_same(workdir: Path, expected: Path) -> None:
    for stage in STAGES:
        assert untimed_metrics(workdir / stage) == untimed_metrics(expected / stage), stage
        assert checkpoint_steps(workdir / stage / "checkpoints") == checkpoint_steps(expected / stage / "checkpoints")
    assert (workdir / "samples.jsonl").read_text() == (expected / "samples.jsonl").read_text()
    assert without_times(read_report(workdir)) == without_times(read_report(expected))


def files_of(folder: Path) -> dict[str, bytes]:
    """What is in an exported folder; the card names the run's folder."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path):
    killer, expected = Killer(), tmp_path / "expected" / "run"
    killer.run(*train(expected))  # compiles
    seconds = killer.run(*train(tmp_path / "measured" / "run"))
    number, workdir, latest = 0, tmp_path / "0" / "run", [0] * len(STAGES)
    for kill in range(NUM_KILLS * 6 // 10):
        was_stopped = killer.kill(seconds, *train(workdir))
        now = latest_steps(workdir)
        assert all(step >= before for step, before in zip(now, latest, strict=True)), (kill, latest, now)
        latest = now
        if not was_stopped:  # it came to its end, some stops later: look, and begin another
            assert_same(workdir, expected)
            number, latest = number + 1, [0] * len(STAGES)
            workdir = tmp_path / str(number) / "run"
    killer.run(*train(workdir))
    assert_same(workdir, expected)

    seconds = killer.run(*evaluate(expected))
    for _ in range(NUM_KILLS // 5):
        killer.kill(seconds, *evaluate(workdir))
        assert read_report(workdir), "a report is whole, whenever one looks"
    killer.run(*evaluate(workdir))
    assert_same(workdir, expected)

    seconds = killer.run(*export(expected, tmp_path / "exported"))
    whole, out = files_of(tmp_path / "exported"), tmp_path / "killed" / "exported"
    for _ in range(NUM_KILLS // 5):
        was_stopped = killer.kill(seconds, *export(workdir, out))
        if out.is_dir():
            assert files_of(out).keys() == whole.keys(), "an export appears whole, or not at all"
            out = out.with_name(f"{out.name}_more")
        else:
            assert was_stopped
    killer.run(*export(workdir, out))
    assert files_of(out).keys() == whole.keys()
