"""The tables of docs/plan.md: `colar_jax.plan` for four models, with adapters and without, on several slices.

    python benchmarks/plan_table.py --data=data/gsm8k_aug --tokenizer=tokenizers/llama3 --qwen=tokenizers/qwen2 \
      --results=plans [--only=v5e:2x4]

Needs the `tpu` extra and no TPU. A model is its published `config.json`, written to `--results`: its embedding may have
more rows than its tokenizer has tokens (Qwen3: 151,936 and 151,665), and what divides them is split. One plan after the
other, each in a process of its own; prints each command, and the tables of training steps and of rollouts at the end.
What `--results` has already is not compiled again.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

from colar_jax.model.presets import PRESETS
from colar_jax.weights import hf_config

FULL = ("--config.model.lora.rank=0", "--config.model.base_dtype=float32")
CASES = [
    ("llama-3.2-1b", "adapters", "v5e:2x4"),
    ("llama-3.2-1b", "full", "v5e:2x4"),
    ("llama-3.2-1b", "full", "v5e:2x4", "mesh=fsdp=8"),
    ("llama-3.2-1b", "adapters", "v5e:4x4"),
    ("llama-3.2-1b", "full", "v5e:4x4"),
    ("llama-3.2-1b", "adapters", "v6e:4x4"),
    ("llama-3.2-1b", "full", "v6e:4x4"),
    ("qwen3-4b", "adapters", "v5e:4x4", "decode_mesh=tensor=8"),
    ("llama-3.1-8b", "adapters", "v5p:4x4x4"),
    ("llama-3.1-8b", "adapters", "v5e:16x16", "decode_mesh=tensor=8"),
    ("qwen3-8b", "adapters", "v5e:16x16", "decode_mesh=tensor=8"),
]
# A preset, what is trained, a slice, and a setting of `parallel` where the mesh is not `auto`.
Case = tuple[str, ...]
COLUMNS = (
    "model", "training", "slice", "mesh", "GiB a chip", "fits", "TFLOP", "HBM, GB", "sent, GB", "bound", "step, ms",
    "MFU at most", "examples/s at most",
)  # fmt: skip
ROLLOUT_COLUMNS = (
    "model", "training", "slice", "mesh", "questions a chip", "GiB a chip", "fits", "TFLOP", "HBM, GB", "sent, GB",
    "bound", "ms", "questions/s at most",
)  # fmt: skip


def shape_of(preset: str, arguments) -> Path:
    """The folder with a published model's `config.json`."""
    folder = Path(arguments.results, preset)
    folder.mkdir(parents=True, exist_ok=True)
    hf_config.write(hf_config.to_hf(PRESETS[preset]), folder)
    return folder


def command(case: Case, arguments) -> list[str]:
    """What a user would type."""
    preset, training, topology, *parallel = case
    return [
        *("-m", "colar_jax.plan", "--config=configs/gsm8k_colar.py", "--stage=colar", f"--topology={topology}"),
        *(f"--config.model.base={shape_of(preset, arguments)}", "--config.model.remat=full", "--rows_per_chip=4"),
        *(f"--config.data.train={arguments.data}", "--config.data.test=", "--examples=385620"),
        f"--config.data.tokenizer={arguments.qwen if preset.startswith('qwen') else arguments.tokenizer}",
        *(f"--config.parallel.{setting}" for setting in parallel),
        *(FULL if training == "full" else ()),
    ]


def planned(case: Case, arguments) -> dict:
    """The plan of a case, from the folder of results or compiled."""
    words = command(case, arguments)
    print(f"python {shlex.join(words)}", flush=True)
    file = Path(arguments.results, "_".join(case).replace(":", "_").replace("=", "_") + ".json")
    if not file.exists():
        done = subprocess.run([sys.executable, *words, "--json"], stdout=subprocess.PIPE, text=True, check=True)
        file.write_text(done.stdout)
    return json.loads(file.read_text())


def needs(program: dict) -> list[str]:
    """The cells that training steps and rollouts share; empty ones where a program does not fit."""
    memory, costs, line = program["compiled"]["memory"], program["compiled"]["costs"], program["roofline"]
    cells = [f"{memory['total'] / 2**30:.2f} of {memory['capacity'] / 2**30:.0f}"]
    if not memory["fits"] or costs is None:
        return [*cells, "no", *[""] * 5]
    sent = sum(one["sent"] for one in costs["collectives"])
    cells += ["yes", f"{costs['flops'] / 1e12:.1f}", f"{costs['hbm_bytes'] / 1e9:.1f}", f"{sent / 1e9:.2f}"]
    return [*cells, line["bound"], f"{1e3 * line['overlapped']:,.0f}"]


def mesh_of(sizes: dict[str, int]) -> str:
    """Its axes that split anything."""
    return ", ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1)


def step_row(case: Case, plan: dict) -> list[str]:
    """A training step's line."""
    step = plan["programs"][0]
    cells = [*case[:3], mesh_of(plan["mesh"]), *needs(step)]
    if "no" in cells:
        return [*cells, "", ""]
    rate = step["number"] / step["roofline"]["overlapped"]
    return [*cells, f"{100 * step['mfu_bound']:.0f} %", f"{rate:,.0f}"]


def rollout_row(case: Case, plan: dict) -> list[str]:
    """A rollout's line: every loop to its limit."""
    rollout = plan["programs"][1]
    cells = [*case[:3], mesh_of(plan["decode_mesh"]), f"{rollout['number'] / plan['num_chips']:g}", *needs(rollout)]
    if "no" in cells:
        return [*cells, ""]
    return [*cells, f"{rollout['number'] / rollout['roofline']['overlapped']:,.0f}"]


def table(columns: tuple[str, ...], rows: list[list[str]]) -> str:
    """In Markdown."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Plan every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a .jsonl file or a folder with train, val and test")
    parser.add_argument("--tokenizer", required=True, help="folder of a Llama-3 tokenizer")
    parser.add_argument("--qwen", required=True, help="folder of a Qwen tokenizer")
    parser.add_argument("--results", required=True, help="folder for the plans as JSON")
    parser.add_argument("--only", default="", help="one slice")
    arguments = parser.parse_args()
    Path(arguments.results).mkdir(parents=True, exist_ok=True)
    plans = {case: planned(case, arguments) for case in CASES if arguments.only in ("", case[2])}
    print(table(COLUMNS, [step_row(*plan) for plan in plans.items()]))
    print()
    print(table(ROLLOUT_COLUMNS, [rollout_row(*plan) for plan in plans.items()]))


if __name__ == "__main__":
    main()
