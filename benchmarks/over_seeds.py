"""The table of a run repeated with other seeds: means over runs, with their 95 % t-interval.

    python benchmarks/over_seeds.py runs/seed_0 runs/seed_1 ... [--sampling sampled] [--against no_cot] [--costs]

Each folder has the `report.json` of a run (or of `evaluate`); a row that only some of them have says how many. Accuracy
of a run is its mean over decodes, so the interval is over *training* seeds. With `--against stage` or `stage@speed`,
the difference to that stage in the same run, or else in a run of the same training seed, seed by seed: to its row at
the same speed, limit, temperature and agreements, as far as it has one; of its own rows, to the one without limits and
agreements. With `--costs` also what an answer costs (means over seeds), what it thinks in, and in how many seeds each
change to the latents lowered accuracy for certain (`eval.causal`).
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

from colar_jax.statistics.intervals import Interval, mean_over_seeds


class Way(NamedTuple):
    """What makes a row: results that differ in any of these are never averaged."""

    dataset: str
    run: str  # of a report of several runs; "" for one
    stage: str
    speed: str
    latent_limit: str
    temperature: str
    trim: str


Rows = dict[Way, list[dict]]
OF_TRIMMING = {
    "discarded_thoughts": "discarded",
    "verifier_passes": "verifier's passes",
    "verifier_tokens": "verifier's tokens",
}
BEFORE = {"run": "", "trim": "-"}  # what older reports do not say


def rows_of(folders: list[str], sampling: str) -> Rows:
    """The results of every way to decode, one of each folder that has it.

    Raises:
        ValueError: two folders were asked other questions.
    """
    rows: Rows = {}
    for folder in folders:
        report = json.loads((Path(folder) / "report.json").read_text())
        for result in report["results"]:
            if result["sampling"] == sampling:
                way = Way(*((BEFORE | result)[name] for name in Way._fields))
                tests = [test for test in report.get("causal", ()) if _is_of(test, way)]
                origin = {"folder": folder, "training_seed": _training_seed(report, way), "causal": tests}
                rows.setdefault(way, []).append(result | origin)
    asked: dict[str, dict[str, str]] = {}  # by data set, a folder of each list of questions
    for way, results in rows.items():
        for result in results:
            asked.setdefault(way.dataset, {}).setdefault(result["questions"], result["folder"])
    for dataset, folders_of in asked.items():
        if len(folders_of) > 1:
            first, second, *_ = folders_of.values()
            raise ValueError(f"{first} and {second} were asked other questions of {dataset}: they are no repetitions")
    return rows


def _is_of(test: dict, way: Way) -> bool:
    """Whether a causal test is of a row's stage: the run's own limits, greedily."""
    return all(test.get(name, "") == getattr(way, name) for name in ("dataset", "run", "stage", "speed"))


def _training_seed(report: dict, way: Way) -> str:
    """The seed that a row's run was trained with, as a text; "" where its report does not say it."""
    seed = report.get("made", {}).get("seeds", {}).get("training", {}).get(way.run)
    return "" if seed is None else f"seed {seed}"


def reference_of(rows: Rows, way: Way, against: str) -> dict[str, float]:
    """By folder and by training seed, the accuracy that a row is compared with, in %; empty without another row.

    Raises:
        ValueError: the reference has several speeds, and none of them is the row's.
    """
    stage, _, speed = against.partition("@")
    found = [
        other
        for other in rows
        if (other.dataset, other.run, other.stage, speed or other.speed) == (way.dataset, way.run, stage, other.speed)
    ]
    if way in found:  # its own plain row
        found = [other for other in found if other.speed == way.speed and _is_plain(other) and other != way]
    if not found:
        return {}
    speeds = {other.speed for other in found}
    if len(speeds) > 1 and way.speed not in speeds:
        names = ", ".join(f"{stage}@{speed}" for speed in sorted(speeds))
        raise ValueError(f"--against={against}: it was decoded at several speeds; name one of {names}")

    def alike(other: Way) -> tuple[bool, ...]:
        return tuple(getattr(other, name) == getattr(way, name) for name in Way._fields[3:])

    of_seeds = rows[max(found, key=alike)]
    seeds = [result["training_seed"] for result in of_seeds]
    return {result["folder"]: 100 * result["accuracy"] for result in of_seeds} | {
        seed: 100 * result["accuracy"]
        for seed, result in zip(seeds, of_seeds, strict=True)
        if seed and seeds.count(seed) == 1
    }


def _is_plain(way: Way) -> bool:
    """Whether it is a stage as its run decodes it."""
    return (way.latent_limit, way.temperature, way.trim) == ("-", "-", "-")


def minus(results: list[dict], reference: dict[str, float]) -> str:
    """The mean difference to a reference in the same runs, with its interval; nothing where there is none."""
    pairs = [
        100 * result["accuracy"] - reference[origin]
        for result in results
        if (origin := result["folder"]) in reference or (origin := result["training_seed"]) in reference
    ]
    return f"{shown(mean_over_seeds(pairs), 1)}" if pairs else ""


