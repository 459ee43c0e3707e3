"""The tables and pictures of benchmarks/speeds.py, means over seeds with their 95 % t-interval."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from speeds_trained import EXPERIMENTS, STARTS

from colar_jax.statistics.intervals import mean_over_seeds

# Inside a band, and its two ends.
LINES = {"2.5": ("2.3", "2.7"), "4.5": ("4.3", "4.7")}


def shown(values: list[float], digits: int = 1) -> str:
    """The mean, and the interval's half width where more than one seed gives it one."""
    interval = mean_over_seeds(values)
    spread = "" if interval.half_width is None else f" ± {interval.half_width:.{digits}f}"
    return f"{interval.center:.{digits}f}{spread}"


def print_table(cells: list[dict], experiment: str, pictures: Path | None) -> None:
    """Rows are speeds; each arm has accuracy in %, and #L in % of the gold number of groups.

    Args:
        pictures: the folder that one of speeds that a model chooses is drawn into.
    """
    of_arms = {arm: [c for c in cells if (c["experiment"], c["arm"]) == (experiment, arm)]
               for arm in EXPERIMENTS[experiment]}  # fmt: skip
    of_arms = {arm: found for arm, found in of_arms.items() if found}
    if not of_arms:
        return
    if experiment in STARTS:
        print_own_speeds(of_arms, experiment)
        if pictures is not None:
            draw_own_speeds(of_arms, pictures / f"{experiment}.png")
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
        fixed = [[of for speed, of in cell["speeds"].items() if speed != "own"] for cell in found]
        slowest = [max(of["forward_passes"] for of in speeds) for speeds in fixed]
        of_slowest = [100 * one["forward_passes"] / passes for one, passes in zip(own, slowest, strict=True)]
        columns += [shown(falls), shown(costs), shown(of_slowest)]
        columns.append(of_some(correlations, found))
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


def of_some(correlations: list[float], cells: list[dict]) -> str:
    """Rank correlations, and of how many cells they are: of one that says the same to all there is none."""
    if not correlations:
        return "-"
    mean = shown(correlations, 2)
    return mean if len(correlations) == len(cells) else f"{mean} (of {len(correlations)})"


def print_chosen(cells: list[dict]) -> None:
    """The model's own speed beside the best fixed one."""
    if not cells:
        return
    falls, costs, correlations = compared(cells)
    print(f"\nOwn speed against the best fixed one: {shown(falls)} points at {shown(costs)} % of its forward passes; ")
    print(f"rank correlation of the speed with the number of operations {of_some(correlations, cells)}")
    print("mean speed by operations, first seed:", cells[0]["chosen"]["mean_by_operations"])
