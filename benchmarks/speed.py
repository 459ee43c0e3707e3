"""How fast we are beside plain PyTorch + transformers (eager), on the same cores or the same GPU, in turns.

    pip install torch==2.13.0                                   # the opponent; no dependency of the package
    python benchmarks/speed.py [--rounds 7] [--tasks sft_ragged,sft_fixed,generation,rl_rollout,rl_iteration]
    python benchmarks/speed.py --tasks coconut,codi,coconut_scan,coconut_scan_remat
    python benchmarks/speed.py --cores 2                        # on two of this machine's cores
    python benchmarks/speed.py --device gpu                     # both sides on one CUDA card

Both sides run the same model sizes in float32: hidden 384, 6 layers, 6 heads, MLP 1024, vocabulary 4096, tied head. The
opponent (`torch_side.py`) pads and loops as the published code does. Each side of a task is a process of its own, held
to the same cores: all that there are, or `--cores` of them. PyTorch has a thread for each. The two take turns, so that
a change of the machine's mood hits both; the ratio is of the medians. Peak memory is the process's own. On a GPU it is
what was allocated on the device at most (not what the allocators keep; ours includes what XLA tries its kernels with),
no matrix product is rounded to TF32 on either side, and a round repeats its work for at least a second. On a CPU our
programs keep the memory that they free (`colar_jax/freed_memory.py`), and so does our side here; `--keeps` says which
sides do: ours, both or none.

    sft_ragged   CoLaR training on the length mix of GSM8K (512 problems, Llama-3 tokens), speeds 1 to 5 drawn: for the
                 opponent one for each batch of 32, for us one for each example
    sft_fixed    batch 16, question 64 / steps 32 / answer 8 tokens, speed 2: nothing to pad, nothing to pack
    generation   64 different questions x 64 latents + 16 answer tokens, sampled; nothing ends early
    rl_rollout   8 questions x 8 generations x 64 latents + 16 answer tokens
    rl_iteration the same, judged, and gone through once in minibatches of 8 rollouts (GRPO)
    coconut      a training step of Coconut's last stage, 6 latents, on the length mix of GSM8K; the opponent loops over
                 a DynamicCache. coconut_scan, coconut_remat and coconut_scan_remat: ours with scanned layers and with
                 model.remat="full", for their memory
    codi         the same of CODI, teacher included; codi_scan and so on likewise
"""

import argparse
import functools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import cores
import peak_memory
from first_card import first_card
from given_lists import known_names

from colar_jax.freed_memory import keep_freed_memory

HERE = Path(__file__).parent
VOCAB, FIRST_ID = 4096, 3
LATENT_INTERMEDIATE = 384
SPEEDS = (1, 2, 3, 4, 5)
RAGGED_BATCH = 32
QUESTIONS, GENERATIONS, MINIBATCH = 8, 8, 8  # of reinforcement learning
THOUGHTFUL = ("coconut", "codi")  # methods that think in training
TASKS = ("sft_ragged", "sft_fixed", "generation", "rl_rollout", "rl_iteration")
KNOWN_TASKS = (*TASKS, *(name + way for name in THOUGHTFUL for way in ("", "_scan", "_remat", "_scan_remat")))
ROUND_SECONDS = {"cpu": 0.0, "gpu": 1.0}  # at least: a GPU is done with some tasks in milliseconds
# Of the workers. Two processes share the card, so none may take all of its memory. PyTorch's float32 products are exact
# by default, those of JAX are not on a GPU.
ENVIRONMENT = {
    "cpu": {"JAX_PLATFORMS": "cpu"},
    "gpu": {
        "JAX_PLATFORMS": "cuda,cpu",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    },
}


def problems_of(
    lengths: list[tuple[int, int, int]], vocab: int = VOCAB
) -> list[tuple[list[int], list[int], list[int]]]:
    """Random ids in problems of these lengths (question, steps, answer with its end token)."""
    rng = random.Random(0)

    def ids(count: int) -> list[int]:
        return [rng.randrange(FIRST_ID, vocab) for _ in range(count)]

    return [(ids(question), ids(steps), [*ids(answer - 1), 1]) for question, steps, answer in lengths]


def gsm8k_lengths() -> list[tuple[int, int, int]]:
    """Lengths of 512 problems of the GSM8K training set (equations only) under the Llama-3 tokenizer."""
    return [tuple(lengths) for lengths in json.loads((HERE / "gsm8k_lengths.json").read_text())]


