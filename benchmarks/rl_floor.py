"""Reinforcement learning against the floor of the chain: the runs of docs/rl_results.md, one process each, resumable.

    python benchmarks/rl_floor.py runs/rl_floor                          # all of them
    python benchmarks/rl_floor.py runs/rl_floor redundant filler         # some experiments
    python benchmarks/rl_floor.py runs/rl_floor ablation --seeds 0
    python benchmarks/rl_floor.py runs/rl_floor --table                  # only print what there is
    python benchmarks/rl_floor.py /tmp/smoke --smoke                     # everything tiny, learning nothing

The same command again goes on: a run goes on from its checkpoints, and one that has its line of JSON in
`<folder>/results.jsonl` is not started again. Each set of problems has one supervised start, seed 0; the seeds are
those of reinforcement learning. Accuracy is sampled (`eval.seeds` decodes of each question); a seed's difference is to
the start on the same questions, with a paired bootstrap interval; over seeds ± is the half width of the 95 %
t-interval.
"""

import argparse
import dataclasses
import itertools
import json
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from given_lists import seed_list

from colar_jax.config import resolve
from colar_jax.metric_writer import read_metrics
from colar_jax.rl.health import Collapsed
from colar_jax.runs import pipeline
from colar_jax.statistics.intervals import mean_over_seeds
from colar_jax.statistics.paired import paired_difference
from colar_jax.training.late_log import Diverged
from colar_jax.whole_lines import whole_lines

CONFIG = Path(__file__).parents[1] / "configs" / "arithmetic.py"
RESULTS = "results.jsonl"
START = "start"
HEADER = (
    "experiment",
    "variant",
    "speed",
    "start, % / #L",
    "floor",
    "after, % / #L",
    "gone of what can go, %",
    "least of a seed",
    "lowest ends of the seeds' differences, points",
    "seeds",
)
PUBLISHED = {
    "sum": {"loss_aggregation": "configured_length"},
    "stop in answer": {"stop_credit": "answer"},
    "forced stops": {"credit_forced_stops": True},
}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Runs on one set of problems; every variant is settings of reinforcement learning on top of the config."""

    argument: str  # of configs/arithmetic.py
    variants: dict[str, dict]  # settings of stages.rl, with a dot for those of a group
    recipe: bool = False  # whether the recipe of :shorter comes on top of the config
    seeds: int = 5


def _ablation() -> dict[str, dict]:
    """The eight ways to have each part of the published credit, or not."""
    plain = {"steps": 60, "optimizer.learning_rate": 1e-4, "rl.length_penalty": 0.0, "rl.stop_on_collapse": False}
    variants = {}
    for taken in itertools.product((False, True), repeat=len(PUBLISHED)):
        names = [name for name, is_taken in zip(PUBLISHED, taken, strict=True) if is_taken]
        settings = {f"rl.{key}": value for name in names for key, value in PUBLISHED[name].items()}
        variants[" + ".join(names) or "none of them"] = plain | settings
    return variants


EXPERIMENTS = {
    "redundant": Experiment("redundant", {"recipe": {}}, recipe=True),
    "shorter": Experiment("shorter", {"recipe": {}}),
    "filler": Experiment("filler", {"recipe": {}}),
    "plain": Experiment("two_speeds", {"recipe": {"latent.speeds": "2,5"}}, recipe=True),
    "collapse": Experiment(
        "shorter",
        {
            "twice the rate": {"optimizer.learning_rate": 1e-4},
            "no floor, five times the rate": {"optimizer.learning_rate": 2.5e-4, "rl.min_std": 0.0, "log_every": 1},
        },
    ),
    "ablation": Experiment("redundant", _ablation(), seeds=1),
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run: a start, or a variant of an experiment with a seed."""

    argument: str
    variant: str  # START, or one of the experiment's
    experiment: str = ""
    seed: int = 0

    @property
    def name(self) -> str:
        """What a line of results is known by, and the run's folder is called."""
        of = f"{self.experiment}/{self.variant}/{self.seed}" if self.experiment else f"{self.argument}/{START}"
        return of.replace(" ", "_").replace(",", "")


