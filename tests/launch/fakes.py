"""Programs of clusters that only say what they were asked, and a cloud whose machines are folders here."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

LAUNCH = Path(__file__).parents[2] / "launch"
# What a shell, ssh or a list of a program's options could break.
AWKWARD = [
    "--config=configs/arithmetic.py:smoke",
    '--config.title=it\'s a "run", $HOME; `date`',
    "--config.run=cot,colar",
]

SLICE = ("--name=colar", "--zone=us-west4-a", "--type=v5litepod-16")  # of a TPU

_TOOLS = (
    "bash", "sh", "env", "git", "gzip", "dirname", "mkdir", "rm", "cat", "tail", "tar", "sleep", "nohup", "setsid",
    "grep", "tr", "xargs", "date", "mktemp", "tee",
)  # fmt: skip

_RECORD = """
import json, os, sys
def record(log, words):
    with open(log, "a") as file:
        file.write(json.dumps(words) + "\\n")
"""

# Creates, describes, deletes; a command for the workers is run here, in the cloud's folder as home; one for all of them
# also in the home of another worker, if there is one. A home's `refused` says how often which words are refused there.
_GCLOUD = """
record(os.environ["FAKE_LOG"], sys.argv[1:])
import shutil, signal, subprocess, pathlib, time
cloud = pathlib.Path(os.environ["FAKE_CLOUD"])
words = sys.argv[3:]
kind, verb = words[0], words[1]
states = cloud / ("queue" if kind == "queued-resources" else "states")
left = states.read_text().split() if states.exists() else []
if verb == "describe":
    if not left or left[0] == "NONE":
        if len(left) > 1:
            states.write_text(" ".join(left[1:]))
        sys.exit("NOT_FOUND")
    print(left[0])
    if len(left) > 1:
        states.write_text(" ".join(left[1:]))
elif verb == "delete":
    states.write_text("NONE" + " " + " ".join(left))
    for path in cloud.glob("train.*"):  # the next machine is a new one
        path.unlink()
def is_refused(home):
    path = home / "refused"
    refused = json.loads(path.read_text()) if path.exists() else {}
    named = [part for part, left in refused.items() if left and part in " ".join(words)]
    if named:
        path.write_text(json.dumps(refused | {part: refused[part] - 1 for part in named}))
    return bool(named)
if verb == "scp" and is_refused(cloud):
    sys.exit("refused")
elif verb == "ssh":
    command = next(word for word in words if word.startswith("--command=")).partition("=")[2]
    if "uv venv" in command:
        sys.exit()
    others = cloud / "others"  # how often another worker than the first is still found at work
    if "--worker=all" in words and "echo yes" in command and others.exists() and int(others.read_text()):
        others.write_text(str(int(others.read_text()) - 1))
        print("yes")
        sys.exit()
    trainings = pathlib.Path(os.environ["FAKE_LOG"] + ".train")
    worst = 0
    for home in [cloud, *(cloud.glob("another") if "--worker=all" in words else [])]:
        if is_refused(home):
            print("refused", file=sys.stderr)
            worst = 255
            continue
        before = trainings.read_text() if trainings.exists() else ""
        if "colar_jax.train" in command:  # of what was shipped, what training is started by
            shipped = home / "colar_jax" / "launch"
            shipped.mkdir(exist_ok=True)
            shutil.copy(os.environ["FAKE_SHIPPED"], shipped)
        environment = os.environ | {"HOME": str(home)}
        done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True)
        print(done.stdout, end="")
        print(done.stderr, end="", file=sys.stderr)
        # Training starts in the background: what a test looks at has begun when this ends.
        while "colar_jax.train" in command and "still running" not in done.stdout:
            if trainings.exists() and trainings.read_text() != before:
                break
            time.sleep(0.01)
        worst = max(worst, done.returncode)
    sys.exit(worst)
