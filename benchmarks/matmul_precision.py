"""What `stages.<stage>.matmul_precision=bfloat16` makes of a training step on a CPU: products, and the step as a whole.

    python benchmarks/matmul_precision.py                                   # SmolLM2-135M's shape; 2 minutes
    python benchmarks/matmul_precision.py --preset=nano --rounds=20

Random weights, CoLaR on problems of GSM8K's lengths in four rows of 256 positions; both precisions in turn, in one
process, medians. A CPU without matrix units for bfloat16 (AMX: `grep amx_bf16 /proc/cpuinfo`) gains nothing.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import jax
import jax_side
from speed import SPEEDS, gsm8k_lengths, problems_of

from colar_jax.model.linear import project
from colar_jax.model.presets import PRESETS

ROWS, ROW_POSITIONS = 4, 256
PRECISIONS = ("default", "bfloat16")


def in_turn(runs: dict[str, Callable], rounds: int) -> dict[str, float]:
    """The median seconds of each, one after the other in every round."""
    seconds = {name: [] for name in runs}
    for run in runs.values():  # compiled, and once more: the first update of a warm-up is no other
        run()
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def products_of(in_size: int, out_size: int, part: str) -> dict[str, Callable]:
    """The forward product of a linear layer, or the two products of its backward pass, at each precision."""
    x = jax.random.normal(jax.random.key(0), (ROWS, ROW_POSITIONS, in_size))
    kernel_IO = jax.random.normal(jax.random.key(1), (in_size, out_size))
    grad = jax.random.normal(jax.random.key(2), (ROWS, ROW_POSITIONS, out_size))

    def compiled(precision: str) -> Callable:
        def forward(x, kernel_IO, grad):
            return project(x, kernel_IO)

        def backward(x, kernel_IO, grad):
            return jax.vjp(project, x, kernel_IO)[1](grad)

        with jax.default_matmul_precision(None if precision == "default" else precision):
            program = jax.jit(forward if part == "forward" else backward).lower(x, kernel_IO, grad).compile()
        return lambda: jax.block_until_ready(program(x, kernel_IO, grad))

    return {precision: compiled(precision) for precision in PRECISIONS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="smollm2-135m", choices=sorted(PRESETS))
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if os.environ.get("JAX_DEFAULT_MATMUL_PRECISION"):
        parser.error("JAX_DEFAULT_MATMUL_PRECISION is set: both sides would have that precision; unset it")
    llama = PRESETS[options.preset]

    print(f"| {options.preset}, {ROWS} x {ROW_POSITIONS} positions | default | bfloat16 | default / bfloat16 |")
    print("| --- | --- | --- | --- |")
    for in_size, out_size in (
        (llama.hidden_size, llama.intermediate_size),
        (llama.intermediate_size, llama.hidden_size),
    ):
        for part, count in {"forward": 1, "backward": 2}.items():
            taken = in_turn(products_of(in_size, out_size, part), 3 * options.rounds)
            flop = 2 * count * ROWS * ROW_POSITIONS * in_size * out_size
            rates = [f"{flop / taken[name] / 1e9:.0f} GFLOP/s" for name in PRECISIONS]
            print(row(f"{in_size} to {out_size}, {part}", rates, taken), flush=True)

    subject = jax_side.Subject(llama, latent_intermediate=llama.hidden_size)
    lengths = [of_problem for of_problem in gsm8k_lengths() if sum(of_problem) < ROW_POSITIONS - 10]
    problems = problems_of(lengths, llama.vocab_size)
    steps = {
        precision: jax_side.training(problems, SPEEDS, ROWS, ROW_POSITIONS, subject, matmul_precision=precision)
        for precision in PRECISIONS
    }
    taken = in_turn(steps, options.rounds)
    print(row("a training step", [f"{taken[name]:.3g} s" for name in PRECISIONS], taken))


def row(what: str, cells: list[str], taken: dict[str, float]) -> str:
    """A line of the table."""
    return f"| {what} | {cells[0]} | {cells[1]} | {taken['default'] / taken['bfloat16']:.2f} |"


if __name__ == "__main__":
    main()