def start_of(argument: str) -> Cell:
    """The supervised run that reinforcement learning on these problems starts from."""
    return Cell(argument, START)


def cells_of(names: list[str], seeds: list[int] | None) -> list[Cell]:
    """The runs of some experiments, each start before what needs it."""
    cells: dict[Cell, None] = {}
    for name in names:
        experiment = EXPERIMENTS[name]
        cells[start_of(experiment.argument)] = None
        of_seeds = seeds if seeds is not None else range(experiment.seeds)
        for seed, variant in itertools.product(of_seeds, experiment.variants):
            cells[Cell(experiment.argument, variant, name, seed)] = None
    return list(cells)


def config_of(cell: Cell, folder: Path, smoke: bool):
    """The config of a run."""
    given = runpy.run_path(str(CONFIG))
    config = given["get_config"](cell.argument)
    config.workdir, config.eval.greedy = str(folder / cell.name), False
    if cell.variant == START:
        config.run, config.eval.stages = "cot,colar", "colar"
    else:
        experiment, rl = EXPERIMENTS[cell.experiment], config.stages.rl
        config.run, config.eval.stages, config.seed = "rl", "rl", cell.seed
        rl.init_from = str(folder / start_of(cell.argument).name / "colar")
        if experiment.recipe:
            given["shorten"](rl)
        rl.update_from_flattened_dict(experiment.variants[cell.variant])
    config.eval.speeds = "2,5" if cell.argument == "two_speeds" else config.eval.speeds
    if smoke:
        _make_tiny(config)
    return resolve(config)


def _make_tiny(config) -> None:
    config.model.preset, config.model.latent_head.intermediate_size = "pico", 32
    config.data.update(train_limit=100, num_val=8, num_test=16)
    config.decode.update(max_latents=8, max_answer_tokens=3)
    config.eval.seeds = 2
    for stage in config.stages.values():
        stage.update(steps=2, log_every=1, eval_every=0)
        if stage.trainer == "sft":
            stage.rows = 4
    config.stages.rl.rl.update(num_questions=4, num_generations=4, minibatch_size=8)


def run_cell(cell: Cell, folder: Path, smoke: bool) -> None:
    """Train and evaluate one run to its end, and write its line."""
    begin, config, stopped, results = time.monotonic(), config_of(cell, folder, smoke), "", []
    try:
        results = pipeline.train(config)
    except (Collapsed, Diverged) as error:
        stopped = str(error)
    rows = [
        {
            "speed": result.speed,
            "length": result.mean_length,
            "needed": result.needed_length,
            "right": result.right_share_N.round(4).tolist(),
            "forced": result.forced_stop_share,
        }
        for result in results
    ]
    record = {**dataclasses.asdict(cell), "stopped": stopped, "rows": rows, "rollouts": _rollouts(cell, folder)}
    record["smoke"] = smoke
    record["seconds"] = round(time.monotonic() - begin, 1)
    with (folder / RESULTS).open("a") as file:
        file.write(json.dumps(record) + "\n")


def _rollouts(cell: Cell, folder: Path) -> list[list[float]]:
    """Iteration, accuracy and #L of the rollouts, as the stage logged them."""
    if cell.variant == START or not (folder / cell.name / "rl").is_dir():
        return []
    lines = [line for line in read_metrics(folder / cell.name / "rl") if "accuracy" in line]
    return [[line["step"], round(line["accuracy"], 4), round(line["length"], 3)] for line in lines]


def results_in(folder: Path) -> dict[Cell, dict]:
    """What there is, the latest line of each run."""
    path = folder / RESULTS
    records = map(json.loads, whole_lines(path))
    names = [field.name for field in dataclasses.fields(Cell)]
    return {Cell(**{name: record[name] for name in names}): record for record in records}


