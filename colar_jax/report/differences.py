"""Every row of a table beside one of them, question by question."""

import dataclasses
from collections.abc import Sequence

from colar_jax.errors import UserError
from colar_jax.report.results import AS_CONFIGURED, NO_SPEED, Result, Way
from colar_jax.report.rows import Row
from colar_jax.statistics.intervals import Interval
from colar_jax.statistics.paired import paired_difference

REFERENCE_METHOD = "colar"


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much more often, as a share of the questions, a way is right than the reference way, on one data set."""

    way: Way
    reference: Way
    dataset: str
    accuracy: Interval


def differences(rows: Sequence[Row], reference: str = "") -> list[Difference]:
    """Accuracy minus that of a reference row, with its paired bootstrap interval, for every row and data set.

    A row is compared with the reference's row of the same sampling, and of the same temperature and limit where there
    is one. Data sets whose questions are not the same ones are left out.

    Args:
        reference: which stage at which speed, as `[run:]stage[@speed]`. Empty: of one run, the first CoLaR stage at the
            lowest speed that it was trained at, else the first stage with trimmed rows, as it is without, and no
            differences where there is neither; of several runs, every row of
            a later run is compared with the first run's row of the same stage and speed. `run:stage` without a speed,
            of several runs: the rows of other runs with that stage at their own speed, where it has it.

    Raises:
        UserError: no row is the `reference`; names those that there are.
    """
    found = []
    for row in rows:
        beside = _reference_of(row, rows, reference)
        if beside is None or beside.way == row.way:
            continue
        for dataset, result in row.results.items():
            other = beside.results.get(dataset)
            if other is not None and (other.questions, other.num_questions) == (result.questions, result.num_questions):
                interval = paired_difference(result.right_share_N, other.right_share_N)
                found.append(Difference(row.way, beside.way, dataset, interval))
    return found


def not_compared(rows: Sequence[Row], reference: str = "") -> list[str]:
    """A sentence for each run whose stages and speeds the first run lacks, or the other way round; [] for one run.

    With a `reference` only for sets of which a run was asked other questions than the reference's run.
    """
    runs = list(dict.fromkeys(row.way.run for row in rows))
    if len(runs) < 2:
        return []
    first = _named(rows, reference)[0].way.run if reference else runs[0]
    sentences = []
    for run in runs:
        for there, here in () if reference or run == first else ((run, first), (first, run)):
            lacking = [row.way for row in rows if row.way.run == there and not _same_place(row.way, here, rows)]
            names = list(dict.fromkeys(_reference_name(_place(way)).removeprefix(f"{there}:") for way in lacking))
            if names:
                sentences.append(f"Not compared: {', '.join(names)} of {there}, which {here} does not have.")
        sentences += [
            f"Not compared: {dataset} of {run}, which has other questions than that of {first}."
            for dataset in _with_other_questions(rows, run, first)
        ]
    return sentences


def _with_other_questions(rows: Sequence[Row], run: str, first: str) -> list[str]:
    """The data sets of both runs that share a name and not the questions."""
    asked: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        for dataset, result in row.results.items():
            asked.setdefault((row.way.run, dataset), set()).add(result.questions)
    names = dict.fromkeys(dataset for of_run, dataset in asked if of_run == run)
    return [name for name in names if asked.get((first, name), asked[run, name]) != asked[run, name]]


def _reference_of(row: Row, rows: Sequence[Row], reference: str) -> Row | None:
    """What a row is compared with."""
    first_run = rows[0].way.run
    if reference:
        named = _untrimmed(_named(rows, reference))
        same_speed = [other for other in named if other.way.run != row.way.run and other.way.speed == row.way.speed]
        return _counterpart(row.way, same_speed) or _counterpart(row.way, _one_place(named))
    if all(other.way.run == first_run for other in rows):
        return _counterpart(row.way, _untrimmed(_default(rows)))
    return None if row.way.run == first_run else _counterpart(row.way, _same_place(row.way, first_run, rows))


def _same_place(way: Way, run: str, rows: Sequence[Row]) -> list[Row]:
    """The rows of a run that have the stage and speed of `way`."""
    return [row for row in rows if _place(row.way) == (run, way.stage, way.speed)]


def check_reference(reference: str, places: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Which of the places, (run, stage, speed) of each row, a reference names, all of one run; UserError for none."""
    if not reference:
        return []
    run, _, rest = reference.rpartition(":")
    stage, _, speed = rest.partition("@")
    found = [place for place in places if place == (run or place[0], stage, speed or place[2])]
    if not found:
        known = ", ".join(dict.fromkeys(map(_reference_name, places)))
        raise UserError(f"--reference={reference}: no row of the table is that; name one of {known}")
    return [place for place in found if place[0] == found[0][0]]


def _named(rows: Sequence[Row], reference: str) -> list[Row]:
    places = check_reference(reference, [_place(row.way) for row in rows])
    return [row for row in rows if _place(row.way) in places]


def _default(rows: Sequence[Row]) -> list[Row]:
    def trained(result: Result) -> bool:
        return result.method == REFERENCE_METHOD and result.was_trained

    of_colar = [row for row in rows if all(trained(result) for result in row.results.values())]
    trimmed_stages = {row.way.stage for row in rows if row.way.trim != AS_CONFIGURED}
    return _one_place(of_colar or [row for row in rows if row.way.stage in trimmed_stages])


def _untrimmed(rows: Sequence[Row]) -> list[Row]:
    """What trimmed rows of the same run are compared with."""
    return [row for row in rows if row.way.trim == AS_CONFIGURED]


def _one_place(rows: Sequence[Row]) -> list[Row]:
    """The rows of the run, stage and speed that come first."""
    return [row for row in rows if _place(row.way) == _place(rows[0].way)]


def _place(way: Way) -> tuple[str, str, str]:
    return way.run, way.stage, way.speed


def _reference_name(place: tuple[str, str, str]) -> str:
    run, stage, speed = place
    speed = "" if speed == NO_SPEED else f"@{speed}"
    return f"{run}:{stage}{speed}" if run else f"{stage}{speed}"


def _counterpart(way: Way, candidates: list[Row]) -> Row | None:
    """The reference's row of the same sampling that is most like `way`."""

    def alike(row: Row) -> tuple[bool, ...]:
        alike = (getattr(row.way, name) == getattr(way, name) for name in ("temperature", "latent_limit", "trim"))
        return tuple(alike)

    return max((row for row in candidates if row.way.sampling == way.sampling), key=alike, default=None)
