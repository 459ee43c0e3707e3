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
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from colar_jax.config import resolve
from colar_jax.data.grouping import num_groups
from colar_jax.decoding.prefill import prefill
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.methods.method import decode_limits
from colar_jax.report.files import read_report
from colar_jax.runs.run import Run, prepare
from colar_jax.runs.run_folder import saved_config
from colar_jax.runs.starts import finished_parameters
from colar_jax.statistics.intervals import mean_over_seeds

CONFIG = Path(__file__).parents[1] / "configs" / "arithmetic.py"
BANDS = "1..2.3,2.7..4.3,4.7..6"
AROUND_BANDS = "1,1.5,2,2.3,2.5,2.7,3,3.5,4,4.3,4.5,4.7,5,6"
# Inside a band, and its two ends.
LINES = {"2.5": ("2.3", "2.7"), "4.5": ("4.3", "4.7")}
CERTAINTIES = {f"certainty {certainty}": {"speed_certainty": certainty} for certainty in (0.0, 0.9, 0.95, 0.98, 0.99)}
EXPERIMENTS = {
    "bands": {
        "timeline": {"speeds": BANDS, "conditioning": "number", "timeline": "tokens"},
        "number": {"speeds": BANDS, "conditioning": "number", "timeline": "latents"},
        "text": {"speeds": BANDS, "conditioning": "text", "timeline": "latents", "random_phase": False},
    },
    "weights": {
        "example": {"speeds": "1,2,3,4,5", "conditioning": "text", "timeline": "latents", "weighting": "example"},
        "position": {"speeds": "1,2,3,4,5", "conditioning": "text", "timeline": "latents", "weighting": "position"},
    },
    "main": {"as configured": {}},
    "larger": {"numbers up to 50": {}},
    "sure": CERTAINTIES,
    "sure_larger": CERTAINTIES,
    "mid_chain": CERTAINTIES,
    "rl": {f"budget {passes}": {"budget": float(passes)} for passes in (12, 14, 18)},
}
# Of these a model's own speed is compared with the fixed speeds of the same model: the one that they start from.
STARTS = {"sure": "main", "sure_larger": "larger", "mid_chain": "larger", "rl": "larger"}
ASKED = {"bands": AROUND_BANDS, "weights": "1,2,3,4,5"}
OWN_PROBLEMS = dict.fromkeys(("larger", "mid_chain", "rl"), "arithmetic:max_number=50,min_steps=1,max_steps=6")
TINY = {
    "model.preset": "pico",
    "model.latent_head.intermediate_size": 16,
    "data.train_limit": 200,
    "data.num_val": 4,
    "data.num_test": 8,
    "decode.max_latents": 8,
    "decode.max_step_tokens": 8,
    "decode.max_answer_tokens": 3,
    "stages.cot.steps": 2,
    "stages.colar.steps": 3,
    "stages.colar.eval_every": 0,
    "stages.auto.steps": 3,
    "stages.auto.own_speed.num_labelled": 8,
    "stages.auto.own_speed.grid": "1,6",
    "stages.auto_rl.own_speed.grid": "1,6",
    "stages.auto_rl.steps": 3,
    "stages.auto_rl.log_every": 1,
    "stages.auto_rl.rl.num_questions": 4,
    "stages.auto_rl.rl.minibatch_size": 16,
}


def train(folder: Path, seed: int, settings: dict) -> None:
    """A run in a folder; what is finished there is not done again."""
    settings = {"workdir": folder, "seed": seed, "eval.seeds": 0, "eval.latent_words": 0} | settings
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    subprocess.run([sys.executable, "-m", "colar_jax.train", f"--config={CONFIG}", *flags], check=True)


def folder_of(out: Path, experiment: str, arm: str, seed: int) -> Path:
    """Where a cell is."""
    return out / f"seed_{seed}" / experiment / arm.replace(", ", "_").replace(" ", "_")


def start_of(out: Path, experiment: str, seed: int) -> Path:
    """The folder of the fixed speeds that a choice of speeds starts from, and is compared with."""
    [arm] = EXPERIMENTS[STARTS[experiment]]
    return folder_of(out, STARTS[experiment], arm, seed)


def trained_start(out: Path, experiment: str, seed: int, changes: dict) -> Path:
    """`start_of`, trained."""
    return trained(out, STARTS[experiment], *EXPERIMENTS[STARTS[experiment]], seed, changes)


