import contextlib
import fcntl
import json
import math
import os
import pty
import struct
import subprocess
import sys
import termios

import jax
import jax.numpy as jnp
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from colar_jax import progress as progress_module
from colar_jax.metric_writer import MetricWriter, read_metrics
from colar_jax.metrics import Metric, divide, merge
from colar_jax.progress import Progress, duration_text


def test_a_mean_is_over_examples_not_over_batches():
    small = {"loss": Metric(jnp.float32(3.0), jnp.int32(1))}
    large = {"loss": Metric(jnp.float32(3.0), jnp.int32(3))}
    assert divide(merge(small, large)) == {"loss": 1.5}  # the mean of the batches' means is 2


def test_merge_keeps_what_only_some_parts_have():
    merged = merge({"a": Metric(1.0, 1)}, {}, {"b": Metric(4.0, 2)}, {"a": Metric(2.0, 2)})
    assert merged == {"a": Metric(3.0, 3), "b": Metric(4.0, 2)}
    assert merge() == {}


def test_nothing_measured_is_left_out_and_nan_is_handed_on():
    values = divide(
        {
            "answers": Metric(jnp.float32(0.0), jnp.int32(0)),
            "loss": Metric(jnp.float32(jnp.nan), jnp.int32(2)),
            "norm": Metric(jnp.float32(jnp.inf), jnp.int32(1)),
        }
    )
    assert sorted(values) == ["loss", "norm"]
    assert math.isnan(values["loss"]) and math.isinf(values["norm"])
    assert all(type(value) is float for value in values.values())


def test_metrics_pass_through_jit_scan_and_psum():
    @jax.jit
    def total(losses_GB, mask_GB):
        def add(metrics, example):
            loss_B, mask_B = example
            return merge(metrics, {"loss": Metric((loss_B * mask_B).sum(), mask_B.sum())}), None

        zero = {"loss": Metric(jnp.float32(0), jnp.float32(0))}
        metrics, _ = jax.lax.scan(add, zero, (losses_GB, mask_GB))
        return jax.vmap(lambda _: jax.lax.psum(metrics, "devices"), axis_name="devices")(jnp.arange(2))

    losses_GB = jnp.array([[1.0, 2.0], [6.0, 99.0]])
    mask_GB = jnp.array([[1.0, 1.0], [1.0, 0.0]])
    summed = jax.tree.map(lambda x: x[0], total(losses_GB, mask_GB))
    assert float(summed["loss"].count) == 6.0  # three examples on each of two devices
    assert divide(summed) == {"loss": 3.0}


def strict_lines(folder):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (folder / "metrics.jsonl").read_text()
    assert not text or text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def tensorboard_events(folder):
    events = []
    for path in sorted((folder / "tensorboard").iterdir()):
        data, place = path.read_bytes(), 0
        while place < len(data):  # a record: length (8 bytes), its checksum (4), the event, its checksum (4)
            (length,) = struct.unpack_from("<Q", data, place)
            events.append(Event.FromString(data[place + 12 : place + 12 + length]))
            place += 16 + length
    return events


def test_writer_writes_json_lines_and_tensorboard(tmp_path):
    folder = tmp_path / "runs" / "cot"
    with MetricWriter(folder) as writer:
        writer.write(10, {"loss": jnp.float32(1.5), "accuracy": 0.25})
        assert strict_lines(folder) == [{"step": 10, "loss": 1.5, "accuracy": 0.25}]  # at once, before closing
        writer.write(20, {"loss": 1.0})
    lines = [{"step": 10, "loss": 1.5, "accuracy": 0.25}, {"step": 20, "loss": 1.0}]
    assert strict_lines(folder) == read_metrics(folder) == lines
    scalars = [(e.step, v.tag, v.simple_value) for e in tensorboard_events(folder) for v in e.summary.value]
    assert scalars == [(10, "loss", 1.5), (10, "accuracy", 0.25), (20, "loss", 1.0)]


def test_nan_and_inf_become_null_in_json(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(1, {"loss": float("nan"), "norm": float("-inf"), "rate": 0.5})
    assert strict_lines(tmp_path) == [{"step": 1, "loss": None, "norm": None, "rate": 0.5}]
    scalars = {v.tag: v.simple_value for e in tensorboard_events(tmp_path) for v in e.summary.value}
    assert math.isnan(scalars["loss"]) and scalars["norm"] == -math.inf


def test_step_is_no_metric(tmp_path):
    with MetricWriter(tmp_path) as writer, pytest.raises(ValueError, match='"step"'):
        writer.write(1, {"step": 2.0})


def write_steps(folder, steps):
    with MetricWriter(folder) as writer:
        for step in steps:
            writer.write(step, {"loss": float(step)})


def test_resume_drops_the_lines_that_will_be_written_again(tmp_path):
    write_steps(tmp_path, [2, 4, 6, 8])
    with MetricWriter(tmp_path, resume_step=4) as writer:
        writer.write(6, {"loss": 0.5})
    assert [(line["step"], line["loss"]) for line in strict_lines(tmp_path)] == [(2, 2.0), (4, 4.0), (6, 0.5)]
    starts = [e.step for e in tensorboard_events(tmp_path) if e.session_log.status == SessionLog.START]
    assert starts == [5]  # TensorBoard hides the older events from this step on
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]


# python -c FULL <folder> <bytes>: files may grow to so many, which those of TensorBoard reach first, as on a full disk.
FULL = """
import resource, signal, sys
from colar_jax.metric_writer import MetricWriter

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    with MetricWriter(sys.argv[1], resume_step=0) as writer:
        for step in range(1, 200):
            writer.write(step, {f"metric_{i}": 0.5 for i in range(20)})
except OSError as error:
    sys.exit(f"{error.strerror} at step {step}")
"""