def fixed_lengths(count: int) -> list[tuple[int, int, int]]:
    """Problems of one length."""
    return [(64, 32, 8)] * count


def torch_task(name: str, device: str):
    """The opponent's function for a task: it does one round's work and returns how many examples that was."""
    import torch
    import torch_side

    torch.set_num_threads(len(cores.usable()))
    torch.manual_seed(0)
    # Not torch.set_default_device: it slows every call of torch, and the opponent is bound by those on a GPU.
    modules = torch_side.build_model(latent_intermediate=LATENT_INTERMEDIATE)
    model, policy = (module.to("cuda" if device == "gpu" else "cpu") for module in modules)
    if name == "generation":
        generator = torch_side.LatentGenerator(model, policy, fixed_work=True)
        prompts = [question for question, _, _ in problems_of(gsm8k_lengths())[:64]]
        return lambda: len(generator(prompts).answer_ids)
    if name.startswith("rl_"):
        import torch_rl

        grpo = torch_rl.GrpoIteration(model, policy, GENERATIONS, MINIBATCH)
        questions = [question for question, _, _ in problems_of(gsm8k_lengths())[:QUESTIONS]]
        return (lambda: len(grpo.rollout(questions)[0])) if name == "rl_rollout" else (lambda: grpo(questions))
    if name.startswith(THOUGHTFUL):
        return torch_thoughts_task(model, name)
    step = torch_side.SftStep(model, policy)
    rng = random.Random(1)
    if name == "sft_fixed":
        problems = [torch_side.Problem(*problem) for problem in problems_of(fixed_lengths(16))]
        return lambda: (step(problems, 2), len(problems))[1]
    problems = [torch_side.Problem(*problem) for problem in problems_of(gsm8k_lengths())]

    def ragged() -> int:
        for speed in rng.sample(SPEEDS, len(SPEEDS)):  # a round has every speed once
            step(rng.sample(problems, RAGGED_BATCH), speed)
        return RAGGED_BATCH * len(SPEEDS)

    return ragged


def torch_thoughts_task(model, name: str):
    """A training step of a method that thinks in training."""
    import torch_side
    import torch_thoughts

    step, rng = torch_thoughts.ThoughtStep(model, codi=name.startswith("codi")), random.Random(1)
    problems = [torch_side.Problem(*problem) for problem in problems_of(gsm8k_lengths())]
    return lambda: (step(rng.sample(problems, RAGGED_BATCH)), RAGGED_BATCH)[1]


def jax_task(name: str):
    """Our function for a task; it waits for its own results."""
    import jax_side

    if name.startswith(THOUGHTFUL):
        import jax_thoughts

        method, *ways = name.split("_")
        options = {"remat": "full" if "remat" in ways else "none", "scan": "scan" in ways}
        return jax_thoughts.training(method, problems_of(gsm8k_lengths()), 8, 448, **options)

    if name == "generation":
        prompts = [question for question, _, _ in problems_of(gsm8k_lengths())[:64]]
        return jax_side.generation(prompts, 64, 16)
    if name.startswith("rl_"):
        import jax_rl

        questions = [question for question, _, _ in problems_of(gsm8k_lengths())[:QUESTIONS]]
        tasks = jax_rl.reinforcement(questions, GENERATIONS, MINIBATCH)
        return dict(zip(("rl_rollout", "rl_iteration"), tasks, strict=True))[name]
    if name == "sft_fixed":
        positions = 64 + 1 + 16 + 8
        return jax_side.training(problems_of(fixed_lengths(64)), (2,), 16, positions)
    step = jax_side.training(problems_of(gsm8k_lengths()), SPEEDS, 10, 320)
    return lambda: sum(step() for _ in range(len(SPEEDS)))


def settle(side: str, device: str) -> None:
    """Waits for what the opponent has asked of a GPU."""
    if (side, device) == ("torch", "gpu"):
        import torch

        torch.cuda.synchronize()


def peak_gib(side: str, device: str) -> float:
    """The most memory this process has had: resident, or allocated on the GPU."""
    if device == "cpu":
        return peak_memory.peak_bytes() / 2**30
    if side == "torch":
        import torch

        return torch.cuda.max_memory_allocated() / 2**30
    import jax

    return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 2**30


