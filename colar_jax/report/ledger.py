"""The ledger: what a finished run measured, beside what the paper reports of the same settings.

python -m colar_jax.evaluate --ledger --workdir=runs/gsm8k_colar        compare
python -m colar_jax.report.ledger > docs/ledger.md                  the page of all rows
"""

import dataclasses
import math
from pathlib import Path

from colar_jax.errors import UserError
from colar_jax.json_object import read_json_object
from colar_jax.report.files import JSON_FILE
from colar_jax.report.ledger_settings import missing_settings, stages_behind
from colar_jax.report.published_results import MEAN_OF_SETS, NUM_QUESTIONS, PUBLISHED, Published, wilson_of_share
from colar_jax.report.results import AS_CONFIGURED
from colar_jax.report.results_of_others import OF_OTHERS
from colar_jax.statistics.intervals import Interval

LENGTH_TOLERANCE = 0.15  # of #L
ALL_ROWS: tuple[Published, ...] = (*PUBLISHED, *OF_OTHERS)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One published number pair, and what a run has in its place."""

    published: Published
    dataset: str
    stage: str
    accuracy: Interval  # of the run, over questions
    length: float
    differences: tuple[str, ...]  # what the run did otherwise than the row says; empty for a reproduction

    @property
    def agrees(self) -> bool:
        """Whether accuracy differs by no more than both intervals allow, and #L, where published, by its tolerance.

        The interval of the difference is Newcombe's, from the two Wilson intervals ("Interval estimation for the
        difference between independent proportions", Statistics in Medicine 17 (1998)).
        """
        ours, theirs, (_, length) = (
            self.accuracy,
            self.published.interval(self.dataset),
            self.published.cells[self.dataset],
        )
        if ours.center > theirs.center:
            allowed = math.hypot(ours.center - ours.low, theirs.high - theirs.center)
        else:
            allowed = math.hypot(ours.high - ours.center, theirs.center - theirs.low)
        if abs(ours.center - theirs.center) > allowed:
            return False
        return length is None or abs(self.length - length) <= LENGTH_TOLERANCE * length + 1e-9


def compare(config: dict, report: dict) -> list[Comparison]:
    """Every published number that this run measured too, in the ledger's order.

    A number is compared with the row whose settings are the run's; where there is none, with the row that has the
    fewest other settings, and those are named.

    Args:
        config: the run's `config.json`; report: its `report.json`, which knows how it was decoded where flags of
            `evaluate` said otherwise.

    Raises:
        UserError: none of the run's numbers is in the ledger; says what the ledger would need.
    """
    told = report.get("made", {}).get("settings", {}).get("", {})
    config = config | {group: config.get(group, {}) | settings for group, settings in told.items()}
    found: dict[tuple[str, str, str], list[Comparison]] = {}  # of a stage at a speed, trimmed or not: a row's numbers
    for published in ALL_ROWS:
        for stage in dict.fromkeys(row["stage"] for row in report["results"]):
            cells, place = _cells(published, config, stage, report), (stage, published.speed, published.trim)
            if cells and (place not in found or _distance(cells) < _distance(found[place])):
                found[place] = cells
    if not found:
        raise UserError(
            f"no row of the ledger is of this run: trained on {config['data']['train']!r} with the methods "
            f"{', '.join(dict.fromkeys(stage['method'] for stage in config['stages'].values()))}, and sampled on no "
            "published test set at a published speed; docs/ledger.md has the commands of all rows"
        )
    return sorted((one for cells in found.values() for one in cells), key=lambda one: ALL_ROWS.index(one.published))


def comparison_table(comparisons: list[Comparison]) -> str:
    """The comparisons as Markdown: reproductions, and after them what differs from every row."""
    lines = ["| row | data set | stage | here | published | within |", "| --- | --- | --- | --- | --- | --- |"]
    for one in sorted(comparisons, key=lambda one: bool(one.differences)):
        within = "no reproduction" if one.differences else "yes" if one.agrees else "NO"
        lines.append(
            f"| {one.published.name} | {one.dataset} | {one.stage} | {_cell(one.accuracy, one.length)} | "
            f"{_cell(one.published.interval(one.dataset), one.published.cells[one.dataset][1])} | {within} |"
        )
    text = "\n".join(lines) + f"\n\n{_TOLERANCES}\n"
    others: dict[tuple[str, ...], list[str]] = {}
    for one in comparisons:
        if one.differences:
            others.setdefault(one.differences, []).append(f"{one.published.name} on {one.dataset}")
    for differences, rows in others.items():
        text += f"\nNo reproduction of {', '.join(rows)}: {'; '.join(differences)}.\n"
    return text


def compare_run(workdir: Path) -> str:
    """The table of a run's folder. UserError where it has no report, or nothing that is published."""
    if not (workdir / JSON_FILE).is_file():
        raise UserError(f"{workdir} has no {JSON_FILE}: evaluate the run first")
    config, report = (read_json_object(workdir / name) for name in ("config.json", JSON_FILE))
    try:
        return comparison_table(compare(config, report))
    except UserError as error:
        raise UserError(f"{workdir}: {error}") from None
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, ArithmeticError) as error:
        raise UserError(
            f"{workdir}: config.json and {JSON_FILE} are not those of a run ({error!r}): evaluate the run again"
        ) from error