"""

_PLAIN = 'record(os.environ["FAKE_LOG"], [os.path.basename(sys.argv[0]), *sys.argv[1:]])\n'

# Ends with the next of the statuses it is to have; "gone" is no end, but that of its machine, "silent" that of another
# one, and "waits" one after another worker's, as jax has it.
_TRAINING = """
import pathlib, signal, time
statuses = pathlib.Path.home() / "statuses"
left = statuses.read_text().split()
statuses.write_text(" ".join(left[1:] or left))
if left[0] == "gone":
    os.kill(os.getpgrp(), signal.SIGKILL)  # the shell that would note its status
if left[0] == "silent":  # jax misses another worker's heartbeat
    print("Terminating process because the JAX distributed service detected fatal errors.", file=sys.stderr, flush=True)
    record(os.environ["FAKE_LOG"] + ".train", sys.argv[1:])
    os.abort()
record(os.environ["FAKE_LOG"] + ".train", sys.argv[1:])
end, other = time.monotonic() + 60, pathlib.Path.home() / "another" / "train.status"
while left[0] == "waits" and not other.exists() and time.monotonic() < end:
    time.sleep(0.01)
sys.exit(int(left[0]) if left[0].isdigit() else 0)
"""


class Cluster:
    """A PATH with fakes in front, and what they were called with."""

    def __init__(self, folder: Path):
        self.bin, self.cloud, self.log = folder / "bin", folder / "cloud", folder / "log"
        tools = folder / "tools"
        for path in (tools, self.bin, self.cloud, self.cloud / "colar_jax"):
            path.mkdir(parents=True)
        # Not the machine's own PATH: it may have the real programs.
        for name in _TOOLS:
            (tools / name).symlink_to(shutil.which(name))
        self.environment = os.environ | {
            "PATH": f"{self.bin}:{tools}",
            "FAKE_LOG": str(self.log),
            "FAKE_CLOUD": str(self.cloud),
            "FAKE_SHIPPED": str(LAUNCH / "with_peers.sh"),
            "COLAR_POLL_SECONDS": "0.05",
            "TMPDIR": str(folder),
        }

    def add(self, name: str, body: str = _PLAIN) -> None:
        self._write(self.bin / name, body)

    def add_gcloud(self, *, states: str = "", queue: str = "", statuses: str = "0") -> None:
        """A cloud whose slice is found in these states, one after the other, and whose trainings end like this."""
        self.add("gcloud", _GCLOUD)
        for name, text in (("states", states), ("queue", queue)):
            (self.cloud / name).write_text(text)
        self._add_worker(self.cloud, statuses)

    def add_another_worker(self, *, statuses: str) -> Path:
        """Its home, in the cloud of `add_gcloud`."""
        home = self.cloud / "another"
        self._add_worker(home, statuses)
        return home

    def _add_worker(self, home: Path, statuses: str) -> None:
        for folder in (home / "colar_jax", home / "venv" / "bin"):
            folder.mkdir(parents=True, exist_ok=True)
        self._write(home / "venv" / "bin" / "python", _TRAINING)
        (home / "statuses").write_text(statuses)

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [LAUNCH / script, *arguments], env=self.environment, capture_output=True, text=True, timeout=60
        )

    @contextlib.contextmanager
    def start(self, script: str, *arguments: str) -> Iterator[subprocess.Popen]:
        """Ends it, if the test does not see its end."""
        command, pipe = [LAUNCH / script, *arguments], subprocess.PIPE
        with subprocess.Popen(command, env=self.environment, stdout=pipe, stderr=pipe, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def calls(self, suffix: str = "") -> list[list[str]]:
        path = Path(str(self.log) + suffix)
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @staticmethod
    def _write(path: Path, body: str) -> None:
        path.write_text(f"#!{sys.executable} -IS\n" + textwrap.dedent(_RECORD) + textwrap.dedent(body))
        path.chmod(0o755)


def verbs(cluster: Cluster) -> list[str]:
    """What gcloud was asked, one word each; describing left out."""
    return [call[3] for call in cluster.calls() if call[3] != "describe"]


def trainings(cluster: Cluster) -> list[list[str]]:
    """The arguments of each training."""
    return cluster.calls(".train")
