"""The table of a run repeated with other seeds: means over runs, with their 95 % t-interval.

    python benchmarks/over_seeds.py runs/baselines_0 runs/baselines_1 ... [--sampling sampled]

Each folder has the `report.json` of a run (or of `evaluate`); a row that only some of them have says how many. Accuracy
of a run is its mean over decodes, so the interval is over *training* seeds.
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
                rows.setdefault(tuple(result[key] for key in KEYS), []).append(result)
    return rows


def shown(interval: Interval, digits: int) -> str:
    """The mean, and the interval's half width where more than one seed gives it one."""
    spread = "" if interval.half_width is None else f" ± {interval.half_width:.{digits}f}"
    return f"{interval.center:.{digits}f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--sampling", choices=("greedy", "sampled"), default="greedy")
    options = parser.parse_args()
    if unfinished := [folder for folder in options.folders if not (Path(folder) / "report.json").is_file()]:
        parser.error(f"no report.json in {', '.join(unfinished)}: train there to the end, or evaluate it")
    print("| data | stage | speed | limit | temperature | accuracy, % | #L | of each seed | seeds |")
    print("| --- " * 9 + "|")
    for way, results in rows_of(options.folders, options.sampling).items():
        accuracies = [100 * result["accuracy"] for result in results]
        accuracy = shown(mean_over_seeds(accuracies), 1)
        length = shown(mean_over_seeds([result["mean_length"] for result in results]), 2)
        each = ", ".join(f"{value:.1f}" for value in accuracies)
        print(f"| {' | '.join(way)} | {accuracy} | {length} | {each} | {len(results)} |")


if __name__ == "__main__":
    main()
