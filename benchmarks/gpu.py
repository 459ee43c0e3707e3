"""Everything that a GPU is to tell about this project, in one go: training, rollouts, attention, compile times.

    python benchmarks/gpu.py --out gpu_results               # a model of the Llama-3.2-1B shape, under 10 minutes
    python benchmarks/gpu.py --sections rollouts,attention   # some of it; --skip leaves some out
    python benchmarks/gpu.py --resume                        # what the folder does not have yet, or what failed
    JAX_PLATFORMS=cpu python benchmarks/gpu.py --size tiny   # to try the script: its numbers mean nothing

Weights are random and made on the device, nothing is downloaded. Computation is in bfloat16. Every part is a process of
its own: one that fails is reported with its error, and the others go on. `gpu.json` and `gpu.md` are written after each
part. PyTorch is the opponent where it is installed with CUDA; without it our side alone is measured, and the page says
so (pip install torch==2.13.0). A part that needs too much memory is tried with half the work at a time.

Sections in this order, with the seconds that each may take; what matters most comes first in each, and what finds no
time is left out, and measured by --resume. On an H100 we expect that most fits, which is reckoned and not measured: no
GPU was at hand when this was written. The whole run ends at --budget, whatever is still to do.

    train_full      130   CoLaR's step on packed rows, all weights trained: ours; PyTorch compiled, with flash
                          attention on padded rows; ours with unrolled layers; PyTorch eager, as published
    rollouts         85   64 questions x 8 rollouts x (64 latents + 16 tokens), nothing ends early; against the
                          published loop in transformers, and the time that reading weights and cache takes; and
                          8 questions x 8, which reading alone bounds
    attention        25   cuDNN's flash attention in packed rows against the reference, forward and gradients
    rl_iteration     70   16 questions x 8 rollouts, judged, four updates
    train_lora       75   as train_full, adapters of rank 128 on a frozen bfloat16 base
    thoughts         80   a step of Coconut and of CODI, 6 latents
    command_buffers  75   the rollouts again under XLA's flags for CUDA graphs, one effect a line
    compile          45   what compiling takes from a persistent cache, beside what it took without
"""

import argparse
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from first_card import first_card
from gpu_part import PARTS, PROFILE, RESULT
from gpu_report import markdown
from gpu_sizes import SIZES

HERE = Path(__file__).parent
SECONDS = {
    "train_full": 130, "rollouts": 85, "attention": 25, "rl_iteration": 70,
    "train_lora": 75, "thoughts": 80, "command_buffers": 75, "compile": 45,
}  # fmt: skip
# XLA's flags, and which rollouts. Loops with a data-dependent end can be captured whole (WHILE); unrolled, only those
# of a known number of rounds: openxla/xla 30695, 32719, 34734.
FLAGS = {
    "as they are": ("", "rollouts.ours"),
    "loops captured whole": ("--xla_gpu_enable_command_buffer=+WHILE", "rollouts.ours"),
    "no command buffers": ("--xla_gpu_enable_command_buffer=", "rollouts.ours"),
    "short runs captured too": ("--xla_gpu_graph_min_graph_size=1", "rollouts.ours"),
    "no Triton products": ("--xla_gpu_enable_triton_gemm=false", "rollouts.ours"),
    "counted loops": ("", "rollouts.counted"),
    "counted loops, captured": ("--xla_gpu_enable_command_buffer=+WHILE", "rollouts.counted"),
    "counted loops, captured and unrolled": (
        "--xla_gpu_enable_command_buffer=+WHILE --xla_gpu_command_buffer_unroll_loops=true",
        "rollouts.counted",
    ),
}
PROGRAMS = (
    "rollouts.ours", "train_full.ours", "train_lora.ours", "rl_iteration.ours",
    "thoughts.coconut_ours", "thoughts.codi_ours",
)  # fmt: skip
FEWEST_SECONDS = 5  # with less left nothing is begun
DEVICE_SECONDS = 120  # for JAX to begin, and to say what it runs on


