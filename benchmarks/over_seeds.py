"""The table of a run repeated with other seeds: means over runs, with their 95 % t-interval.

    python benchmarks/over_seeds.py runs/seed_0 runs/seed_1 ... [--sampling sampled] [--against no_cot] [--costs]

Each folder has the `report.json` of a run (or of `evaluate`); a row that only some of them have says how many. Accuracy
of a run is its mean over decodes, so the interval is over *training* seeds. With `--against stage` or `stage@speed`,
the difference to that stage in the same run, or else in a run of the same training seed, seed by seed: to its row at
the same speed, limit, temperature and agreements, or one without; of its own rows, to the one without limits and
agreements. With `--costs` also what an answer costs (means over seeds), what it thinks in, and in how many seeds each
change to the latents lowered accuracy for certain (`eval.causal`: tests of greedy chains, and so of plain greedy rows
alone). What only some of a row's seeds have says of how many it is the mean.

Refused is what is no repetition: one training seed twice in a row, other questions, other settings of decoding or,
where the `config.json` of a run lies beside its report, of training. Another commit, jax or device, or another number
of decodes, is said below the table.
"""

import argparse
from pathlib import Path

from seed_rows import BEFORE, Rows, Way, rows_of, told_of

from colar_jax.statistics.intervals import Interval, mean_over_seeds

# In these a reference has to be as a row is, or to have none.
LIKE = ("latent_limit", "temperature", "trim")
OF_TRIMMING = {
    "discarded_thoughts": "discarded",
    "verifier_passes": "verifier's passes",
    "verifier_tokens": "verifier's tokens",
}


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
        found = [other for other in found if other.speed == way.speed and other.is_plain and other != way]
    if not found:
        return {}
    speeds = {other.speed for other in found}
    if len(speeds) > 1 and way.speed not in speeds:
        names = ", ".join(f"{stage}@{speed}" for speed in sorted(speeds))
        raise ValueError(f"--against={against}: it was decoded at several speeds; name one of {names}")

    if way.speed in speeds:
        found = [other for other in found if other.speed == way.speed]
    # A row that was limited, sampled or trimmed in another way than this one says nothing about it.
    likeness = {other: _likeness(rows, way, other) for other in found}
    if not (found := [other for other in found if min(likeness[other])]):
        return {}
    of_seeds = rows[max(found, key=likeness.get)]
    seeds = [result["training_seed"] for result in of_seeds]
    return {result["folder"]: 100 * result["accuracy"] for result in of_seeds} | {
        seed: 100 * result["accuracy"]
        for seed, result in zip(seeds, of_seeds, strict=True)
        if seed and seeds.count(seed) == 1
    }


def _likeness(rows: Rows, way: Way, other: Way) -> list[int]:
    """How well a reference's limit, temperature and agreements go with a row's: 2 as its own, 1 none, 0 others."""
    pairs = {name: (getattr(way, name), getattr(other, name)) for name in LIKE}
    found = {name: 2 if its == own else 1 if its == "-" else 0 for name, (own, its) in pairs.items()}
    thinks_in = {rows[one][0].get("thinks_in") for one in (way, other)}
    if pairs["latent_limit"][0] != "-" and len(thinks_in) > 1:  # a number of latents is none of words
        found["latent_limit"] = 1 if pairs["latent_limit"][1] == "-" else 0
    return list(found.values())


def minus(results: list[dict], reference: dict[str, float]) -> str:
    """The mean difference to a reference in the same runs, with its interval; nothing where there is none."""
    pairs = [
        100 * result["accuracy"] - reference[origin]
        for result in results
        if (origin := result["folder"]) in reference or (origin := result["training_seed"]) in reference
    ]
    return f"{shown(mean_over_seeds(pairs), 1)}{of_some(pairs, results)}" if pairs else ""


def of_some(found: list, results: list[dict]) -> str:
    """Of how many a mean is, where that is not all of a row's seeds."""
    return f" (of {len(found)})" if len(found) < len(results) else ""


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
    cost = {name: sum(result["cost"][name] or 0 for result in results) / len(results) for name in results[0]["cost"]}
    # None: timed on another machine than the report was made on.
    is_timed = all(result["cost"]["seconds_per_question"] is not None for result in results)
    of_tests = {f"accuracy, % (seeds that use latents): {name}": _changed(results, name) for name in changes}
    return (
        {
            "thinks in": results[0]["thinks_in"] or "-",
            "forward passes": f"{cost['forward_passes']:.1f}",
            "MFLOP": f"{cost['flops'] / 1e6:.1f}",
            "KV KiB": f"{cost['kv_bytes'] / 1024:.1f}",
            "ms a question, in batches": f"{1000 * cost['seconds_per_question']:.1f}" if is_timed else "-",
        }
        | {OF_TRIMMING[name]: _mean(results, name) for name in of_trimming}
        | of_tests
    )


def _mean(results: list[dict], name: str) -> str:
    """The mean over seeds of what some rows have."""
    values = [result[name] for result in results if result.get(name) is not None]
    return f"{sum(values) / len(values):.1f}{of_some(values, results)}" if values else "-"


def _changed(results: list[dict], name: str) -> str:
    """The mean accuracy after a change to the latents, and in how many seeds it is lower for certain.

    As in "(2)"; "(2 of 3)" where in the other seeds too few answers could fall to say so.
    """
    found = [test for result in results for test in result["causal"] if test["intervention"] == name]
    if not found:
        return "-"
    accuracy = sum(test["accuracy"] for test in found) / len(found)
    told = [test["used"] for test in found if test["used"] is not None]
    lower = f"({sum(told)}{f' of {len(told)}' if len(told) < len(found) else ''})"
    return f"{100 * accuracy:.1f} {lower}{of_some(found, results)}"


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
        if not (rows := rows_of(options.folders, options.sampling)):
            parser.error(f"--sampling={options.sampling}: no result was decoded so")
        if options.against and not any(reference_of(rows, way, options.against) for way in rows):
            parser.error(f"--against={options.against}: no row can be compared with it")
        print("\n".join(table_of(rows, options.against, options.costs)))
        if told := told_of(rows):
            print(f"\n{told}")
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
