import shutil
import subprocess

import jax
import pytest

import colar_jax
from colar_jax.report.provenance import git_commit, provenance


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_packages_own_checkout(tmp_path):
    package = tmp_path / "project" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    assert git_commit(package) is None, "no checkout"
    git(tmp_path / "project", "init", "-q")
    assert git_commit(package) is None, "inside of a checkout, and not of it"
    git(tmp_path / "project", "add", ".")
    git(tmp_path / "project", "commit", "-qm", "first")
    git(tmp_path / "project", "tag", "v1")
    commit = git(tmp_path / "project", "rev-parse", "HEAD")
    assert git_commit(package) == commit
    (package / "__init__.py").write_text("changed")
    assert git_commit(package) == f"{commit}-dirty"


def test_without_git_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() is None


def test_what_is_said():
    said = provenance({"A": 3, "B": 4}, 2, {"A": {"decode": {"top_p": 0.5}}}, {"B": {"cot": "step 1"}})
    assert said["unfinished"] == {"B": {"cot": "step 1"}}
    assert said["settings"] == {"A": {"decode": {"top_p": 0.5}}}
    assert said["version"] == colar_jax.__version__ and said["jax"] == jax.__version__
    assert said["devices"] == [jax.devices()[0].device_kind] and said["num_devices"] == jax.device_count()
    assert said["seeds"] == {"training": {"A": 3, "B": 4}, "decoding": [0, 1]} and said["date"].endswith("+00:00")