def ledger_page() -> str:
    """docs/ledger.md: every published number, the command that should give it, and that it was not run here."""
    lines = [
        _HEADER,
        "",
        "| row | command, after `python -m colar_jax.train` | published | status |",
        "| --- " * 4 + "|",
    ]
    for row in ALL_ROWS:
        cells = "; ".join(f"{name} {_cell(row.interval(name), length)}" for name, (_, length) in row.cells.items())
        name = f"{row.name} (arXiv {row.source}, {row.sampling})" if row.source else row.name
        lines.append(f"| {name} | `{row.command}` | {cells} | {_STATUS[row.train]} |")
    return "\n".join(lines) + "\n"


_TOLERANCES = (
    "Accuracy % [95 % Wilson interval over the questions of the set] / #L, mean over seeds of sampled answers. Within: "
    "the two accuracies differ by no more than their intervals together allow (Newcombe), #L by "
    f"{LENGTH_TOLERANCE:.0%}. The intervals are of questions: another seed of training moves a number further."
)
_STATUS = {
    "hub:gsm8k_aug": "not run here: needs the weights and GSM8K-Aug",
    "hub:whynlp/gsm8k-aug-nl": "not run here: needs the weights and GSM8K-Aug-NL",
    "hub:math": "not run here: needs the weights and MATH",
    "": "not run here: needs the weights, long chains of a reasoning model, and MATH-500 as a file",
}
_HEADER = f"""# Ledger: the paper's numbers, and the runs that should give them

Every number of the paper's tables (arXiv 2505.16552), with its command; after them those of other papers that
a config here can give, which name their source. When a run is done,

```
python -m colar_jax.evaluate --ledger --workdir=runs/gsm8k_colar
```

puts what it measured beside its rows. {_TOLERANCES}

A run counts for a row only if it has the settings that the row names: base, training data (all of it), how answers are
compared, adapters (rank, alpha, dropout, targets), length of training and learning rate, decoding (temperatures, top-p,
limits), number of questions and of sampled decodes; of the paper's rows the stages that they start from and how long
those were trained, where they are of the same run; for CoLaR the speeds trained, the weight, kind and pooling of the
latent loss, what is supervised, and the latent head. A stage that has not taken all its steps, or starts from one that
has not, counts for none. Otherwise the nearest row is shown, and what differs. So an ablation does not pass for the
full model, whose numbers it may have. How many problems an update has is not compared.

What a source does not say is not compared either: of other papers' rows how many tokens an answer may have; of adaptive
latents how many a chain may have; of "GRPO of chains in words" the adapters; of TrimR's rows ("TrimR" and
"R1-Distill-Qwen-32B, not trimmed"), for which nothing is trained, adapters and all of decoding but the temperature of
the chain.

An independent run of its released weights gave CoT 49.96 / 25.6, c = 2 40.41 / 12.84, c = 5 24.97 / 5.65.

The published Coconut and Distill were evaluated without the cache, and iCoT with another prompt than it was trained
with ([methods.md](methods.md#departures)): rows of these three need not agree. Others measure, with the same base on
GSM8K: CoT 58.4, Coconut 33.2, CODI 52.7, iCoT 19.0 (SIM-CoT's tables).

Of the explicit class, TrimR and reinforcement learning of chains have numbers that a config here can give. TrimR trains
nothing; its base is of 32B, 40 % of whose tokens go (of QwQ-32B 14 %), and no set loses more than 1.7 points. Budget
forcing (arXiv 2501.19393) and concise self-training (arXiv 2502.20122) publish none on a base and a set that are here:
`eval.word_budgets` and `configs/explicit.py` measure them.

`mean` is over the four grade-school sets. This page is made by `python -m colar_jax.report.ledger`; the numbers are
in `report/published_results.py`."""