def trained(out: Path, experiment: str, arm: str, seed: int, changes: dict) -> Path:
    """Train and evaluate one arm, and before it what it starts from; its folder."""
    folder, group, settings = folder_of(out, experiment, arm, seed), "colar.latent", dict(changes)
    if experiment in OWN_PROBLEMS:
        # At 4 this model is right more often than at 3.
        settings |= {"data.train": OWN_PROBLEMS[experiment]}
        settings |= {f"stages.{stage}.own_speed.labels": "each" for stage in ("auto", "auto_rl")}
    if experiment in STARTS:
        start, stage = trained_start(out, experiment, seed, changes), "auto_rl" if experiment == "rl" else "auto"
        group = f"{stage}.{'rl' if experiment == 'rl' else 'own_speed'}"
        settings |= {"run": stage, f"stages.{stage}.init_from": start / "colar", "decode.speed_certainty": 0.0}
    else:
        of_seed = out / f"seed_{seed}" / ("cot_larger" if experiment in OWN_PROBLEMS else "cot")
        train(of_seed, seed, settings | {"run": "cot"})
        stages = "colar,auto" if experiment in STARTS.values() else "colar"
        settings |= {"run": stages, "stages.colar.init_from": of_seed / "cot"}
    if experiment == "mid_chain":
        settings["stages.auto_rl.own_speed.mid_chain"] = True  # of all stages with a choice, run or not
    of_arm = {"mid_chain": True} if experiment == "mid_chain" else EXPERIMENTS[experiment][arm]
    settings |= {f"stages.{group}.{name}": value for name, value in of_arm.items()}
    if "timeline" in of_arm:  # one model has one, whatever of its stages are run
        others = ("rl.latent", "auto.own_speed", "auto_rl.own_speed")
        settings |= {f"stages.{other}.timeline": of_arm["timeline"] for other in others}
    if experiment in ASKED:
        settings["eval.speeds"] = ASKED[experiment]
    train(folder, seed, settings)
    return folder


def cell(out: Path, experiment: str, arm: str, seed: int, changes: dict) -> dict:
    """Train and evaluate one arm; what is said of it."""
    if EXPERIMENTS[experiment] is CERTAINTIES:
        return sure_cell(out, experiment, arm, seed, changes)
    folder = trained(out, experiment, arm, seed, changes)
    own_stage = "auto_rl" if experiment == "rl" else "auto"
    run = prepare(resolve(saved_config(folder)), sets="tests")
    steps = next(iter(run.tests.values())).step_lengths
    phase = run.method("colar").recipe.asked_phase
    speeds = {}
    results = read_report(folder)["results"]
    if experiment == "rl":  # the fixed speeds of the same model
        of_start = read_report(start_of(out, experiment, seed))["results"]
        results = [*(result for result in of_start if result["stage"] == "colar"), *results]
    for result in results:
        speed = result["speed"].replace("-", "own")
        speeds[speed] = {
            "accuracy": 100 * result["accuracy"],
            "length": result["mean_length"],
            "forward_passes": result["cost"]["forward_passes"],
            "was_trained": result["was_trained"],
            "gold": None if speed in ("auto", "own") else float(num_groups(steps, float(speed), phase).mean()),
        }
    chosen = chosen_speeds(run, own_stage, folder) if "own" in speeds else None
    return {"experiment": experiment, "arm": arm, "seed": seed, "speeds": speeds, "chosen": chosen}


def sure_cell(out: Path, experiment: str, arm: str, seed: int, changes: dict) -> dict:
    """What the stage that chooses its speed answers where it is as sure as an arm asks: one stage for all arms."""
    start = stage_in = trained_start(out, experiment, seed, changes)
    if experiment == "mid_chain":
        stage_in = trained(out, experiment, "trained", seed, changes)
    folder = folder_of(out, experiment, arm, seed)
    folder.mkdir(parents=True, exist_ok=True)
    config = resolve(saved_config(stage_in))
    config = dataclasses.replace(config, decode=dataclasses.replace(config.decode, **CERTAINTIES[arm]))
    run = prepare(config, sets="tests")
    (encoded,), speeds = run.tests.values(), run.decode_speeds("auto")
    outcome = run.evaluator("auto", [encoded], speeds).run(
        finished_parameters(run, stage_in / "auto"), encoded, speeds[0], seed=None
    )
    results = [result for result in read_report(start)["results"] if result["stage"] == "colar"]
    fixed = {
        result["speed"]: {
            "accuracy": 100 * result["accuracy"],
            "forward_passes": result["cost"]["forward_passes"],
        }
        for result in results
    }
    length = float(outcome.lengths_N.mean())
    # A question is read twice, the second time with the speed; then come the latents and the answer's tokens.
    passes = 2 + length + float(outcome.answer_tokens_N.mean())
    own = {"own": {"accuracy": 100 * outcome.accuracy, "length": length, "forward_passes": passes}}
    chosen = chosen_speeds(run, "auto", stage_in, folder)
    return {"experiment": experiment, "arm": arm, "seed": seed, "speeds": fixed | own, "chosen": chosen}


