"""launch/tpu_vm.sh against a cloud whose slice is a folder here."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cases import fast
from launch.fakes import AWKWARD, LAUNCH, Cluster

SLICE = ("--name=colar", "--zone=us-west4-a", "--type=v5litepod-16")
WHERE = "--zone=us-west4-a"


@pytest.fixture
def cluster(tmp_path) -> Cluster:
    return Cluster(tmp_path)


def verbs(cluster) -> list[str]:
    """What gcloud was asked, one word each; describing left out."""
    return [call[3] for call in cluster.calls() if call[3] != "describe"]


def trainings(cluster) -> list[list[str]]:
    """The arguments of each training."""
    return cluster.calls(".train")


def test_a_slice_is_created_with_its_runtime(cluster):
    cluster.add_gcloud(states="NONE READY")
    assert cluster.run("tpu_vm.sh", "up", *SLICE, "--spot", "--project=mine").returncode == 0
    created = ["compute", "tpus", "tpu-vm", "create", "colar", "--accelerator-type=v5litepod-16"]
    created += ["--version=v2-alpha-tpuv5-lite", "--spot", WHERE, "--project=mine"]
    assert [call for call in cluster.calls() if call[3] != "describe"] == [created]


def test_a_slice_that_is_there_is_reused(cluster):
    cluster.add_gcloud(states="READY")
    assert cluster.run("tpu_vm.sh", "up", *SLICE).returncode == 0
    assert verbs(cluster) == []


def test_a_queued_resource_is_waited_for(cluster):
    cluster.add_gcloud(queue="NONE WAITING_FOR_RESOURCES PROVISIONING ACTIVE", states="CREATING READY")
    assert cluster.run("tpu_vm.sh", "up", *SLICE, "--queued", "--spot", "--version=v9").returncode == 0
    created = ["compute", "tpus", "queued-resources", "create", "colar", "--node-id=colar"]
    created += ["--accelerator-type=v5litepod-16", "--runtime-version=v9", "--spot", WHERE]
    assert [call for call in cluster.calls() if call[3] != "describe"] == [created]


def test_install_copies_and_installs_on_all_workers(cluster, tmp_path):
    cluster.add_gcloud(states="READY")
    assert cluster.run("tpu_vm.sh", "install", *SLICE, "--extras=math").returncode == 0
    copy, install = cluster.calls()
    archive = tmp_path / "colar_jax-colar.tar.gz"
    assert copy == ["compute", "tpus", "tpu-vm", "scp", str(archive), "colar:colar_jax.tar.gz", "--worker=all", WHERE]
    assert archive.stat().st_size > 0
    assert install[2:6] == ["tpu-vm", "ssh", "colar", "--worker=all"]
    assert install[6].startswith(r"--command=extras=tpu\,math; ") and '".[$extras]"' in install[6]


@pytest.fixture
def checkout(tmp_path, cluster) -> Path:
    """A repository of its own with the launch scripts in it, everything committed; `cluster.run` uses it."""
    folder = tmp_path / "checkout"
    shutil.copytree(LAUNCH, folder / "launch")
    (folder / ".gitignore").write_text("ignored.py\n")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def install(cluster, checkout: Path, *training: str) -> list[str]:
    """What `install` says on standard error."""
    command = [checkout / "launch" / "tpu_vm.sh", "install", *SLICE, "--dry_run", *training]
    done = subprocess.run(command, env=cluster.environment, capture_output=True, text=True)
    assert done.returncode == 0 and "archive" in done.stdout
    return done.stderr.splitlines()


@pytest.mark.parametrize("change", ["changed", "staged", "new", "deleted", "renamed"])
def test_what_is_here_and_not_shipped_is_said(cluster, checkout, change):
    assert install(cluster, checkout) == []
    file = checkout / "launch" / "sky.yaml"
    if change in ("changed", "staged"):
        file.write_text("other")
    if change == "staged":
        subprocess.run(["git", "add", "."], cwd=checkout, check=True)
    if change == "new":
        (checkout / "mine.py").write_text("x = 1")
    if change == "deleted":
        file.unlink()
    if change == "renamed":
        subprocess.run(["git", "mv", "launch/sky.yaml", "launch/cloud.yaml"], cwd=checkout, check=True)
    warning, named = install(cluster, checkout)
    assert warning.startswith("warning: HEAD (") and "is shipped, without what is not committed here" in warning
    assert ("mine.py" if change == "new" else "sky.yaml") in named


def test_a_config_that_is_not_shipped_is_said_even_if_git_ignores_it(cluster, checkout):
    (checkout / "ignored.py").write_text("x = 1")
    (line,) = install(cluster, checkout, "--", "--config=ignored.py:smoke", "--config.title=a.py")
    assert line == "warning: ignored.py is not in HEAD: training will not find it"
    assert install(cluster, checkout, "--", "--config=launch/sky.yaml") == []


def test_a_tree_without_git_is_not_warned_about(cluster, checkout):
    shutil.rmtree(checkout / ".git")
    command = [checkout / "launch" / "tpu_vm.sh", "install", *SLICE, "--dry_run"]
    done = subprocess.run(command, env=cluster.environment, capture_output=True, text=True)
    assert "warning" not in done.stderr


@pytest.mark.parametrize("script", ["tpu_vm.sh", "slurm.sh", "sky.sh"])
@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"], ["--nme=x", "--help"]])
def test_help_is_the_head_of_the_script(cluster, script, words):
    done = cluster.run(script, *words)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Train on") and lines[-1] == "After --, the flags of colar_jax.train."
    source = (LAUNCH / script).read_text()
    for flag in re.findall(r"^ +(--\w+)=?\*?\)", source, re.MULTILINE):
        assert flag in done.stdout, f"{script} --help says nothing of {flag}"


INSIDE = ["tpu_vm_install.sh", "tpu_vm_mount.sh", "slurm.sbatch"]


def run_by_hand(cluster, script: str, *words: str) -> subprocess.CompletedProcess:
    """A script that others send or submit, called as a curious user does; its home is the cloud's folder."""
    environment = cluster.environment | {"HOME": str(cluster.cloud)}
    environment.pop("SLURM_JOB_ID", None)
    return subprocess.run(["bash", LAUNCH / script, *words], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("script", INSIDE)
@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"], ["--nme=x", "--help"]])
def test_help_of_what_others_call_does_nothing(cluster, script, words):
    for name in ("python3", "srun", "gcsfuse", "sudo"):
        cluster.add(name)
    (cluster.cloud / "colar_jax" / "mine.txt").write_text("mine")
    done = run_by_hand(cluster, script, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Runs ") and "SBATCH" not in done.stdout and "shellcheck" not in done.stdout
    assert cluster.calls() == [] and (cluster.cloud / "colar_jax" / "mine.txt").exists()


@pytest.mark.parametrize(
    ("script", "words"), [*((script, ["--nme=x"]) for script in INSIDE), (INSIDE[1], []), (INSIDE[2], [])]
)
def test_what_others_call_is_refused_by_hand_in_one_line(cluster, script, words):
    done = run_by_hand(cluster, script, *words)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("error: ") and "launch/" in line
    assert cluster.calls() == []


def test_only_what_was_shipped_is_replaced(cluster):
    cluster.add("python3")
    cluster.add_gcloud()
    shipped, archive = cluster.cloud / "colar_jax", cluster.cloud / "colar_jax.tar.gz"
    (shipped / "mine.txt").write_text("mine")
    assert "there is no ~/colar_jax.tar.gz" in run_by_hand(cluster, "tpu_vm_install.sh").stderr
    subprocess.run(["tar", "-czf", archive, "-C", LAUNCH, "sky.yaml"], check=True)
    done = run_by_hand(cluster, "tpu_vm_install.sh")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "move it away" in done.stderr
    assert [path.name for path in shipped.iterdir()] == ["mine.txt"]
    shutil.rmtree(shipped)
    assert run_by_hand(cluster, "tpu_vm_install.sh").returncode == 0  # where nothing is
    assert sorted(path.name for path in shipped.iterdir()) == [".shipped_by_tpu_vm", "sky.yaml"]
    # A run in the config's own folder stays; what is shipped no longer goes, also a file with blanks in its name.
    (shipped / "runs" / "mine").mkdir(parents=True)
    (shipped / "runs" / "mine" / "checkpoint").write_text("hours of work")
    for files in (["slurm.sh", "a file"], ["sky.yaml"]):
        folder = cluster.cloud / "files"
        folder.mkdir(exist_ok=True)
        for name in files:
            (folder / name).write_text(name)
        subprocess.run(["tar", "-czf", archive, "-C", folder, *files], check=True)
        assert run_by_hand(cluster, "tpu_vm_install.sh").returncode == 0
        assert sorted(path.name for path in shipped.iterdir()) == sorted([".shipped_by_tpu_vm", "runs", *files])
        assert (shipped / "runs" / "mine" / "checkpoint").read_text() == "hours of work"
    (shipped / ".shipped_by_tpu_vm").write_text("")  # of earlier versions, which did not say what they shipped
    assert run_by_hand(cluster, "tpu_vm_install.sh").returncode == 0


# Fails at what it is told by the environment, as often as that says; installing makes a program of this one.
SUDO = """
calls = open(os.environ["FAKE_LOG"]).read() if os.path.exists(os.environ["FAKE_LOG"]) else ""
record(os.environ["FAKE_LOG"], [os.path.basename(sys.argv[0]), *sys.argv[1:]])
word, _, times = os.environ["FAILS"].partition(" ")
if word in sys.argv and calls.count('"' + word + '"') < int(times):
    sys.exit(100)
if "install" in sys.argv:
    os.symlink(sys.argv[0], os.path.join(os.path.dirname(sys.argv[0]), "gcsfuse"))
"""


def mount(cluster, fails: str) -> subprocess.CompletedProcess:
    for name, body in (("sudo", SUDO), ("lsb_release", "print('jammy')"), ("sleep", ""), ("mountpoint", "sys.exit(1)")):
        cluster.add(name, body)
    cluster.environment |= {"bucket": "mine", "FAILS": fails}
    return run_by_hand(cluster, "tpu_vm_mount.sh")


def test_a_bucket_is_mounted_when_the_machine_has_done_its_own_updates(cluster):
    assert mount(cluster, "update 2").returncode == 0
    update = ["sudo", "apt-get", "update", "-qq"]
    install = ["sudo", "apt-get", "-o", "DPkg::Lock::Timeout=300", "install", "-qq", "-y", "gcsfuse"]
    mounted = ["gcsfuse", "--implicit-dirs", "--rename-dir-limit=1000000", "mine", f"{cluster.cloud}/bucket"]
    assert cluster.calls()[-5:] == [update, update, update, install, mounted]


def test_a_key_that_does_not_come_ends_the_mounting(cluster):
    assert mount(cluster, "curl 1").returncode == 1
    assert len(cluster.calls()) == 1


def test_help_after_the_dashes_is_for_training(cluster):
    cluster.add("sbatch")
    assert cluster.run("slurm.sh", "--logs=../none", "--dry_run", "--", "--help").stdout.rstrip().endswith("--help")


def test_training_gets_the_flags_that_were_given(cluster):
    cluster.add_gcloud(states="READY")
    assert cluster.run("tpu_vm.sh", "start", *SLICE, "--", *AWKWARD).returncode == 0
    assert trainings(cluster) == [["-m", "colar_jax.train", *AWKWARD]]


def test_training_that_runs_is_not_started_twice(cluster):
    cluster.add_gcloud(states="READY")
    (cluster.cloud / "train.pid").write_text(str(os.getpid()))  # as good as any process that runs
    done = cluster.run("tpu_vm.sh", "start", *SLICE, "--", *AWKWARD)
    assert "still running" in done.stdout
    assert trainings(cluster) == []


def test_a_run_takes_up_the_watch_of_training_that_runs(cluster):
    cluster.add_gcloud(states="READY READY PREEMPTED PREEMPTED READY")
    (cluster.cloud / "train.pid").write_text(str(os.getpid()))
    done = cluster.run("tpu_vm.sh", "run", *SLICE, "--", *AWKWARD)
    assert done.returncode == 0, done.stderr
    # Nothing is installed under it; on the next slice, it is.
    assert [verb for verb in verbs(cluster) if verb != "ssh"] == ["delete", "create", "scp"]
    assert trainings(cluster) == [["-m", "colar_jax.train", *AWKWARD]]


def test_a_run_ends_when_training_does(cluster):
    cluster.add_gcloud(states="NONE READY")
    done = cluster.run("tpu_vm.sh", "run", *SLICE, "--", *AWKWARD)
    assert done.returncode == 0, done.stderr
    assert "training has ended" in done.stdout
    assert [verb for verb in verbs(cluster) if verb != "ssh"] == ["create", "scp"]
    assert trainings(cluster) == [["-m", "colar_jax.train", *AWKWARD]]


@pytest.mark.parametrize("queued", fast([False, True], True))
def test_a_preempted_slice_is_made_again_and_training_goes_on(cluster, queued):
    # There, then preempted while it is watched (which is seen twice: by the watch, and by `up`), then made again.
    if queued:
        cluster.add_gcloud(queue="NONE ACTIVE ACTIVE SUSPENDED SUSPENDED ACTIVE", states="READY", statuses="gone 0")
    else:
        cluster.add_gcloud(states="NONE READY PREEMPTED PREEMPTED READY", statuses="gone 0")
    flags = ("--queued", "--spot") if queued else ("--spot",)
    done = cluster.run("tpu_vm.sh", "run", *SLICE, *flags, "--", *AWKWARD)
    assert done.returncode == 0, done.stderr
    assert "is gone" in done.stderr
    assert [verb for verb in verbs(cluster) if verb != "ssh"] == ["create", "scp", "delete", "create", "scp"]
    deleted = next(call for call in cluster.calls() if call[3] == "delete")
    assert ("--force" in deleted) == queued and "--quiet" in deleted
    assert trainings(cluster) == [["-m", "colar_jax.train", *AWKWARD]] * 2


def test_a_slice_that_was_stopped_is_started(cluster):
    cluster.add_gcloud(states="STOPPED READY")
    assert cluster.run("tpu_vm.sh", "up", *SLICE).returncode == 0
    assert verbs(cluster) == ["start"]


def test_a_cloud_that_cannot_be_asked_for_a_moment_changes_nothing_under_training(cluster):
    cluster.add_gcloud(states="READY READY NONE READY")
    # Training ends after it was looked at and found at work, which is when it would be replaced and started again.
    look = f"""
        until [ "$(cat {cluster.cloud}/states)" = READY ]; do sleep 0.05; done
        asked() {{ grep -c '"ssh"' {cluster.log}; }}
        before=$(asked)
        until [ "$(asked)" -gt $((before + 2)) ]; do sleep 0.05; done
        echo 0 >{cluster.cloud}/train.status
    """
    with subprocess.Popen(["bash", "-c", look]) as training:
        (cluster.cloud / "train.pid").write_text(str(training.pid))
        done = cluster.run("tpu_vm.sh", "run", *SLICE, "--", *AWKWARD)
    assert done.returncode == 0 and "cannot be asked" in done.stderr, done.stderr
    assert "scp" not in verbs(cluster) and trainings(cluster) == []


def test_training_starts_again_when_all_workers_have_ended(cluster):
    cluster.add_gcloud(states="READY", statuses="75 0")
    (cluster.cloud / "others").write_text("0")
    assert cluster.run("tpu_vm.sh", "run", *SLICE, "--", *AWKWARD).returncode == 0
    looks = len(cluster.calls())
    cluster.log.unlink()
    for path in cluster.cloud.glob("train.*"):
        path.unlink()
    cluster.add_gcloud(states="READY", statuses="75 0")
    starting = cluster.cloud / "others"
    starting.write_text("3")
    (cluster.cloud / "train.status").write_text("75")
    done = cluster.run("tpu_vm.sh", "run", *SLICE, "--", *AWKWARD)
    assert done.returncode == 0, done.stderr
    assert starting.read_text() == "0" and len(cluster.calls()) > looks


def test_training_that_was_stopped_is_started_again(cluster):
    cluster.add_gcloud(states="READY", statuses="143 75 0")
    done = cluster.run("tpu_vm.sh", "run", *SLICE, "--", *AWKWARD)
    assert done.returncode == 0, done.stderr
    assert trainings(cluster) == [["-m", "colar_jax.train", *AWKWARD]] * 3
    assert verbs(cluster).count("scp") == 1


def test_a_worker_that_is_lost_again_and_again_ends_the_run(cluster):
    cluster.add_gcloud(states="READY", statuses="75")
    done = cluster.run("tpu_vm.sh", "run", *SLICE, "--", *AWKWARD)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: a worker was lost within ten minutes, four times in a row")
    assert len(trainings(cluster)) == 4


def test_training_that_fails_ends_the_run(cluster):
    cluster.add_gcloud(states="READY", statuses="2")
    done = cluster.run("tpu_vm.sh", "run", *SLICE, "--", *AWKWARD)
    assert done.returncode == 1
    assert "training ended with status 2" in done.stderr.splitlines()[-1]


def test_a_dry_run_prints_commands_that_can_be_pasted(cluster, tmp_path):
    done = cluster.run("tpu_vm.sh", "run", *SLICE, "--queued", "--bucket=my-bucket", "--dry_run", "--", *AWKWARD)
    assert done.returncode == 0, done.stderr
    assert cluster.calls() == []
    assert "gcsfuse" in done.stdout and "my-bucket" in done.stdout
    cluster.add("gcloud")
    subprocess.run(["bash", "-ec", done.stdout], env=cluster.environment, check=True)
    assert [call[3:6] for call in cluster.calls()] == [
        ["queued-resources", "create", "colar"], ["tpu-vm", "scp", f"{tmp_path}/colar_jax-colar.tar.gz"],
        ["tpu-vm", "ssh", "colar"], ["tpu-vm", "ssh", "colar"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        ((), "name a command"),
        (("up", "--zone=a"), "give --name="),
        (("up", "--name=a"), "give --zone="),
        (("up", "--name=a", "--zone=b", "--dry_run"), "give --type="),
        (("up", *SLICE, "--nme=x"), "--nme=x is no flag"),
        (("up", "--name=a", "--zone=b", "--type=v99-8", "--dry_run"), "give --version="),
        (("start", *SLICE, "--dry_run"), "after --"),
        (("up", *SLICE), "gcloud is not installed"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_fix(cluster, arguments, fix):
    done = cluster.run("tpu_vm.sh", *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and fix in line


def test_the_script_is_where_the_docs_say():
    assert "launch/tpu_vm.sh" in (LAUNCH.parent / "docs" / "clusters.md").read_text()
