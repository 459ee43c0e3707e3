"""The table of docs/plan.md: `colar_jax.plan` for two models, with adapters and without, on five slices.

    python benchmarks/plan_table.py --data=data/gsm8k_aug --tokenizer=tokenizers/llama3 [--rollout] [--only=v5e:2x4]

Needs the `tpu` extra and no TPU. One program after the other, each in a process of its own; prints each command, and
the table at the end.
"""

import argparse
import json
import shlex
import subprocess
import sys

FULL = ("--config.model.lora.rank=0", "--config.model.base_dtype=float32")
CASES = [
    ("llama-3.2-1b", "adapters", "v5e:2x4"),
    ("llama-3.2-1b", "full", "v5e:2x4"),
    ("llama-3.2-1b", "adapters", "v5e:4x4"),
    ("llama-3.2-1b", "full", "v5e:4x4"),
    ("llama-3.2-1b", "adapters", "v6e:4x4"),
    ("llama-3.2-1b", "full", "v6e:4x4"),
    ("llama-3.1-8b", "adapters", "v5p:4x4x4"),
    ("llama-3.1-8b", "adapters", "v5e:16x16"),
]
COLUMNS = (
    "model", "training", "slice", "mesh", "GiB a chip", "fits", "TFLOP", "HBM, GB", "sent, GB", "bound", "step, ms",
    "MFU at most", "examples/s at most",
)  # fmt: skip


def command(preset: str, training: str, topology: str, arguments) -> list[str]:
    """What a user would type."""
    words = ["-m", "colar_jax.plan", "--config=configs/gsm8k_colar.py", "--stage=colar", f"--topology={topology}"]
    words += [
        "--config.model.base=",
        f"--config.model.preset={preset}",
        "--config.model.remat=full",
        "--rows_per_chip=4",
    ]
    words += [f"--config.data.train={arguments.data}", "--config.data.test=", "--examples=385620", "--rows_per_chip=4"]
    words += [f"--config.data.tokenizer={arguments.tokenizer}", *(FULL if training == "full" else ())]
    return words + ([] if arguments.rollout else ["--rollout=no"])


def row(preset: str, training: str, plan: dict) -> str:
    """A line of the table: the training step's."""
    step = plan["programs"][0]
    memory, costs, line = step["compiled"]["memory"], step["compiled"]["costs"], step["roofline"]
    mesh = ", ".join(f"{axis} {size}" for axis, size in plan["mesh"].items() if size > 1)
    cells = [
        preset,
        training,
        plan["topology"],
        mesh,
        f"{memory['total'] / 2**30:.2f} of {memory['capacity'] / 2**30:.0f}",
    ]
    if not memory["fits"] or costs is None:
        return f"| {' | '.join([*cells, 'no', *[''] * 7])} |"
    sent = sum(one["sent"] for one in costs["collectives"])
    rate = plan["schedule"]["examples_per_step"] / line["overlapped"]
    cells += [
        "yes",
        f"{costs['flops'] / 1e12:.1f}",
        f"{costs['hbm_bytes'] / 1e9:.1f}",
        f"{sent / 1e9:.2f}",
        line["bound"],
    ]
    cells += [f"{1e3 * line['overlapped']:.0f}", f"{100 * step['mfu_bound']:.0f} %", f"{rate:,.0f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Plan every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a .jsonl file or a folder with train, val and test")
    parser.add_argument("--tokenizer", required=True, help="folder of a Llama-3 tokenizer")
    parser.add_argument("--rollout", action="store_true", help="compile the decode as well")
    parser.add_argument("--only", default="", help="one slice")
    arguments = parser.parse_args()
    rows = []
    for preset, training, topology in CASES:
        if arguments.only in ("", topology):
            words = command(preset, training, topology, arguments)
            print(f"python {shlex.join(words)}", flush=True)
            done = subprocess.run([sys.executable, *words, "--json"], stdout=subprocess.PIPE, text=True, check=True)
            rows.append(row(preset, training, json.loads(done.stdout)))
    print("\n".join([f"| {' | '.join(COLUMNS)} |", "| --- " * len(COLUMNS) + "|", *rows]))


if __name__ == "__main__":
    main()
