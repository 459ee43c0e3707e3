"""The ledger: what a finished run measured, beside what the paper reports of the same settings.

python -m colar_jax.evaluate --ledger --workdir=runs/gsm8k_colar        compare
python -m colar_jax.report.ledger > docs/ledger.md                  the page of all rows
"""

import dataclasses
from pathlib import Path

from colar_jax.errors import UserError
from colar_jax.json_object import read_json_object
from colar_jax.report.files import JSON_FILE
from colar_jax.report.published_results import MEAN, PUBLISHED, USUAL, Published

# How far a run may be from the paper: another seed, another implementation. An independent run of the paper's own
# weights differs by 0.3 to 1.8 points.
ACCURACY_TOLERANCE = 3.0  # points
LENGTH_TOLERANCE = 0.15  # of #L
SAMPLING = "sampled"  # as the paper decodes


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One published number pair, and what a run has in its place."""

    published: Published
    dataset: str
    stage: str
    accuracy: float  # in %, of the run
    length: float

    @property
    def expected(self) -> tuple[float, float | None]:
        return self.published.cells[self.dataset]

    @property
    def agrees(self) -> bool:
        """Whether accuracy, and #L where it is published, are within the tolerances."""
        accuracy, length = self.expected
        if abs(self.accuracy - accuracy) > ACCURACY_TOLERANCE:
            return False
        return length is None or abs(self.length - length) <= LENGTH_TOLERANCE * length + 1e-9


def compare(config: dict, report: dict) -> list[Comparison]:
    """Every published number that this run measured too, in the ledger's order.

    Args:
        config: the run's `config.json`; report: its `report.json`.

    Raises:
        UserError: none of the run's stages is in the ledger; says what the ledger would need.
    """
    stages = dict.fromkeys(row["stage"] for row in report["results"])
    found = []
    for published in PUBLISHED:
        for stage in stages:
            if _is_of(published, config, config["stages"][stage]):
                found.extend(_cells(published, stage, report))
    if not found:
        raise UserError(
            f"no row of the ledger is of this run: base {config['model']['base'] or 'none'!r}, trained on "
            f"{config['data']['train']!r}, sampled at a published speed; docs/ledger.md has the commands of all rows"
        )
    return found


def comparison_table(comparisons: list[Comparison]) -> str:
    """The comparisons as Markdown."""
    lines = ["| row | data set | stage | here | published | within |", "| --- | --- | --- | --- | --- | --- |"]
    for one in comparisons:
        lines.append(
            f"| {one.published.name} | {one.dataset} | {one.stage} | {one.accuracy:.2f} / {one.length:.2f} | "
            f"{_cell(one.expected)} | {'yes' if one.agrees else 'NO'} |"
        )
    return "\n".join(lines) + f"\n\n{_TOLERANCES}\n"


def compare_run(workdir: Path) -> str:
    """The table of a run's folder. UserError where it has no report, or nothing that is published."""
    if not (workdir / JSON_FILE).is_file():
        raise UserError(f"{workdir} has no {JSON_FILE}: evaluate the run first")
    config, report = (read_json_object(workdir / name) for name in ("config.json", JSON_FILE))
    return comparison_table(compare(config, report))


def ledger_page() -> str:
    """docs/ledger.md: every published number, the command that should give it, and that it was not run here."""
    lines = [
        _HEADER,
        "",
        "| row | command, after `python -m colar_jax.train` | published | status |",
        "| --- " * 4 + "|",
    ]
    for row in PUBLISHED:
        cells = "; ".join(f"{dataset} {_cell(cell)}" for dataset, cell in row.cells.items())
        lines.append(f"| {row.name} | `{row.command}` | {cells} | {_STATUS[row.train]} |")
    return "\n".join(lines) + "\n"


_TOLERANCES = (
    f"Accuracy % / #L of sampled answers, mean over seeds. Within: {ACCURACY_TOLERANCE:g} points of accuracy, and "
    f"{LENGTH_TOLERANCE:.0%} of #L."
)
_STATUS = {
    "hub:gsm8k_aug": "not run here: needs the weights and GSM8K-Aug",
    "hub:math": "not run here: needs the weights and MATH",
}
_HEADER = f"""# Ledger: the paper's numbers, and the runs that should give them

Every number of the paper's tables (arXiv 2505.16552), with its command. When a run is done,

```
python -m colar_jax.evaluate --ledger --workdir=runs/gsm8k_colar
```

puts what it measured beside its rows. {_TOLERANCES}
An independent run of its released weights gave CoT 49.96 / 25.6, c = 2 40.41 / 12.84, c = 5 24.97 / 5.65.

The published Coconut and Distill were evaluated without the cache, and iCoT with another prompt than it was trained
with ([methods.md](methods.md#departures)): rows of these three need not agree. Others measure, with the same base on
GSM8K: CoT 58.4, Coconut 33.2, CODI 52.7, iCoT 19.0 (SIM-CoT's tables).

`mean` is over the four grade-school sets. This page is made by `python -m colar_jax.report.ledger`; the numbers are
in `report/published_results.py`."""


def _is_of(published: Published, config: dict, stage: dict) -> bool:
    """Whether a stage of a run has the settings of a published row."""
    settings = {
        "deterministic": config["model"]["latent_head"]["deterministic"],
        "supervise_steps": stage["latent"]["supervise_steps"],
        "pooling": stage["latent"]["pooling"],
        "loss": stage["latent"]["loss"],
        "trainer": stage["trainer"],
        "aggregation": stage["rl"]["loss_aggregation"],
    }
    # Reinforcement learning has no latent loss of its own; the settings of CoLaR say nothing of another method.
    ignored = () if published.method == "colar" else tuple(USUAL)
    ignored += ("loss",) if published.settings["trainer"] == "grpo" else ()
    same_run = (config["model"]["base"], config["data"]["train"], stage["method"])
    return same_run == (published.base, published.train, published.method) and all(
        settings[name] == value for name, value in published.settings.items() if name not in ignored
    )


def _cells(published: Published, stage: str, report: dict) -> list[Comparison]:
    def is_row(row: dict) -> bool:
        return (row["stage"], row["speed"], row["sampling"]) == (stage, published.speed, SAMPLING)

    measured = {
        row.get("dataset", MEAN): (row["accuracy_over_seeds"]["center"], row["mean_length"])
        for row in (*report["results"], *report["means"])
        if is_row(row)
    }
    if len(measured) == 1 and set(published.cells) == {"math"}:  # a single test set, whatever the run calls it
        measured = {"math": next(iter(measured.values()))}
    return [
        Comparison(published, dataset, stage, 100 * measured[dataset][0], measured[dataset][1])
        for dataset in published.cells
        if dataset in measured
    ]


def _cell(expected: tuple[float, float | None]) -> str:
    accuracy, length = expected
    return f"{accuracy:g}" if length is None else f"{accuracy:g} / {length:g}"


if __name__ == "__main__":
    print(ledger_page(), end="")
