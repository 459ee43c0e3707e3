"""The tables of docs/speed.md: any thinking speed, told as text or as a number, over training seeds.

    python benchmarks/speeds.py --out=runs/speeds                               # all, resumable: run it again to go on
    python benchmarks/speeds.py --out=runs/speeds --tables=bands --seeds=0,1    # some
    python benchmarks/speeds.py --out=runs/speeds --only_table                  # what is there so far; draws nothing
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
import functools
import json
from pathlib import Path

from given_lists import known_names, seed_list
from speeds_cells import cell
from speeds_tables import print_table
from speeds_trained import EXPERIMENTS, TINY

from colar_jax.whole_lines import whole_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    tables, every = functools.partial(known_names, known=tuple(EXPERIMENTS)), ",".join(EXPERIMENTS)
    parser.add_argument("--tables", type=tables, default=every, help="some of: " + every)
    parser.add_argument("--arms", default="", help="only these arms, with semicolons between them")
    parser.add_argument("--seeds", type=seed_list, default="0,1,2,3,4")
    parser.add_argument("--steps", type=int, default=0, help="of the CoLaR stage; 0: as configured")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only_table", action="store_true")
    options = parser.parse_args()
    path = options.out / "cells.jsonl"
    changes = TINY if options.tiny else {}
    if options.steps:
        changes = changes | {"stages.colar.steps": options.steps}
    # Of a cell that has several lines, as two processes at once write them, the latest.
    cells = {(one["experiment"], one["arm"], one["seed"]): one for one in map(json.loads, whole_lines(path))}
    if not options.only_table and any(one.get("changes", changes) != changes for one in cells.values()):
        raise SystemExit(f"{path} has cells of another --steps or --tiny: name another folder with --out")
    arms = [arm.strip() for arm in options.arms.split(";") if arm.strip()]
    if unknown := set(arms) - {arm for name in EXPERIMENTS for arm in EXPERIMENTS[name]}:
        parser.error(f"--arms: there is none called {', '.join(sorted(unknown))}")
    wanted = [
        (experiment, arm, seed)
        for seed in options.seeds
        for experiment in options.tables
        for arm in EXPERIMENTS[experiment]
        if not arms or arm in arms
    ]
    for name in () if options.only_table else wanted:
        if name not in cells:
            cells[name] = cell(options.out, *name, changes) | {"changes": changes}
            with path.open("a") as file:
                file.write(json.dumps(cells[name]) + "\n")
    asked = sorted((cells[name] for name in wanted if name in cells), key=lambda one: one["seed"])
    for experiment in options.tables:
        print_table(asked, experiment, pictures=None if options.only_table else options.out)


if __name__ == "__main__":
    main()
