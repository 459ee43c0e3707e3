"""launch/slurm.sh and launch/sky.sh against programs that only say what they were asked."""

import shlex
import signal
import subprocess
import time

import pytest
from launch.fakes import AWKWARD, LAUNCH, Cluster

ROOT = str(LAUNCH.parent)


@pytest.fixture
def cluster(tmp_path) -> Cluster:
    return Cluster(tmp_path)


def test_a_job_is_submitted_with_a_process_a_gpu(cluster, tmp_path):
    cluster.add("sbatch")
    logs = f"../{tmp_path.name}"
    done = cluster.run("slurm.sh", "--nodes=2", "--gpus_per_node=8", "--time=1:00:00", "--partition=gpu",
                       "--account=me", f"--logs={logs}", "--", *AWKWARD)  # fmt: skip
    assert done.returncode == 0, done.stderr
    (LAUNCH.parent / logs).rmdir()
    (call,) = cluster.calls()
    options = ["--job-name=colar", "--nodes=2", "--gpus-per-node=8", "--ntasks-per-node=8", "--time=1:00:00"]
    options += ["--partition=gpu", "--account=me", f"--output={logs}/slurm-%j.log", f"--chdir={ROOT}"]
    assert call == ["sbatch", *options, f"{ROOT}/launch/slurm.sbatch", *AWKWARD]


def test_gpus_of_a_kind_are_as_many_processes(cluster):
    cluster.add("sbatch")
    assert cluster.run("slurm.sh", "--gpus_per_node=a100:8", "--logs=/tmp", "--", *AWKWARD).returncode == 0
    assert {"--gpus-per-node=a100:8", "--ntasks-per-node=8"} <= set(cluster.calls()[0])


def test_a_dry_run_submits_nothing(cluster):
    done = cluster.run("slurm.sh", "--dry_run", "--python=apptainer exec --nv colar.sif python", "--", *AWKWARD)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert shlex.split(lines[-2]) == ["export", "COLAR_PYTHON=apptainer exec --nv colar.sif python"]
    assert shlex.split(lines[-1])[-len(AWKWARD) :] == AWKWARD


TRAINING = ["srun", "--kill-on-bad-exit=0", "launch/with_peers.sh", "apptainer", "exec", "--nv", "colar.sif", "python"]
TRAINING += ["-m", "colar_jax.train", *AWKWARD]


def job(cluster, srun: str, folder=None) -> subprocess.Popen:
    """A job that runs in a folder, whose processes are this program."""
    cluster.add("srun", srun.format(record='record(os.environ["FAKE_LOG"], ["srun", *sys.argv[1:]])'))
    cluster.add("scontrol")
    environment = cluster.environment | {"SLURM_JOB_ID": "17", "COLAR_PYTHON": "apptainer exec --nv colar.sif python"}
    command = [LAUNCH / "slurm.sbatch", *AWKWARD]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, cwd=folder or cluster.cloud)


@pytest.mark.parametrize(("status", "is_requeued"), [(0, False), (2, False), (143, False), (75, True)])
def test_a_job_that_lost_a_process_goes_back_into_the_queue(cluster, status, is_requeued):
    ended = job(cluster, f"{{record}}\nsys.exit({status})\n").wait(timeout=60)
    assert cluster.calls() == [TRAINING] + [["scontrol", "requeue", "17"]] * is_requeued
    assert ended == (0 if is_requeued else status)


def test_processes_that_are_lost_at_once_are_not_started_for_ever(cluster, tmp_path):
    """Four times in a row; another end in between, as at the time limit, begins the count anew."""
    lost, stopped = "{record}\nsys.exit(75)\n", "{record}\nsys.exit(143)\n"
    ends = [job(cluster, srun, tmp_path).wait(timeout=60) for srun in (*[lost] * 3, stopped, *[lost] * 4)]
    assert ends == [0, 0, 0, 143, 0, 0, 0, 1]
    assert cluster.calls().count(["scontrol", "requeue", "17"]) == 6
    assert not list(tmp_path.glob(".slurm*"))


# srun kills its processes when it is sent a SIGTERM; `scancel --signal` sends it to the processes (here: as USR2).
SRUN = """
import signal
signal.signal(signal.SIGTERM, lambda *_: sys.exit(137))
signal.signal(signal.SIGUSR2, lambda *_: sys.exit(143))
open(os.environ["FAKE_LOG"] + ".srun", "w").write(str(os.getpid()))
{record}
signal.pause()
"""
SCANCEL = """
record(os.environ["FAKE_LOG"], ["scancel", *sys.argv[1:]])
import signal
os.kill(int(open(os.environ["FAKE_LOG"] + ".srun").read()), signal.SIGUSR2)
"""


def test_a_job_that_is_out_of_time_saves_and_goes_back_into_the_queue(cluster):
    cluster.add("scancel", SCANCEL)
    running = job(cluster, SRUN)
    while not cluster.calls():
        time.sleep(0.02)
    running.send_signal(signal.SIGUSR1)
    assert running.wait(timeout=60) == 0
    assert cluster.calls() == [TRAINING, ["scancel", "--signal=TERM", "17"], ["scontrol", "requeue", "17"]]


