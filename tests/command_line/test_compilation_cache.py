"""What commands compile is kept for the next one, whatever becomes of the folder: each case in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cases import fast

from colar_jax.command_line import compilation_cache
from colar_jax.config import Config
from colar_jax.errors import UserError

PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from colar_jax.command_line.compilation_cache import use_compilation_cache
setting, most_bytes = sys.argv[1], int(sys.argv[2])
folder = use_compilation_cache(setting)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None)
if most_bytes:
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
assert float(jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((3, 3)))[0, 0]) > 2
print(folder, len(hits))
"""
EVERYTHING = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def start(home: Path, setting="auto", most_bytes=0, **variables) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XDG_"))}
    environment |= {"HOME": str(home)} | EVERYTHING | variables
    command = [sys.executable, "-c", PROGRAM, setting, str(most_bytes)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen) -> tuple[str, int, str]:
    """The folder, how many programs came from it, and standard error."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    folder, hits = out.split()
    return folder, int(hits), err


def entries(home: Path) -> list[Path]:
    return sorted(home.rglob("*-cache"))


@pytest.mark.slow
def test_the_second_process_compiles_nothing(tmp_path):
    both = [start(tmp_path), start(tmp_path)]  # at once
    folders = {ended(process)[0] for process in both}
    [folder] = folders
    assert Path(folder).parent == tmp_path / ".cache" / "colar_jax"
    kept = entries(tmp_path)
    assert kept
    _, hits, err = ended(start(tmp_path))
    assert hits == len(kept) and err == ""
    # A process that was killed in the middle of a write leaves a part of a file.
    for path in kept:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _, hits, err = ended(start(tmp_path))
    assert (hits, err) == (0, "")


@pytest.mark.parametrize(
    ("setting", "variables"),
    fast(
        [
            ("off", {}),
            ("auto", {"JAX_COMPILATION_CACHE_DIR": ""}),
            ("auto", {"JAX_ENABLE_COMPILATION_CACHE": "0"}),
        ],
        ("auto", {"JAX_COMPILATION_CACHE_DIR": ""}),
    ),
)
@pytest.mark.slow
def test_what_turns_it_off(tmp_path, setting, variables):
    folder, hits, err = ended(start(tmp_path, setting, **variables))
    assert (folder, hits, err, entries(tmp_path)) == ("None", 0, "", [])


@pytest.mark.slow
def test_other_folders(tmp_path):
    of_jax = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "of_jax")}
    assert ended(start(tmp_path / "home", **of_jax))[0] == "None"
    assert entries(tmp_path / "of_jax") and not (tmp_path / "home").exists()
    assert ended(start(tmp_path / "home", str(tmp_path / "mine")))[0] == str(tmp_path / "mine")
    assert entries(tmp_path / "mine") and not (tmp_path / "home").exists()
    assert ended(start(tmp_path / "home", XDG_CACHE_HOME=str(tmp_path / "xdg")))[0].startswith(str(tmp_path / "xdg"))


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_and_a_full_disk(tmp_path):
    (tmp_path / ".cache").write_text("a file")
    assert ended(start(tmp_path))[:2] == ("None", 0)
    folder, hits, err = ended(start(tmp_path, str(tmp_path / "full"), most_bytes=64))
    assert (folder, hits, err) == (str(tmp_path / "full"), 0, "")


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(compilation_cache.tempfile, "TemporaryFile", refuse)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("JAX_ENABLE_COMPILATION_CACHE", raising=False)
    monkeypatch.setattr(compilation_cache.jax.config, "update", None)  # it must not be called
    monkeypatch.setattr(type(compilation_cache.jax.config), "jax_compilation_cache_dir", None, raising=False)
    assert compilation_cache.use_compilation_cache(str(tmp_path)) is None


def test_an_empty_setting():
    with pytest.raises(UserError, match="compilation_cache is empty"):
        Config(compilation_cache=" ")
