"""`launch/tpu_vm.sh run` against a cloud whose slice is a folder here, and whose machines come and go."""

import json
import os
import subprocess
import time

import pytest
from cases import fast
from launch.fakes import AWKWARD, SLICE, Cluster, trainings, verbs


@pytest.fixture
def cluster(tmp_path) -> Cluster:
    return Cluster(tmp_path)


def wait_until(is_so) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


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


def test_training_that_jax_aborts_because_another_worker_is_gone_starts_again(cluster):
    cluster.add_gcloud(states="READY", statuses="silent 0")
    done = cluster.run("tpu_vm.sh", "run", *SLICE, "--", *AWKWARD)
    assert done.returncode == 0, done.stderr
    assert trainings(cluster) == [["-m", "colar_jax.train", *AWKWARD]] * 2


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


def test_a_failure_of_another_worker_ends_the_run(cluster):
    """What one worker of several cannot do, such as fit its memory, the first one is told as a lost worker."""
    cluster.add_gcloud(states="READY", statuses="75")
    another = cluster.add_another_worker(statuses="78")
    (another / "refused").write_text(json.dumps({'75 | 143 | "")': 2}))  # being asked for it
    (another / "train.log").write_text("no memory left")
    done = cluster.run("tpu_vm.sh", "run", *SLICE, "--", *AWKWARD)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == "error: training ended with status 78 on one of the workers; the log is above"
    assert "no memory left" in done.stdout
    assert len(trainings(cluster)) == 2


def test_what_fails_on_a_new_machine_is_tried_again(cluster):
    """ssh is not there yet, or another program has locked its packages."""
    cluster.add_gcloud(states="NONE READY")
    (cluster.cloud / "refused").write_text(json.dumps({"echo yes": 1, "scp": 1, "colar_jax.train": 1}))
    done = cluster.run("tpu_vm.sh", "run", *SLICE, "--", *AWKWARD)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("trying again") == 3 and verbs(cluster).count("scp") == 2
    assert trainings(cluster) == [["-m", "colar_jax.train", *AWKWARD]]


def test_what_never_works_is_not_paid_for_without_end(cluster):
    """Such as a bucket that is not there."""
    cluster.add_gcloud(states="READY")
    (cluster.cloud / "refused").write_text(json.dumps({"colar_jax.train": 1000}))
    done = cluster.run("tpu_vm.sh", "run", *SLICE, "--", *AWKWARD)
    assert done.returncode == 1 and done.stderr.count("trying again") == 19
    assert done.stderr.splitlines()[-1].startswith("error: training could not be started, 20 times in a row")


def test_what_fails_when_training_is_to_go_on_is_tried_again(cluster):
    cluster.add_gcloud(states="READY", statuses="75 0")
    with cluster.start("tpu_vm.sh", "run", *SLICE, "--", *AWKWARD) as watching:
        wait_until(lambda: trainings(cluster))
        (cluster.cloud / "refused").write_text(json.dumps({"colar_jax.train": 5}))
        _, said = watching.communicate(timeout=60)
    assert watching.returncode == 0 and said.count("trying again") == 5  # and none of them counts as lost
    assert len(trainings(cluster)) == 2


def test_a_worker_on_which_training_did_not_start_is_tried_again_alone(cluster):
    cluster.add_gcloud(states="READY", statuses="waits")
    another = cluster.add_another_worker(statuses="0")
    (another / "refused").write_text(json.dumps({"colar_jax.train": 1}))
    done = cluster.run("tpu_vm.sh", "run", *SLICE, "--", *AWKWARD)
    assert done.returncode == 0, done.stderr
    assert "still running" in done.stdout and done.stderr.count("trying again") == 1


def test_training_that_is_gone_without_a_status_is_started_again(cluster):
    """Its machine was restarted between two looks."""
    cluster.add_gcloud(states="READY", statuses="gone gone 0")
    done = cluster.run("tpu_vm.sh", "run", *SLICE, "--", *AWKWARD)
    assert done.returncode == 0, done.stderr
    assert len(trainings(cluster)) == 3 and verbs(cluster).count("scp") == 1


def test_training_that_is_gone_again_and_again_ends_the_run(cluster):
    cluster.add_gcloud(states="READY", statuses="gone")
    done = cluster.run("tpu_vm.sh", "run", *SLICE, "--", *AWKWARD)
    assert done.returncode == 1 and "four times in a row" in done.stderr.splitlines()[-1]
    assert len(trainings(cluster)) == 4


def test_a_worker_that_cannot_be_asked_does_not_count_as_one_without_training(cluster):
    cluster.add_gcloud(states="READY")
    refused = cluster.cloud / "refused"
    refused.write_text(json.dumps({"echo yes": 1}))  # where it would be installed and started
    with subprocess.Popen(["sleep", "30"]) as training:
        (cluster.cloud / "train.pid").write_text(str(training.pid))
        with cluster.start("tpu_vm.sh", "run", *SLICE, "--", *AWKWARD) as watching:
            wait_until(lambda: any("cat ~/train.status" in " ".join(call) for call in cluster.calls()))
            refused.write_text(json.dumps({"echo yes": 3}))  # where it is watched
            wait_until(lambda: '"echo yes": 0' in refused.read_text())
            (cluster.cloud / "train.status").write_text("0")
            watching.communicate(timeout=60)
        training.kill()
    assert watching.returncode == 0
    asked = str(cluster.calls())
    assert "scp" not in asked and "colar_jax.train" not in asked


def test_training_that_fails_ends_the_run(cluster):
    cluster.add_gcloud(states="READY", statuses="2")
    done = cluster.run("tpu_vm.sh", "run", *SLICE, "--", *AWKWARD)
    assert done.returncode == 1
    assert "training ended with status 2" in done.stderr.splitlines()[-1]
