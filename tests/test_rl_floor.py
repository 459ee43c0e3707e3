"""The script that runs reinforcement learning's tables: its runs are valid, and its table says what they came to."""

import dataclasses
import json
import runpy
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # for what it imports from beside itself
SCRIPT = runpy.run_path(str(BENCHMARKS / "rl_floor.py"))
sys.path.remove(str(BENCHMARKS))  # whose sweep.py would come before tests/sweep
EXPERIMENTS, Cell, START = SCRIPT["EXPERIMENTS"], SCRIPT["Cell"], SCRIPT["START"]


def test_every_run_has_a_config_of_its_own_and_its_start_comes_before_it():
    cells = SCRIPT["cells_of"](list(EXPERIMENTS), None)
    assert len({cell.name for cell in cells}) == len(cells)
    for number, cell in enumerate(cells):
        config = SCRIPT["config_of"](cell, Path("runs"), False)
        assert config.workdir == f"runs/{cell.name}"
        if cell.variant != START:
            start = SCRIPT["start_of"](cell.argument)
            assert cells.index(start) < number
            assert config.stages["rl"].init_from == f"runs/{start.name}/colar" and config.seed == cell.seed
    assert sum(cell.experiment == "ablation" for cell in cells) == 8
    assert {cell.seed for cell in cells if cell.experiment == "filler"} == set(range(5))


def test_the_eight_ways_of_the_ablation_differ_in_the_published_credit_alone():
    seen = set()
    for variant in EXPERIMENTS["ablation"].variants:
        config = SCRIPT["config_of"](Cell("redundant", variant, "ablation"), Path("runs"), False)
        rl = config.stages["rl"].rl
        seen.add((rl.loss_aggregation, rl.stop_credit, rl.credit_forced_stops))
        assert (rl.length_penalty, rl.length_credit) == (0, "none")
    assert len(seen) == 8


def record(cell, accuracy, length, stopped=""):
    right = [1.0] * round(100 * accuracy) + [0.0] * round(100 - 100 * accuracy)
    row = {"speed": "2", "length": length, "needed": 16.0, "right": right, "forced": 0.0}
    return dataclasses.asdict(cell) | {
        "stopped": stopped,
        "rows": [] if stopped else [row],
        "rollouts": [[1, 0.9, 28.0], [3, 0.88, 27.0]],
    }


def test_the_table_says_what_is_gone_of_what_can_go():
    start, seeds = Cell("redundant", START), [Cell("redundant", "recipe", "redundant", seed) for seed in range(2)]
    caught = Cell("shorter", "twice the rate", "collapse")
    found = {start: record(start, 0.99, 28.0), caught: record(caught, 0, 0, "ratios explode")}
    found |= {cell: record(cell, 0.99, length) for cell, length in zip(seeds, (17.0, 18.0), strict=True)}
    header, _, stopped, line = SCRIPT["table_of"](found).splitlines()
    assert header.count("|") == line.count("|") == stopped.count("|")
    assert "99.0 / 28.00 | 16.00 | 99.0 ± 0.0 / 17.50 ± 6.35 | 88 ± 53 | 83 | +0.0, +0.0 | 2 |" in line
    assert "seed 0 after 3 iterations, 90.0 to 88.0 %" in stopped


def test_a_run_is_known_by_its_line(tmp_path):
    cell = Cell("redundant", "recipe", "redundant", 3)
    line = json.dumps(record(cell, 1, 20.0))
    (tmp_path / "results.jsonl").write_text(f"{line}\n")
    assert list(SCRIPT["results_in"](tmp_path)) == [cell]