@pytest.mark.parametrize("size", [400, 20_000])
def test_a_full_disk_is_an_error_and_no_wait_for_ever(tmp_path, size):
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), str(size)], capture_output=True, text=True, timeout=60, check=False
    )
    number = len(read_metrics(tmp_path))
    assert 0 < number < 199 and ended.stderr == f"File too large at step {number}\n"


def test_resume_at_zero_drops_everything_and_no_resume_keeps_everything(tmp_path):
    write_steps(tmp_path, [2, 4])
    write_steps(tmp_path, [6])
    assert [line["step"] for line in strict_lines(tmp_path)] == [2, 4, 6]
    MetricWriter(tmp_path, resume_step=0).close()
    assert strict_lines(tmp_path) == []


@pytest.mark.parametrize("resume_step", [None, 4, 100])
@pytest.mark.parametrize("rest", ['{"step": 6, "lo', '{"step"', '{"step": 6, "loss": 1.0', "\0\0\0"])
def test_a_half_written_last_line_is_dropped(tmp_path, rest, resume_step):
    write_steps(tmp_path, [2, 4])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(rest)
    assert [line["step"] for line in read_metrics(tmp_path)] == [2, 4]
    with MetricWriter(tmp_path, resume_step=resume_step) as writer:
        writer.write(6, {"loss": 6.0})
    assert [line["step"] for line in strict_lines(tmp_path)] == [2, 4, 6]


def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "loss": 1.0}')
    write_steps(tmp_path, [4])
    assert [line["step"] for line in strict_lines(tmp_path)] == [2, 4]


@pytest.mark.parametrize("line", ["nonsense", "", "[1]", '{"loss": 1.0}', '{"step": null}'])
def test_another_bad_line_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    text = f'{{"step": 2}}\n{line}\n{{"step": 6}}\n'
    path.write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
        MetricWriter(tmp_path, resume_step=4)
    assert path.read_text() == text


class Clock:
    """A clock that a test sets by hand."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(progress_module.time, "monotonic", lambda: self.now)


@contextlib.contextmanager
def terminal(columns):
    """Standard error as a terminal so many columns wide; calling what it gives closes it and returns what it showed."""
    screen, stderr = pty.openpty()
    fcntl.ioctl(stderr, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def shown():
        sys.stderr.close()
        text = b""
        with contextlib.suppress(OSError):  # how a closed terminal says that there is no more
            while part := os.read(screen, 4096):
                text += part
        return text.decode()

    with contextlib.redirect_stderr(os.fdopen(stderr, "w")):
        yield shown
    os.close(screen)


def test_without_a_terminal_a_log_step_is_one_line(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with Progress("stage cot", total=1000) as progress:
        clock.now += 20  # compiling
        progress.advance(1)
        clock.now += 12.5
        progress.log(200, {"loss": 1.23449, "learning_rate": 1e-4}, num_examples=1144)
        clock.now += 10
        progress.log(400, {"loss": 1.0}, num_examples=500)
        progress.log(400, {})
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.splitlines() == [
        "stage cot | step 200/1000 | loss 1.234 | learning_rate 0.0001 | 35.2 examples/s | eta 2m10s",
        "stage cot | step 400/1000 | loss 1 | 50.0 examples/s | eta 1m04s",
        "stage cot | step 400/1000 | eta 1m04s",
    ]


def test_a_resumed_run_counts_only_its_own_steps_as_pace(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    progress = Progress("evaluation", total=1000, done=900, unit="question")
    progress.log(900, {})
    clock.now += 10
    progress.log(910, {})
    assert capsys.readouterr().out.splitlines() == [
        "evaluation | question 900/1000",
        "evaluation | question 910/1000 | eta 1m30s",
    ]


def test_what_turns_out_to_be_done_already_is_not_counted_as_pace(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    progress = Progress("evaluation", total=100, unit="decode")
    clock.now += 10
    progress.log(5, {})
    progress.skip(50)
    clock.now += 10
    progress.log(60, {})
    assert capsys.readouterr().out.splitlines()[-1] == "evaluation | decode 60/100 | eta 1m20s"
    with terminal(columns=110) as shown:
        with Progress("evaluation", total=100, unit="decode") as progress:
            progress.skip(50)
            progress.log(51, {})
        assert "51/100" in shown().split("\r")[-2]


def test_on_a_terminal_a_bar_shows_the_last_values(capsys):
    with terminal(columns=110) as shown:
        with Progress("stage cot", total=1000, done=100) as progress:
            progress.advance(150)
            progress.log(250, {"loss": 1.2345}, num_examples=10)
        frames = shown().split("\r")
    assert "100/1000" in frames[1]
    assert all(text in frames[-2] for text in ("stage cot:", "250/1000", "loss 1.234", "examples/s"))
    assert capsys.readouterr().out == ""


def test_a_terminal_without_width_gets_lines(capsys):
    with terminal(columns=0) as shown:
        with Progress("stage cot", total=1000) as progress:
            progress.log(0, {"loss": 1.5})
        assert shown() == ""
    assert capsys.readouterr().out == "stage cot | step 0/1000 | loss 1.5\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (130, "2m10s"), (3599.7, "1h00m"), (3900, "1h05m"), (273600, "3d04h")],
)
def test_durations_show_their_two_largest_units(seconds, text):
    assert duration_text(seconds) == text
