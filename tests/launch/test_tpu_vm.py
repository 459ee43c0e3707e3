"""launch/tpu_vm.sh against a cloud whose slice is a folder here."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from launch.fakes import AWKWARD, LAUNCH, SLICE, Cluster, trainings, verbs

WHERE = "--zone=us-west4-a"


@pytest.fixture
def cluster(tmp_path) -> Cluster:
    return Cluster(tmp_path)


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


def test_a_slice_that_was_stopped_is_started(cluster):
    cluster.add_gcloud(states="STOPPED READY")
    assert cluster.run("tpu_vm.sh", "up", *SLICE).returncode == 0
    assert verbs(cluster) == ["start"]


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


def test_a_tree_without_git_is_refused_before_a_slice_is_paid_for(cluster, checkout):
    cluster.add_gcloud(states="NONE READY")
    shutil.rmtree(checkout / ".git")
    command = [checkout / "launch" / "tpu_vm.sh", "run", *SLICE, "--", *AWKWARD]
    done = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("error: HEAD cannot be shipped: fatal: not a git repository")
    assert cluster.calls() == []


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


def test_training_whose_shell_was_killed_is_not_started_twice(cluster):
    cluster.add_gcloud(states="READY")
    shell = subprocess.Popen(["bash", "-c", "sleep 60 & echo"], start_new_session=True, stdout=subprocess.PIPE)
    shell.stdout.readline()
    shell.wait()
    (cluster.cloud / "train.pid").write_text(str(shell.pid))
    try:
        assert "still running" in cluster.run("tpu_vm.sh", "start", *SLICE, "--", *AWKWARD).stdout
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
    assert trainings(cluster) == []


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