def chosen_speeds(run: Run, stage: str, trained_in: Path, shown_in: Path | None = None) -> dict:
    """What a stage of a run chooses: the mean by number of operations, a picture, and the rank correlation.

    Of a chain whose speed changes it is the mean over its latents, and the share of latents with a change is told.
    """
    (encoded,) = run.tests.values()
    parameters = finished_parameters(run, trained_in / stage)
    if run.method(stage).mid_chain:
        given = run.inspector(stage).thoughts(parameters, encoded, "auto")
        is_fed_NL = np.arange(given.speeds_BL.shape[1]) < given.num_thoughts_B[:, None]
        speeds = np.sum(given.speeds_BL * is_fed_NL, axis=1) / np.maximum(given.num_thoughts_B, 1)
        num_changes = np.sum((np.diff(given.speeds_BL) != 0) & is_fed_NL[:, 1:])
        changed = float(num_changes / np.sum(is_fed_NL[:, 1:]))
    else:
        speeds, changed = opening_speeds(run, stage, parameters), 0.0
    operations = np.array([len(problem.steps) for problem in encoded.problems[: len(speeds)]])
    counts = sorted(set(operations.tolist()))
    means = {str(count): float(speeds[operations == count].mean()) for count in counts}
    figure = Figure(figsize=(4, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(counts, list(means.values()), "o-")
    axes.set(xlabel="operations of a problem", ylabel="mean speed that is chosen")
    figure.savefig((shown_in or trained_in) / "chosen.png", dpi=160)
    same = len(set(speeds.tolist())) == 1
    correlation = None if same else float(stats.spearmanr(operations, speeds).statistic)
    return {"rank_correlation": correlation, "mean_by_operations": means, "changed": changed}


def opening_speeds(run: Run, stage: str, parameters) -> np.ndarray:
    """The speed that is chosen for each of the first test problems, as many as whole batches hold."""
    (encoded,) = run.tests.values()
    limits = decode_limits(
        run.thinking(stage),
        run.config.decode,
        separator_id=encoded.separator_id,
        eos_id=encoded.eos_id,
        greedy=True,
    )
    told = run.method(stage).recipe.told("auto")
    prompts = [encoded.ask(index, told) for index in range(len(encoded))]
    size = min(len(prompts), 200)
    parts = [prompts[start : start + size] for start in range(0, len(prompts) - size + 1, size)]
    shape = shape_for([np.array([len(prompt) for prompt in part]) for part in parts])
    program = run.engine.compile_rows(
        lambda model, compute, packed, _: prefill(model, packed, limits, compute).own_speeds_B
    )
    return np.concatenate([program(parameters, run.engine.put_rows((pack_prompts(part, shape),))) for part in parts])


def shown(values: list[float], digits: int = 1) -> str:
    """The mean, and the interval's half width where more than one seed gives it one."""
    interval = mean_over_seeds(values)
    spread = "" if interval.half_width is None else f" ± {interval.half_width:.{digits}f}"
    return f"{interval.center:.{digits}f}{spread}"


def print_table(out: Path, cells: list[dict], experiment: str) -> None:
    """Rows are speeds; each arm has accuracy in %, and #L in % of the gold number of groups."""
    of_arms = {arm: [c for c in cells if (c["experiment"], c["arm"]) == (experiment, arm)]
               for arm in EXPERIMENTS[experiment]}  # fmt: skip
    of_arms = {arm: found for arm, found in of_arms.items() if found}
    if not of_arms:
        return
    if experiment in STARTS:
        print_own_speeds(of_arms, experiment)
        draw_own_speeds(of_arms, out / f"{experiment}.png")
        return
    speeds = list(dict.fromkeys(speed for found in of_arms.values() for cell in found for speed in cell["speeds"]))
    print(f"\n### {experiment}, seeds: {', '.join(f'{arm} {len(found)}' for arm, found in of_arms.items())}\n")
    print("| c | gold #L |", " | ".join(f"{arm}: accuracy, % | #L, % of gold" for arm in of_arms), "|")
    print("| --- | --- |" + " --- | --- |" * len(of_arms))
    for speed in speeds:
        row, gold = [], [cell["speeds"][speed]["gold"] for found in of_arms.values() for cell in found]
        mark = "" if all(found[0]["speeds"][speed]["was_trained"] for found in of_arms.values()) else "*"
        for found in of_arms.values():
            of_speed = [cell["speeds"][speed] for cell in found]
            row.append(shown([one["accuracy"] for one in of_speed]))
            relative = [100 * one["length"] / one["gold"] for one in of_speed if one["gold"]]
            row.append(shown(relative) if relative else shown([one["length"] for one in of_speed], 2))
        known = [value for value in gold if value]
        print(f"| {speed}{mark} | {np.mean(known):.2f} |" if known else f"| {speed}{mark} | - |", " | ".join(row), "|")
    for found in of_arms.values():
        print_chosen([cell for cell in found if cell.get("chosen")])
    print("\n\\* never trained. Speed at which accuracy is compared with the line between a band's ends, in points:\n")
    for speed, (low, high) in LINES.items():
        for arm, found in of_arms.items():
            if all({speed, low, high} <= cell["speeds"].keys() for cell in found):
                ends = [(cell["speeds"][low]["accuracy"] + cell["speeds"][high]["accuracy"]) / 2 for cell in found]
                falls = [cell["speeds"][speed]["accuracy"] - end for cell, end in zip(found, ends, strict=True)]
                print(f"- {speed}, {arm}: {shown(falls)}")


def print_own_speeds(of_arms: dict[str, list[dict]], experiment: str) -> None:
    """Rows are arms: accuracy and forward passes of the speeds that are chosen, beside the best fixed speed's."""
    print(f"\n### {experiment}: its own speed\n")
    print(
        "| | seeds | accuracy, % | forward passes | #L | to the best fixed speed, points | its forward passes, % | "
        "those of speed 1, % | rank correlation of speed and operations |"
    )
    print("| --- |" + " --- |" * 8)
    for arm, found in of_arms.items():
        own = [cell["speeds"]["own"] for cell in found]
        falls, costs, correlations = compared(found)
        columns = [shown([one[name] for one in own]) for name in ("accuracy", "forward_passes", "length")]
        slowest = [max(of["forward_passes"] for of in cell["speeds"].values()) for cell in found]
        of_slowest = [100 * one["forward_passes"] / passes for one, passes in zip(own, slowest, strict=True)]
        columns += [shown(falls), shown(costs), shown(of_slowest)]
        columns.append(shown(correlations, 2) if correlations else "-")
        print(f"| {arm} | {len(found)} |", " | ".join(columns), "|")
    for arm, found in of_arms.items():
        changed = shown([100 * cell["chosen"].get("changed", 0.0) for cell in found])
        means = found[0]["chosen"]["mean_by_operations"]
        print(
            f"\n{arm}: {changed} % of latents at another speed than the one before; mean by operations, first seed:",
            means,
        )


def draw_own_speeds(of_arms: dict[str, list[dict]], path: Path) -> None:
    """The mean speed that is chosen by number of operations, a line an arm: the mean over its seeds."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    for arm, found in of_arms.items():
        of_cells = [cell["chosen"]["mean_by_operations"] for cell in found]
        counts = sorted(set.intersection(*(set(map(int, means)) for means in of_cells)))
        axes.plot(counts, [np.mean([means[str(count)] for means in of_cells]) for count in counts], "o-", label=arm)
    axes.set(xlabel="operations of a problem", ylabel="mean speed that is chosen")
    figure.legend(loc="outside right upper")
    figure.savefig(path, dpi=160)


def compared(cells: list[dict]) -> tuple[list[float], list[float], list[float]]:
    """The model's own speed and the best fixed one: points, % of forward passes; and the rank correlations."""
    own = [cell["speeds"]["own"] for cell in cells]
    best = [
        max(
            (of for c, of in cell["speeds"].items() if c != "own"),
            key=lambda of: (of["accuracy"], -of["forward_passes"]),
        )
        for cell in cells
    ]
    falls = [a["accuracy"] - b["accuracy"] for a, b in zip(own, best, strict=True)]
    costs = [100 * a["forward_passes"] / b["forward_passes"] for a, b in zip(own, best, strict=True)]
    known = [cell["chosen"]["rank_correlation"] for cell in cells]
    return falls, costs, [value for value in known if value is not None]


def print_chosen(cells: list[dict]) -> None:
    """The model's own speed beside the best fixed one."""
    if not cells:
        return
    falls, costs, correlations = compared(cells)
    print(f"\nOwn speed against the best fixed one: {shown(falls)} points at {shown(costs)} % of its forward passes; ")
    print(
        f"rank correlation of the speed with the number of operations {shown(correlations, 2) if correlations else '-'}"
    )
    print("mean speed by operations, first seed:", cells[0]["chosen"]["mean_by_operations"])


def cells_in(path: Path) -> list[dict]:
    """The cells that are finished; a line that a kill cut short is dropped, also from the file."""
    text = path.read_text() if path.is_file() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


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
    cells = cells_in(path)
    if any(cell.get("changes", changes) != changes for cell in cells):
        raise SystemExit(f"{path} has cells of another --steps or --tiny: name another folder with --out")
    done = {(cell["experiment"], cell["arm"], cell["seed"]) for cell in cells}
    arms = [arm.strip() for arm in options.arms.split(";") if arm.strip()]
    tables = options.tables.split(",")
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
    for experiment in tables:
        print_table(options.out, cells, experiment)


if __name__ == "__main__":
    main()