class Runner:
    """Starts parts one after the other and keeps what they found."""

    def __init__(self, given: argparse.Namespace, cache: str):
        self.given, self.deadline = given, time.monotonic() + given.budget
        self.cache, self.cached = cache, set()
        self.file = given.out / "gpu.json"
        self.results = json.loads(self.file.read_text()) if given.resume and self.file.exists() else {"sections": {}}
        self.refuse_another("size", given.size)
        self.results |= {
            "command": " ".join(["python", "benchmarks/gpu.py", *sys.argv[1:]]),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
            "size": given.size,
            "python": platform.python_version(),
        }

    @property
    def left(self) -> float:
        """Seconds of the whole run."""
        return self.deadline - time.monotonic()

    def refuse_another(self, name: str, value: str) -> None:
        """A page is of one size and one card: what the folder has of another is not gone on with."""
        if (before := self.results.get(name, value)) != value:
            raise SystemExit(f"{self.file} is of {name} {before}, not {value}: name another folder with --out")

    def section(self, name: str) -> None:
        """All parts of a section, in its own time."""
        stop = time.monotonic() + min(SECONDS[name] * self.given.patience, self.left)
        if name == "command_buffers":
            for label, (flags, part) in list(FLAGS.items())[:: SIZES[self.given.size].every]:
                self.note(name, label, lambda part=part, flags=flags: self.under(flags, part, stop))
            return
        if name == "compile":
            for part in PROGRAMS[:: SIZES[self.given.size].every]:
                self.note(name, part, lambda part=part: self.compile_times(part, stop))
            return
        for part in ("attention.ours",) if name == "attention" else [p for p in PARTS if p.startswith(f"{name}.")]:
            label = part.partition(".")[2]
            if label != "counted":  # of command_buffers
                self.note(name, label, lambda part=part: self.start(part, stop, trace=self.given.profile != "none"))

    def note(self, section: str, label: str, measure) -> None:
        """Measures, unless that is done, and writes both files."""
        of_section = self.results["sections"].setdefault(section, {})
        done = of_section.get(label)
        if done is not None and not done.keys() & {"error", "left_out"}:
            return
        begin = time.monotonic()
        of_section[label] = measure() | {"took": round(time.monotonic() - begin, 1)}
        found = of_section[label]
        said = found.get("error") or found.get("left_out") or "done"
        print(f"{section}, {label}: {said.splitlines()[-1]} ({found['took']} s)", flush=True)
        self.write()

    def write(self) -> None:
        """What is known so far."""
        unfinished = self.file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self.results, indent=1))
        os.replace(unfinished, self.file)
        try:
            page = markdown(self.results, profiles=self.given.profile)
        except Exception:  # the measurements go on, and gpu.json has them
            page = f"gpu.json has the results, but no page could be made of them:\n\n{traceback.format_exc()}"
        (self.given.out / "gpu.md").write_text(page)

    def under(self, flags: str, part: str, stop: float) -> dict:
        """Rollouts under these flags; without any, as they were measured before."""
        known = self.results["sections"].get("rollouts", {}).get(part.partition(".")[2], {})
        if not flags and "seconds" in known:
            return {key: value for key, value in known.items() if key != "profile"}
        return self.start(part, stop, flags=flags)

    def compile_times(self, part: str, stop: float) -> dict:
        """Of a program without the cache, which an earlier section may have seen, and from it."""
        section, _, label = part.partition(".")
        cold = self.results["sections"].get(section, {}).get(label, {})
        if part not in self.cached:
            cold = self.start(part, stop, brief=True)
        warm = self.start(part, stop, brief=True) if "compile_seconds" in cold else cold
        if "compile_seconds" not in warm:
            return {key: warm[key] for key in ("error", "left_out") if key in warm}
        return {"cold": cold["compile_seconds"], "warm": warm["compile_seconds"]}

    def start(self, part: str, stop: float, *, flags: str = "", brief: bool = False, trace: bool = False) -> dict:
        """One process, until it ends or its time does."""
        limit = min(stop - time.monotonic(), self.left)
        if limit < FEWEST_SECONDS:
            return {"left_out": "no time was left"}
        command = [sys.executable, HERE / "gpu_part.py", part, "--size", self.given.size]
        command += ["--device", self.results.get("device", {}).get("platform", "gpu")]
        command += [option for option, is_on in (("--brief", brief), ("--trace", trace)) if is_on]
        found = ended(command, self.environment(flags), limit)
        if "compile_seconds" in found and not flags:
            self.cached.add(part)
        return found

    def environment(self, flags: str) -> dict[str, str]:
        """One card, nearly all of its memory, and a cache of compiled programs that begins empty."""
        own = {
            "JAX_COMPILATION_CACHE_DIR": self.cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(),
        }
        return {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"} | os.environ | own | first_card()


def ended(command: list, environment: dict[str, str], limit: float) -> dict:
    """What a process found; where it failed, or had to be stopped, why."""
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    process = subprocess.Popen([str(word) for word in command], env=environment, **pipes)
    error = ""
    try:
        printed, complaints = process.communicate(timeout=limit)
        if process.returncode:
            error = why(complaints, process.returncode)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # and what it started, such as a compiler
        printed, complaints = process.communicate()
        error = f"stopped after {limit:.0f} s"
    found: dict = {}
    for line in printed.splitlines():
        if line.startswith(RESULT):
            found |= json.loads(line.removeprefix(RESULT))
        elif line.startswith(PROFILE):
            found["profile"] = json.loads(line.removeprefix(PROFILE))
    if error:  # a result that was there before is good: what failed is the trace
        found["trace_error" if found else "error"] = error
    return found or {"error": "it said nothing"}


def why(complaints: str, code: int) -> str:
    """The end of what a process said before it failed."""
    lines = [line for line in complaints.splitlines() if line.strip()]
    unknown = [line for line in lines if "Unknown flag" in line]
    if unknown:
        return f"this XLA does not know the flag: {unknown[0][-200:]}"
    ended_by = f"signal {-code}" if code < 0 else f"status {code}"
    return "\n".join([*(line[:300] for line in lines[-6:]), f"(ended with {ended_by})"][-7:])


def chosen(given: argparse.Namespace, parser: argparse.ArgumentParser) -> list[str]:
    """The sections to run."""
    named = {option: [name for name in getattr(given, option).split(",") if name] for option in ("sections", "skip")}
    for name in (*named["sections"], *named["skip"]):
        if name not in SECONDS:
            parser.error(f"{name!r} is no section: {', '.join(SECONDS)}")
    return [name for name in SECONDS if name in (named["sections"] or SECONDS) and name not in named["skip"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_results"), help="folder for gpu.json and gpu.md")
    parser.add_argument("--size", choices=tuple(SIZES), default="1b")
    parser.add_argument("--sections", default="", help="only these, with commas")
    parser.add_argument("--skip", default="", help="all but these")
    parser.add_argument("--budget", type=float, default=590, help="seconds of the whole run")
    parser.add_argument("--patience", type=float, default=1.0, help="multiplies the sections' seconds")
    parser.add_argument("--profile", choices=("missed", "all", "none"), default="missed", help="which traces are shown")
    parser.add_argument("--resume", action="store_true", help="measure only what the folder does not have yet")
    given = parser.parse_args()
    sections = chosen(given, parser)
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as cache:
        runner = Runner(given, cache)
        device = runner.start("device", time.monotonic() + DEVICE_SECONDS)
        if "kind" not in device:
            raise SystemExit(f"no device: {device['error']}")
        runner.refuse_another("card", device["kind"])
        runner.results |= {"device": device, "card": device["kind"]}
        if device["platform"] != "gpu" and given.size != "tiny":
            raise SystemExit(f"the device is a {device['platform']}, and --size {given.size} is for a GPU: --size tiny")
        for name in sections:
            runner.section(name)
        runner.write()
    print((given.out / "gpu.md").read_text())


if __name__ == "__main__":
    main()