def _distance(cells: list[Comparison]) -> int:
    """How many settings a row has that the run has not."""
    return min(len(one.differences) for one in cells)


def _cells(published: Published, config: dict, stage: str, report: dict) -> list[Comparison]:
    """What a stage measured of a row's numbers; [] where its method or trainer is another."""
    settings = config["stages"][stage]
    if (settings["method"], settings["trainer"]) != (published.method, published.settings["trainer"]):
        return []
    way = {"stage": stage, "speed": published.speed, "sampling": published.sampling}
    way |= {"temperature": AS_CONFIGURED, "latent_limit": AS_CONFIGURED, "trim": published.trim}
    rows = [row for row in report["results"] if all(row.get(name, value) == value for name, value in way.items())]
    measured = {row["dataset"]: (row["accuracy_over_seeds"]["center"], row) for row in rows}
    if len(measured) == 1 and config["data"]["train"] == published.train == "hub:math":
        measured = {"math": next(iter(measured.values()))}  # a single test set, whatever the run calls it
    means = [row for row in report["means"] if all(row.get(name, value) == value for name, value in way.items())]
    if means and set(measured) == set(published.sets_of(MEAN_OF_SETS)):
        measured[MEAN_OF_SETS] = (means[0]["accuracy_over_seeds"]["center"], means[0])
    unfinished = report.get("made", {}).get("unfinished", {}).get("", {})
    differences = [
        *missing_settings(published.settings, config, stage),
        *(f"{name} unfinished: {unfinished[name]}" for name in stages_behind(config, stage) if name in unfinished),
    ]
    found = []
    for dataset in published.cells:
        if dataset in measured:
            accuracy, row = measured[dataset]
            sizes = {name: measured[name][1]["num_questions"] for name in published.sets_of(dataset)}
            others = [
                f"{size:,} questions of {name}, not {NUM_QUESTIONS[name]:,}"
                for name, size in sizes.items()
                if size != NUM_QUESTIONS[name]
            ]
            num_seeds = min(measured[name][1]["num_seeds"] for name in sizes)
            if num_seeds < published.num_seeds:
                others.append(f"sampled {num_seeds} times, not {published.num_seeds}")
            interval = wilson_of_share(accuracy, list(sizes.values()))
            found.append(Comparison(published, dataset, stage, interval, row["mean_length"], (*differences, *others)))
    return found


def _cell(accuracy: Interval, length: float | None) -> str:
    """As in "26.8 [24.5, 29.3] / 5.57"."""
    low, high = 100 * accuracy.low, 100 * accuracy.high
    return f"{100 * accuracy.center:.4g} [{low:.1f}, {high:.1f}]{'' if length is None else f' / {length:.3g}'}"


if __name__ == "__main__":
    print(ledger_page(), end="")
