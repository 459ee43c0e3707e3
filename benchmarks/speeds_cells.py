"""What is measured of a trained arm of benchmarks/speeds.py: accuracy and cost of each speed, what a model chooses."""

import dataclasses
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy import stats
from speeds_trained import CERTAINTIES, EXPERIMENTS, folder_of, start_of, trained, trained_start

from colar_jax.config import resolve
from colar_jax.data.grouping import num_groups
from colar_jax.decoding.prefill import prefill
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.methods.method import decode_limits
from colar_jax.report.files import read_report
from colar_jax.runs.run import Run, prepare
from colar_jax.runs.run_folder import saved_config
from colar_jax.runs.starts import finished_parameters


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