def one_round(run, side: str, device: str) -> float:
    """Examples a second."""
    examples, seconds, start = 0, 0.0, time.perf_counter()
    while not examples or seconds < ROUND_SECONDS[device]:
        examples += run()
        settle(side, device)
        seconds = time.perf_counter() - start
    return examples / seconds


def is_kept(side: str, keeps: str) -> bool:
    """Whether a side keeps the memory that it frees."""
    return keeps in ("both", {"jax": "ours"}.get(side))


def work(side: str, task: str, device: str, keeps: str) -> None:
    """A worker process: one warm-up, then a round of work for each line read."""
    if device == "cpu" and is_kept(side, keeps):
        keep_freed_memory()
    run = torch_task(task, device) if side == "torch" else jax_task(task)
    run()
    if device == "gpu":  # one call leaves PyTorch's allocator and XLA's graphs cold
        one_round(run, side, device)
    print("ready", flush=True)
    for _ in sys.stdin:
        rate, peak = one_round(run, side, device), peak_gib(side, device)
        facts = getattr(run, "facts", {})
        print(json.dumps({"examples_per_second": rate, "peak_gib": peak, "facts": facts}), flush=True)


def compare(task: str, rounds: int, device: str, keeps: str) -> dict[str, list[dict]]:
    """Both sides' measurements, taken in turns."""
    command = [sys.executable, __file__, "--device", device, "--keeps", keeps, "--task", task, "--side"]
    environment = {**os.environ, **ENVIRONMENT[device], **first_card()}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = {}
    for side in ("torch", "jax"):
        # Where nothing is kept malloc is told its default, and with that `import colar_jax` leaves it alone.
        of_malloc = {} if is_kept(side, keeps) else {"MALLOC_ARENA_TEST": "8"}
        workers[side] = subprocess.Popen([*command, side], env=environment | of_malloc, **pipes)
        while workers[side].stdout.readline().strip() != "ready":
            if workers[side].poll() is not None:
                raise SystemExit(f"the {side} side of {task} failed")
    measured: dict[str, list[dict]] = {side: [] for side in workers}
    for _ in range(rounds):
        for side, worker in workers.items():
            worker.stdin.write("go\n")
            worker.stdin.flush()
            measured[side].append(json.loads(worker.stdout.readline()))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    tasks = functools.partial(known_names, known=KNOWN_TASKS)
    parser.add_argument("--tasks", type=tasks, default=",".join(TASKS))
    parser.add_argument("--device", choices=tuple(ENVIRONMENT), default="cpu")
    parser.add_argument("--keeps", choices=("ours", "both", "none"), default="ours")
    parser.add_argument("--cores", type=int, default=0, help="that each side computes on; 0: all that there are")
    parser.add_argument("--side", choices=("torch", "jax"), help=argparse.SUPPRESS)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        work(options.side, options.task, options.device, options.keeps)
        return
    try:
        count = cores.hold_to(options.cores)  # both sides: they are started from here
    except ValueError as error:
        parser.error(f"--cores: {error}")
    print(f"{options.device}; each side on the same {count} cores, PyTorch with {count} threads\n")
    peaks = "peak GiB" if options.device == "cpu" else "peak device GiB"
    print(f"| task | PyTorch examples/s | colar_jax examples/s | ratio | (min, max) | {peaks} PyTorch / colar_jax |")
    print("| --- | --- | --- | --- | --- | --- |")
    for task in options.tasks:
        measured = compare(task, options.rounds, options.device, options.keeps)
        rate = {side: [m["examples_per_second"] for m in values] for side, values in measured.items()}
        peak = {side: max(m["peak_gib"] for m in values) for side, values in measured.items()}
        medians = {side: statistics.median(values) for side, values in rate.items()}
        ratios = [ours / theirs for ours, theirs in zip(rate["jax"], rate["torch"], strict=True)]
        print(
            f"| {task} | {medians['torch']:.2f} | {medians['jax']:.2f} | {medians['jax'] / medians['torch']:.2f} | "
            f"({min(ratios):.2f}, {max(ratios):.2f}) | {peak['torch']:.2f} / {peak['jax']:.2f} |",
            flush=True,
        )
        for fact, value in measured["jax"][-1]["facts"].items():
            print(f"    {fact}: {value:.3g}", flush=True)


if __name__ == "__main__":
    main()
