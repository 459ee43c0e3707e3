"""Where a program's time goes: the operations of a profiler's trace, by the time that they take."""

import collections
import tempfile
from collections.abc import Callable
from pathlib import Path

AROUND = "ThunkExecutor"  # of a CPU's operations, all together


def profiled(run: Callable[[], object], count: int = 12) -> list[dict]:
    """Traces one call; its operations that take most time, in seconds and as a share of all."""
    return top_operations(traced(run), count)


def traced(run: Callable[[], object]):
    """A profiler's trace of one call, as `jax.profiler.ProfileData`.

    XLA turns command buffers off while it traces, so kernels are seen one by one; loops that are captured whole are not
    seen inside.
    """
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        (trace,) = Path(folder).rglob("*.xplane.pb")
        return jax.profiler.ProfileData.from_file(str(trace))


def top_operations(trace, count: int) -> list[dict]:
    """Those that take most time."""
    seconds, times = operations(trace)
    total = sum(seconds.values())
    return [
        {"operation": name, "seconds": taken, "share": taken / total, "times": times[name]}
        for name, taken in seconds.most_common(count)
    ]


def operations(trace) -> tuple[collections.Counter, collections.Counter]:
    """Seconds and number of times of each, by name: of the device's streams, or (a CPU) of XLA's own threads."""
    seconds, times = collections.Counter(), collections.Counter()
    for line in _device_lines(trace) or _xla_threads(trace):
        for event in line.events:
            if event.name.startswith(AROUND):
                continue
            seconds[event.name] += event.duration_ns / 1e9
            times[event.name] += 1
    return seconds, times


def _device_lines(trace) -> list:
    """A GPU's streams; the profiler's derived lines say the same once more."""
    planes = [plane for plane in trace.planes if plane.name.startswith("/device:")]
    return [line for plane in planes for line in plane.lines if line.name.startswith("Stream")]


def _xla_threads(trace) -> list:
    planes = [plane for plane in trace.planes if plane.name.startswith("/host:CPU")]
    return [line for plane in planes for line in plane.lines if "XLA" in line.name]