def table_of(found: dict[Cell, dict]) -> str:
    """Every variant at every speed, over its seeds, beside its start."""
    lines = [f"| {' | '.join(HEADER)} |", "| --- " * len(HEADER) + "|"]
    groups: dict[tuple[str, str], list[dict]] = {}
    for cell, record in found.items():
        if cell.variant != START:
            groups.setdefault((cell.experiment, cell.variant), []).append(record)
    for (experiment, variant), records in groups.items():
        stopped = [record for record in records if record["stopped"]]
        finished = [record for record in records if not record["stopped"]]
        start = found.get(start_of(EXPERIMENTS[experiment].argument))
        lines += [_stopped_line(experiment, variant, stopped)] if stopped else []
        for of_start in start["rows"] if start and finished else ():
            pairs = [
                (record, row) for record in finished for row in record["rows"] if row["speed"] == of_start["speed"]
            ]
            if pairs:
                lines.append(_line(experiment, variant, of_start, [row for _, row in pairs]))
    return "\n".join(lines)


def _line(experiment: str, variant: str, start: dict, rows: list[dict]) -> str:
    accuracies, lengths = [100 * np.mean(row["right"]) for row in rows], [row["length"] for row in rows]
    ends = [100 * (paired_difference(row["right"], start["right"]).low or 0.0) for row in rows]
    floor, gone, least = start["needed"], "-", "-"
    if floor is not None and start["length"] > 1.02 * floor:  # nothing can go of what is there already
        shares = [100 * (start["length"] - length) / (start["length"] - floor) for length in lengths]
        gone, least = _shown(shares, 0), f"{min(shares):.0f}"
    cells = [
        experiment,
        variant,
        start["speed"],
        f"{100 * np.mean(start['right']):.1f} / {start['length']:.2f}",
        "-" if floor is None else f"{floor:.2f}",
        f"{_shown(accuracies, 1)} / {_shown(lengths, 2)}",
        gone,
        least,
        ", ".join(f"{end:+.1f}" for end in ends),
        str(len(rows)),
    ]
    return f"| {' | '.join(cells)} |"


def _stopped_line(experiment: str, variant: str, records: list[dict]) -> str:
    """Runs that were ended: in which iteration, and from what accuracy to what the rollouts came until then."""
    told = [
        f"seed {record['seed']} after {record['rollouts'][-1][0]} iterations, "
        f"{100 * record['rollouts'][0][1]:.1f} to {100 * record['rollouts'][-1][1]:.1f} %"
        if record["rollouts"]
        else f"seed {record['seed']} in the first iteration"
        for record in records
    ]
    return f"| {experiment} | {variant} | - | - | - | stopped: {'; '.join(told)} | - | - | - | {len(records)} |"


def _shown(values: list[float], digits: int) -> str:
    interval = mean_over_seeds(np.array(values))
    spread = "" if interval.half_width is None else f" ± {interval.half_width:.{digits}f}"
    return f"{interval.center:.{digits}f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("experiments", nargs="*", help=f"of {', '.join(EXPERIMENTS)}; none: all")
    parser.add_argument("--seeds", type=seed_list)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--cell", type=int, help=argparse.SUPPRESS)  # what this calls itself with
    options = parser.parse_args()
    if wrong := set(options.experiments) - set(EXPERIMENTS):
        parser.error(f"no experiment is called {', '.join(sorted(wrong))}: there are {', '.join(EXPERIMENTS)}")
    cells = cells_of(options.experiments or list(EXPERIMENTS), options.seeds)
    options.folder.mkdir(parents=True, exist_ok=True)
    others = [record for record in results_in(options.folder).values() if record.get("smoke", False) != options.smoke]
    if others and not options.table:
        parser.error(
            f"{options.folder} has results {'without' if options.smoke else 'of'} --smoke: take another folder"
        )
    if options.cell is not None:
        run_cell(cells[options.cell], options.folder, options.smoke)
        return
    for number, cell in enumerate(cells):
        if options.table or cell in results_in(options.folder):
            continue
        print(f"{cell.name} ({number + 1} of {len(cells)})", file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, *sys.argv, f"--cell={number}"], check=False)
        if done.returncode:
            print(f"{cell.name} failed with status {done.returncode}; the others go on", file=sys.stderr, flush=True)
    print(table_of(results_in(options.folder)))


if __name__ == "__main__":
    main()
