"""The tables of docs/speed.md: any thinking speed, told as text or as a number, over training seeds.

    python benchmarks/speeds.py --out=runs/speeds                               # all, resumable: run it again to go on
    python benchmarks/speeds.py --out=runs/speeds --tables=bands --seeds=0,1    # some
    python benchmarks/speeds.py --out=runs/speeds --only_table                  # what is there so far
    python benchmarks/speeds.py --out=/tmp/tiny --tiny --seeds=0                # every step, learning nothing

A cell is one CoLaR stage of configs/arithmetic.py, some of its settings changed, from one chain of thought a
seed; each is a process of its own, one at a time. `cells.jsonl` in the folder has a line for each that is finished:
accuracy, #L and forward passes at each speed, greedily on the 1,000 held-out problems, and the gold #L: the mean number
of groups that the problems' own steps make at that speed. Printed is a table of each experiment, means over seeds with
their 95 % t-interval.

    bands    trained on 1 to 6 without 2.3 to 2.7 and 4.3 to 4.7: on the chain's timeline, told as a number at the
             opening separator alone, and told as text
    weights  speeds 1 to 5 in text, every example weighing the same or every position
    main     the config as it is, and the stage that chooses its own speed: accuracy and forward passes beside the best
             fixed speed, and what it chooses for problems of how many operations (`chosen.png` in the cell's folder)
    sure     that choice at other certainties (`decode.speed_certainty`), asked of the stages of `main`
    larger   as `main` with numbers up to 50, where fast speeds are harder: there is something to choose
    sure_larger    as `sure`, of the stages of `larger`
    mid_chain      the same of a stage that may change its speed where a line ends (`own_speed.mid_chain`)
    rl       the choice of `larger` learned from rewards instead, under three budgets of forward passes, beside the
             fixed speeds of the same model, with the same picture of each
"""

import argparse
import json
from pathlib import Path

from speeds_cells import cell
from speeds_tables import print_table
from speeds_trained import EXPERIMENTS, TINY

from colar_jax.whole_lines import whole_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tables", default=",".join(EXPERIMENTS), help="some of: " + ", ".join(EXPERIMENTS))
    parser.add_argument("--arms", default="", help="only these arms, with semicolons between them")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--steps", type=int, default=0, help="of the CoLaR stage; 0: as configured")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only_table", action="store_true")
    options = parser.parse_args()
    path = options.out / "cells.jsonl"
    changes = TINY if options.tiny else {}
    if options.steps:
        changes = changes | {"stages.colar.steps": options.steps}
    cells = [json.loads(line) for line in whole_lines(path)]
    if any(cell.get("changes", changes) != changes for cell in cells):
        raise SystemExit(f"{path} has cells of another --steps or --tiny: name another folder with --out")
    done = {(cell["experiment"], cell["arm"], cell["seed"]) for cell in cells}
    arms = [arm.strip() for arm in options.arms.split(";") if arm.strip()]
    tables = options.tables.split(",")
    known = {arm for name in EXPERIMENTS for arm in EXPERIMENTS[name]}
    for option, unknown in {"tables": set(tables) - EXPERIMENTS.keys(), "arms": set(arms) - known}.items():
        if unknown:
            parser.error(f"--{option}: there is none called {', '.join(sorted(unknown))}")
    wanted = [
        (experiment, arm, int(seed))
        for seed in options.seeds.split(",")
        for experiment in tables
        for arm in EXPERIMENTS[experiment]
        if not arms or arm in arms
    ]
    for name in () if options.only_table else wanted:
        if name not in done:
            cells.append(cell(options.out, *name, changes) | {"changes": changes})
            with path.open("a") as file:
                file.write(json.dumps(cells[-1]) + "\n")
    cells.sort(key=lambda cell: cell["seed"])
    for experiment in tables:
        print_table(options.out, cells, experiment)


if __name__ == "__main__":
    main()