def sky_options(call: list[str]) -> dict[str, str]:
    return dict(word.partition("=")[::2] for word in call if word.startswith("--") and not word.startswith("--env"))


def test_sky_gets_the_task_and_its_flags(cluster):
    cluster.add("sky")
    done = cluster.run(
        "sky.sh", "--name=colar", "--accelerators=H100:8", "--bucket=mine", "--infra=gcp", "--", *AWKWARD
    )
    assert done.returncode == 0, done.stderr
    (call,) = cluster.calls()
    assert call[:2] == ["sky", "launch"] and call[-1] == f"{ROOT}/launch/sky.yaml"
    expected = {"--cluster": "colar", "--gpus": "H100:8", "--num-nodes": "1", "--workdir": ROOT, "--infra": "gcp"}
    assert sky_options(call) == expected | {"--detach-run": "", "--yes": ""}
    environment = dict(word.removeprefix("--env=").split("=", 1) for word in call if word.startswith("--env="))
    assert environment["COLAR_EXTRA"] == "cuda" and environment["COLAR_BUCKET"] == "mine"
    # As the task's `run` reads it.
    read = subprocess.run(
        ["bash", "-c", 'eval "set -- $COLAR_FLAGS"; printf "%s\\n" "$@"'],
        env=cluster.environment | environment, capture_output=True, text=True,
    )  # fmt: skip
    assert read.stdout.splitlines() == ["--config.workdir=/bucket/colar", *AWKWARD]


def test_spot_machines_are_a_managed_job(cluster):
    cluster.add("sky")
    done = cluster.run("sky.sh", "--name=colar", "--accelerators=tpu-v6e-8", "--bucket=mine", "--spot", "--", *AWKWARD)
    assert done.returncode == 0, done.stderr
    (call,) = cluster.calls()
    assert call[:5] == ["sky", "jobs", "launch", "--name=colar", "--use-spot"] and "--env=COLAR_EXTRA=tpu" in call


@pytest.mark.parametrize("name", ["tpu-v6e-8", "TPU-v6e-8"])  # SkyPilot knows both
def test_several_slices_would_train_apart_and_are_refused(cluster, name):
    cluster.add("sky")
    options = ["--name=colar", f"--accelerators={name}", "--bucket=mine"]
    done = cluster.run("sky.sh", *options, "--nodes=2", "--", *AWKWARD)
    assert done.returncode == 2 and cluster.calls() == []
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --nodes=2") and "--accelerators=tpu-v6e-16" in line
    assert cluster.run("sky.sh", *options, "--nodes=1", "--", *AWKWARD).returncode == 0
    assert "--env=COLAR_EXTRA=tpu" in cluster.calls()[0]


def test_machines_with_gpus_may_be_several(cluster):
    cluster.add("sky")
    options = ["--name=colar", "--accelerators=H100:8", "--bucket=mine", "--nodes=2"]
    assert cluster.run("sky.sh", *options, "--", *AWKWARD).returncode == 0
    assert "--num-nodes=2" in cluster.calls()[0]


def test_further_extras_are_installed(cluster):
    cluster.add("sky")
    options = ["--name=colar", "--accelerators=H100:8", "--bucket=mine", "--extras=math,gguf"]
    assert cluster.run("sky.sh", *options, "--", *AWKWARD).returncode == 0
    assert "--env=COLAR_EXTRA=cuda,math,gguf" in cluster.calls()[0]


@pytest.mark.parametrize(
    ("script", "arguments", "fix"),
    [
        ("slurm.sh", (), "after --"),
        ("slurm.sh", ("--nodez=2",), "--nodez=2 is no flag"),
        ("slurm.sh", ("--gpus_per_node=a100", "--", "--config=x"), "=a100 does not say how many"),
        ("slurm.sh", ("--gpus_per_node=a100:", "--", "--config=x"), "=a100: does not say how many"),
        ("slurm.sh", ("--gpus_per_node=a100:4,v100:4", "--", "--config=x"), "give 8, or a100:8"),
        ("slurm.sh", ("--gpus_per_node=0", "--", "--config=x"), "=0 does not say how many"),
        ("slurm.sh", ("--", "--config=x"), "sbatch is not installed"),
        ("sky.sh", ("--", "--config=x"), "give --name="),
        ("sky.sh", ("--name=a", "--accelerators=H100:8", "--", "--config=x"), "give --bucket="),
        ("sky.sh", ("--name=a", "--accelerators=H100:8", "--bucket=b"), "after --"),
        ("sky.sh", ("--name=a", "--accelerators=H100:8", "--bucket=b", "--", "--config=x"), "sky is not installed"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_fix(cluster, script, arguments, fix):
    done = cluster.run(script, *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and fix in line
