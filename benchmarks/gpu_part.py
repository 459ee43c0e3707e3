"""One part of `gpu.py`, in a process of its own: prints a line of JSON for what it found.

python benchmarks/gpu_part.py rollouts.ours --size tiny --device cpu [--brief] [--trace]
"""

import argparse
import gc
import importlib.util
import json
import statistics
import time
from collections.abc import Callable

import speed
from gpu_sizes import SIZES, Size

RESULT, PROFILE = "RESULT ", "PROFILE "
MEMORY_TRIES = 3  # the whole, half and a fourth
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory")
MOST_CALLS = 20

# By section and name: (module, function, options).
PARTS: dict[str, tuple[str, str, dict]] = {
    "train_full.ours": ("gpu_ours", "training", {}),
    "train_full.torch_compiled": ("gpu_theirs", "training", {}),
    "train_full.ours_unrolled": ("gpu_ours", "training", {"scan": False}),
    "train_full.torch_eager": ("gpu_theirs", "training", {"compiled": False}),
    "train_lora.ours": ("gpu_ours", "training", {"lora": True}),
    "train_lora.torch_compiled": ("gpu_theirs", "training", {"lora": True}),
    "train_lora.torch_eager": ("gpu_theirs", "training", {"lora": True, "compiled": False}),
    "rollouts.ours": ("gpu_ours", "rollouts", {}),
    "rollouts.transformers": ("gpu_theirs", "rollouts", {}),
    "rollouts.ours_few": ("gpu_ours", "rollouts", {"share": 8}),
    "rl_iteration.ours": ("gpu_ours", "rl_iteration", {}),
    "rl_iteration.torch_eager": ("gpu_theirs", "rl_iteration", {}),
    "thoughts.coconut_ours": ("gpu_ours", "thoughts", {"method": "coconut"}),
    "thoughts.codi_ours": ("gpu_ours", "thoughts", {"method": "codi"}),
    "thoughts.coconut_torch": ("gpu_theirs", "thoughts", {"method": "coconut"}),
    "thoughts.codi_torch": ("gpu_theirs", "thoughts", {"method": "codi"}),
    "rollouts.counted": ("gpu_ours", "rollouts", {"counted": True}),
}


def work(name: str, size: Size, device: str, *, brief: bool, trace: bool) -> None:
    """Runs the part and prints what it found."""
    if name == "device":
        import device_probe

        return tell(device_probe.probe(size.matrix_size, size.copy_bytes))
    if name == "attention.ours":
        import gpu_ours

        return tell(gpu_ours.attention(size))
    module, function, options = PARTS[name]
    is_ours = module == "gpu_ours"
    if not is_ours and (reason := why_no_torch(device)):
        return tell({"left_out": reason})
    make = getattr(__import__(module), function)
    options = options if is_ours else options | {"device": device}
    run, result = fitting(lambda size: make(size, **options), size, "jax" if is_ours else "torch", device, brief)
    tell(result)
    if trace and is_ours:
        import profile_summary

        print(PROFILE + json.dumps(profile_summary.profiled(run)), flush=True)
    return None


def tell(result: dict) -> None:
    """On standard output, for `gpu.py`."""
    print(RESULT + json.dumps(result), flush=True)


def why_no_torch(device: str) -> str:
    """Why PyTorch cannot be measured here; empty where it can."""
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed"
    import torch

    return "" if device == "cpu" or torch.cuda.is_available() else f"PyTorch {torch.__version__} has no CUDA here"


def fitting(make: Callable, size: Size, side: str, device: str, brief: bool):
    """A run and its measurement; with half the work at a time, and a fourth, where memory does not do."""
    for halvings in range(MEMORY_TRIES):
        try:
            run = make(size)
            return run, measured(run, size, side, device, brief) | {"halvings": halvings}
        except Exception as error:
            if halvings == MEMORY_TRIES - 1 or not any(sign in str(error) for sign in OUT_OF_MEMORY):
                raise
            print(f"too little memory, half of it at a time: {str(error)[:200]}", flush=True)
        run = None
        gc.collect()
        size = size.halved()
    raise AssertionError


def measured(run: Callable[[], int], size: Size, side: str, device: str, brief: bool) -> dict:
    """Of calls after the first two: the median of their seconds.

    What the first took longer is compiling, and what was compiled before it.
    """
    first, taken = timed(run, side, device)[0], []
    if not brief:
        timed(run, side, device)  # one call leaves allocators and command buffers cold
    while not taken or (not brief and sum(taken) < size.seconds and len(taken) < MOST_CALLS):
        seconds, examples = timed(run, side, device)
        taken.append(seconds)
    seconds = statistics.median(taken)
    return {
        "seconds": seconds,
        "fastest": min(taken),
        "slowest": max(taken),
        "calls": len(taken),
        "examples": examples,
        "examples_per_second": examples / seconds,
        "compile_seconds": max(first - seconds, 0.0) + getattr(run, "compile_seconds", 0.0),
        "peak_gib": speed.peak_gib(side, device),
        "work": getattr(run, "work", {}),
        "facts": {name: float(value) for name, value in getattr(run, "facts", {}).items()},
    }


def timed(run: Callable[[], int], side: str, device: str) -> tuple[float, int]:
    """Seconds of a call, all of its work done, and its examples."""
    begin = time.perf_counter()
    examples = run()
    speed.settle(side, device)
    return time.perf_counter() - begin, examples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=("device", "attention.ours", *PARTS))
    parser.add_argument("--size", choices=tuple(SIZES), default="1b")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="gpu")
    parser.add_argument("--brief", action="store_true", help="one timed call: for what compiling takes")
    parser.add_argument("--trace", action="store_true", help="and where the time goes")
    given = parser.parse_args()
    work(given.name, SIZES[given.size], given.device, brief=given.brief, trace=given.trace)


if __name__ == "__main__":
    main()