def shown(interval: Interval, digits: int) -> str:
    """The mean, and the interval's half width where more than one seed gives it one."""
    spread = "" if interval.half_width is None else f" ± {interval.half_width:.{digits}f}"
    return f"{interval.center:.{digits}f}{spread}"


def changes_of(rows: Rows) -> list[str]:
    """How latents were changed in causal tests, in their order; the unchanged chains have no p."""
    tests = (test for results in rows.values() for result in results for test in result["causal"])
    return list(dict.fromkeys(test["intervention"] for test in tests if test["p"] is not None))


def costs_of(results: list[dict], changes: list[str], of_trimming: list[str]) -> dict[str, str]:
    """Cells of what answers cost, by their headings: means over seeds."""
    cost = {name: sum(result["cost"][name] for result in results) / len(results) for name in results[0]["cost"]}
    tests = [test for result in results for test in result["causal"]]
    of_tests = {f"accuracy, % (seeds that use latents): {name}": _changed(tests, name) for name in changes}
    return (
        {
            "thinks in": results[0]["thinks_in"] or "-",
            "forward passes": f"{cost['forward_passes']:.1f}",
            "MFLOP": f"{cost['flops'] / 1e6:.1f}",
            "KV KiB": f"{cost['kv_bytes'] / 1024:.1f}",
            "ms a question, in batches": f"{1000 * cost['seconds_per_question']:.1f}",
        }
        | {OF_TRIMMING[name]: _mean(results, name) for name in of_trimming}
        | of_tests
    )


def _mean(results: list[dict], name: str) -> str:
    """The mean over seeds of what some rows have."""
    values = [result[name] for result in results if result.get(name) is not None]
    return f"{sum(values) / len(values):.1f}" if values else "-"


def _changed(tests: list[dict], name: str) -> str:
    """The mean accuracy after a change to the latents, and in how many seeds it is lower for certain.

    As in "(2)"; "(2 of 3)" where in the other seeds too few answers could fall to say so.
    """
    found = [test for test in tests if test["intervention"] == name]
    if not found:
        return "-"
    accuracy = sum(test["accuracy"] for test in found) / len(found)
    told = [test["used"] for test in found if test["used"] is not None]
    return f"{100 * accuracy:.1f} ({sum(told)}{f' of {len(told)}' if len(told) < len(found) else ''})"


def table_of(rows: Rows, against: str, costs: bool = False) -> list[str]:
    """The lines of the table; a column of what makes rows is there where rows differ in it, or it is always told."""
    texts = ("data", "run", "stage", "speed", "limit", "temperature", "agreements")
    headings = dict(zip(Way._fields, texts, strict=True))
    told = [name for name in headings if name not in BEFORE or any(getattr(w, name) != BEFORE[name] for w in rows)]
    compared = f"minus {against}" if against else "minus none"
    header = [*(headings[name] for name in told), "accuracy, %", compared, "#L", "of each seed", "seeds"]
    of_all = [result for results in rows.values() for result in results]
    shown_costs = changes_of(rows), [name for name in OF_TRIMMING if any(one.get(name) is not None for one in of_all)]
    header += costs_of(of_all, *shown_costs) if costs else ()
    lines = [header, ["---"] * len(header)]
    for way, results in rows.items():
        accuracies = [100 * result["accuracy"] for result in results]
        lines.append(
            [
                *(getattr(way, name) for name in told),
                shown(mean_over_seeds(accuracies), 1),
                minus(results, reference_of(rows, way, against)),
                shown(mean_over_seeds([result["mean_length"] for result in results]), 2),
                ", ".join(f"{value:.1f}" for value in accuracies),
                str(len(results)),
                *(costs_of(results, *shown_costs).values() if costs else ()),
            ]
        )
    return [f"| {' | '.join(line)} |" for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--sampling", choices=("greedy", "sampled"), default="greedy")
    parser.add_argument("--against", default="", help="a stage, or stage@speed; its own rows have no difference")
    parser.add_argument("--costs", action="store_true", help="also what answers cost, and whether latents are used")
    options = parser.parse_args()
    if unfinished := [folder for folder in options.folders if not (Path(folder) / "report.json").is_file()]:
        parser.error(f"no report.json in {', '.join(unfinished)}: train there to the end, or evaluate it")
    if len({Path(folder).resolve() for folder in options.folders}) < len(options.folders):
        parser.error("a folder is named twice: each is a seed of its own")
    try:
        rows = rows_of(options.folders, options.sampling)
        if options.against and not any(reference_of(rows, way, options.against) for way in rows):
            parser.error(f"--against={options.against}: no row can be compared with it")
        print("\n".join(table_of(rows, options.against, options.costs)))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
