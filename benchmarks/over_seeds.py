"""The table of a run repeated with other seeds: means over runs, with their 95 % t-interval.

    python benchmarks/over_seeds.py runs/baselines_0 runs/baselines_1 ... [--sampling sampled] [--against no_cot]

Each folder has the `report.json` of a run (or of `evaluate`); a row that only some of them have says how many. Accuracy
of a run is its mean over decodes, so the interval is over *training* seeds. With `--against`, the difference to that
stage in the same run, seed by seed.
"""

import argparse
import json
from pathlib import Path

from colar_jax.statistics.intervals import Interval, mean_over_seeds

KEYS = ("dataset", "stage", "speed", "latent_limit", "temperature")


def rows_of(folders: list[str], sampling: str) -> dict[tuple[str, ...], list[dict]]:
    """The results of every way to decode (`KEYS`), one of each folder that has it."""
    rows: dict[tuple[str, ...], list[dict]] = {}
    for folder in folders:
        for result in json.loads((Path(folder) / "report.json").read_text())["results"]:
            if result["sampling"] == sampling:
                rows.setdefault(tuple(result[key] for key in KEYS), []).append(result | {"folder": folder})
    return rows


def references(rows: dict[tuple[str, ...], list[dict]], way: tuple[str, ...], against: str) -> dict[str, float]:
    """By run, the accuracy of the stage that a row is compared with, on the same data; empty for its own rows."""
    data, stage, *_ = way
    found = [
        results for (of_data, name, *_), results in rows.items() if (of_data, name) == (data, against) != (data, stage)
    ]
    return {result["folder"]: 100 * result["accuracy"] for results in found[:1] for result in results}


def minus(results: list[dict], reference: dict[str, float]) -> str:
    """The mean difference to a reference in the same runs, with its interval; nothing where there is none."""
    pairs = [
        100 * result["accuracy"] - reference[result["folder"]] for result in results if result["folder"] in reference
    ]
    return f"{shown(mean_over_seeds(pairs), 1)}" if pairs else ""


def shown(interval: Interval, digits: int) -> str:
    """The mean, and the interval's half width where more than one seed gives it one."""
    spread = "" if interval.half_width is None else f" ± {interval.half_width:.{digits}f}"
    return f"{interval.center:.{digits}f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--sampling", choices=("greedy", "sampled"), default="greedy")
    parser.add_argument("--against", default="", help="a stage; its own rows have no difference")
    options = parser.parse_args()
    if unfinished := [folder for folder in options.folders if not (Path(folder) / "report.json").is_file()]:
        parser.error(f"no report.json in {', '.join(unfinished)}: train there to the end, or evaluate it")
    compared = f"minus {options.against}" if options.against else "minus none"
    print(f"| data | stage | speed | limit | temperature | accuracy, % | {compared} | #L | of each seed | seeds |")
    print("| --- " * 10 + "|")
    rows = rows_of(options.folders, options.sampling)
    for way, results in rows.items():
        accuracies = [100 * result["accuracy"] for result in results]
        accuracy = shown(mean_over_seeds(accuracies), 1)
        length = shown(mean_over_seeds([result["mean_length"] for result in results]), 2)
        difference = minus(results, references(rows, way, options.against))
        each = ", ".join(f"{value:.1f}" for value in accuracies)
        print(f"| {' | '.join(way)} | {accuracy} | {difference} | {length} | {each} | {len(results)} |")


if __name__ == "__main__":
    main()
