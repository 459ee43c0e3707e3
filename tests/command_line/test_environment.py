"""What the shell hands over besides flags: encodings, and the variables that jax reads."""

import io
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from command_line.program import CONFIG_FILE

from colar_jax.command_line.environment import prepare_streams, require_text
from colar_jax.config import defaults, resolve, stage_defaults
from colar_jax.errors import UserError
from colar_jax.parallel import hosts
from colar_jax.runs.run import prepare

PROJECT = Path(__file__).parents[2]


def stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", "97.1 ± 0.4 \\udcff".encode()),
        ("utf-8", "97.1 ± 0.4 \\udcff".encode()),
        ("latin-1", "97.1 ± 0.4 \\udcff".encode("latin-1")),
        ("cp1250", "97.1 ± 0.4 \\udcff".encode("cp1250")),
        ("cp037", "97.1 ± 0.4 \\udcff".encode("cp037")),
    ],
)
def test_everything_can_be_printed(monkeypatch, encoding, expected):
    out, errors = stream(encoding), stream(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", errors)
    prepare_streams()
    for one in (out, errors):
        one.write("97.1 ± 0.4 \udcff")
        one.flush()
        assert one.buffer.getvalue() == expected


def test_standard_input_is_utf8(monkeypatch):
    lines = io.TextIOWrapper(io.BytesIO("± \n".encode() + b"\xff\n"), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", lines)
    prepare_streams()
    assert require_text(lines.readline(), "line 1") == "± \n"
    with pytest.raises(UserError, match=r"^line 2 is not UTF-8: '\\\\udcff\\n'$"):
        require_text(lines.readline(), "line 2")


@pytest.mark.parametrize("text", ["\udcff", "a\udc80b", "the \ud800", "\udce2\udc82"])
def test_what_is_not_text(text):
    with pytest.raises(UserError, match="^a word is not UTF-8"):
        require_text(text, "a word")


def test_bytes_that_are_utf8_are_text_whatever_the_locale_says():
    assert require_text("caf\udcc3\udca9", "a word") == "café"
    assert require_text("café ±", "a word") == "café ±"


def test_invalid_bytes_in_a_flag(run):
    """As Python hands them over, and as the shell does."""
    ran = run("--config=tiny.py", "--config.title=\udcff")
    assert (ran.status, ran.errors) == (2, ["error: argument 2 is not UTF-8: '--config.title=\\\\udcff'"])
    assert run("--config=\udcff.py").status == run("--\udcff=3").status == run("--config=tiny.py", "\udcff").status == 2
    title = run("--config=tiny.py", "--config.title=\udcc3\udca9").config.title
    assert title == "é"


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unable to initialize backend 'nonsense'")])
def test_no_device_is_one_line(monkeypatch, error):
    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    with pytest.raises(UserError, match=r"^jax has no devices to compute on, with JAX_PLATFORMS='nonsense': \w+"):
        hosts.require_devices()


def test_64_bits_are_refused_at_the_start(run):
    with jax.enable_x64(True):
        ran = run("--config=tiny.py")
    assert (ran.status, ran.config) == (2, None)
    assert ran.errors[0].startswith("error: JAX_ENABLE_X64 is set: this program computes in float32 or bfloat16")


@pytest.mark.parametrize(("dtype", "is_slow"), [("bfloat16", True), ("float32", False)])
def test_bfloat16_on_a_cpu_says_that_it_is_slow(caplog, dtype, is_slow):
    config = defaults()
    config.stages.cot = stage_defaults(method="cot")
    config.run, config.model.preset, config.model.dtype = "cot", "pico", dtype
    with caplog.at_level("WARNING"):
        prepare(resolve(config), sets="none")
    said = [record.message for record in caplog.records if "--config.model.dtype=float32" in record.message]
    assert bool(said) == (is_slow and jax.default_backend() == "cpu")


@pytest.mark.slow
def test_a_file_name_that_the_locale_does_not_have():
    """In a locale of ASCII, with Python's own ways around it switched off."""
    variables = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "colar_jax.export", "--workdir=café", "--out=x"]
    ended = subprocess.run(command, cwd=PROJECT, env=os.environ | variables, capture_output=True)
    assert ended.returncode == 2
    (line,) = ended.stderr.decode().splitlines()
    assert line.startswith("error: ") and "caf" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "status", "said"),
    [
        ({"JAX_ENABLE_X64": "1"}, 2, "error: JAX_ENABLE_X64 is set"),
        ({"JAX_PLATFORMS": "nonsense"}, 2, "error: jax has no devices to compute on, with JAX_PLATFORMS='nonsense'"),
        ({"JAX_PLATFORMS": "cuda"}, 2, "error: jax has no devices to compute on, with JAX_PLATFORMS='cuda'"),
        ({"JAX_NUM_CPU_DEVICES": "0"}, 2, "error: jax has no devices to compute on"),
        ({"XLA_FLAGS": "--nonsense"}, 1, "Unknown flag in XLA_FLAGS: --nonsense"),  # XLA ends the process itself
        ({"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}, 0, ""),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, 0, ""),
        ({"JAX_NUM_CPU_DEVICES": "2"}, 0, ""),
    ],
)
def test_training_in_an_odd_environment(tmp_path, variables, status, said):
    """The whole smoke run, with its table at the end."""
    if variables.get("JAX_PLATFORMS") == "cuda" and importable("gpu"):
        pytest.skip("a machine of another kind")
    command = [sys.executable, "-m", "colar_jax.train", "--config=configs/arithmetic.py:smoke"]
    command += [f"--config.workdir={tmp_path}", "--config.run=cot,colar", "--config.title=café ±"]
    environment = {name: value for name, value in os.environ.items() if name not in ("LANG", "LC_CTYPE")} | variables
    ended = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, timeout=600)
    errors = ended.stderr.decode()
    assert ended.returncode == status and said in errors and "Traceback" not in errors, errors
    if status == 0:
        assert "±" in ended.stdout.decode() and "café" in (tmp_path / "report.md").read_text(encoding="utf-8")


def importable(platform: str) -> bool:
    return any(device.platform == platform for device in jax.devices())


def test_a_stray_surrogate_in_a_config_file(run, tmp_path):
    text = CONFIG_FILE.replace('argument or "whole"', r'"\ud800"')
    (tmp_path / "wrong.py").write_text(text, encoding="utf-8")
    ran = run("--config=wrong.py")
    assert (ran.status, ran.errors) == (
        2,
        ["error: config.title='\\ud800' is no valid text: it has half of a character in it"],
    )
