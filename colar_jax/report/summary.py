"""The result of a report in two sentences, written from its numbers."""

from collections.abc import Callable, Sequence

from colar_jax.report.number_text import length_text, percent
from colar_jax.report.results import Result
from colar_jax.report.rows import Row, complete_rows, datasets_of, table_rows
from colar_jax.statistics.intervals import CONFIDENCE, Interval
from colar_jax.statistics.paired import stratified_difference

_NOT_COMPARED = "So the rows say nothing about latents and words."


def summary(results: Sequence[Result]) -> str:
    """Two sentences: what latents reach and at which length, and what chains of thought do.

    Of several data sets the mean is meant, where rows have all of them; else the first set. Greedy decoding is meant
    where there is any. Of rows in latents the most accurate one at a trained speed is taken, the shortest of equals; it
    is called the best of so many. Rows that were asked other questions are left out: of the first that were asked the
    same ones, if there are several such groups, of one that has both latents and words.
    """
    rows, datasets = table_rows(results), datasets_of(results)
    sampling = rows[0].way.sampling if all(row.way.sampling == rows[0].way.sampling for row in rows) else "greedy"
    complete = [row for row in complete_rows(rows, datasets) if row.way.sampling == sampling]
    if complete:
        return _of(
            *_asked_the_same(complete, datasets),
            lambda row: row.mean_accuracy.of_share,
            lambda row: row.mean_length,
            lambda _: _mean_of(datasets),
        )
    dataset = datasets[0]
    chosen = [row for row in rows if dataset in row.results and row.way.sampling == sampling]
    if not chosen:  # its only results are of the other kind
        chosen = [row for row in rows if dataset in row.results]
    return _of(
        *_asked_the_same(chosen, [dataset]),
        lambda row: row.results[dataset].accuracy_over_questions,
        lambda row: row.results[dataset].mean_length,
        lambda row: f"of {row.results[dataset].num_questions:,} questions of {dataset}",
    )


def _asked_the_same(rows: Sequence[Row], datasets: Sequence[str]) -> tuple[list[Row], bool]:
    """Rows, on these data sets alone, that can be compared question by question, and whether there are others."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        results = {dataset: row.results[dataset] for dataset in datasets}
        asked = tuple((result.questions, result.num_questions) for result in results.values())
        groups.setdefault(asked, []).append(Row(row.way, results))
    chosen = max(groups.values(), key=lambda of_group: {"latents", "words"} <= set(map(_thinks_in, of_group)))
    return chosen, len(groups) > 1


def _of(
    rows: Sequence[Row],
    has_others: bool,
    accuracy: Callable[[Row], Interval],
    length: Callable[[Row], float],
    questions: Callable[[Row], str],
) -> str:
    def candidates(thinking: str) -> list[Row]:
        of_kind = [row for row in rows if _thinks_in(row) == thinking]
        return [row for row in of_kind if row.was_trained] or of_kind

    def best(thinking: str) -> Row | None:
        return max(candidates(thinking), key=lambda row: (accuracy(row).center, -length(row)), default=None)

    def named(row: Row) -> str:
        num_rows = len(candidates(_thinks_in(row)))
        return f"{_name(row)}, the best of {num_rows}," if num_rows > 1 else _name(row)

    def described(row: Row) -> str:
        interval = accuracy(row)
        ends = "" if interval.low is None else f" (95 % interval {percent(interval.low)} to {percent(interval.high)})"
        takes = f"after {length_text(length(row))} positions of reasoning" if length(row) else "without any reasoning"
        return f"{named(row)} answers {percent(interval.center)} % {questions(row)} right{ends}, {takes}"

    if not any(accuracy(row).center for row in rows):
        return f"Nothing was learned: none {questions(rows[0])} is answered right. {_NOT_COMPARED}"
    latents, words, neither = best("latents"), best("words"), best("")
    if latents is not None and words is not None:
        first = f"In latents, {described(latents)}."
        share = length(latents) / length(words) if length(words) else 0
        num_pairs = len(candidates("latents")) * len(candidates("words"))
        second = (
            f"In words, as a chain of thought, {named(words)} answers {percent(accuracy(words).center)} % right after "
            f"{length_text(length(words))} positions: {_verdict(latents, words, num_pairs)}"
            f"{f', at {100 * share:.0f} % of the length' if share else ''}."
        )
        return f"{first} {second}"
    shown = latents or words or neither
    how = {id(latents): "In latents, ", id(words): "In words, as a chain of thought, "}.get(id(shown), "")
    others = [row for row in (neither,) if row is not None and row is not shown]
    others = others or [row for row in rows if row is not shown]
    num_pairs = len(candidates(_thinks_in(shown)))
    if others:
        beside = min(others, key=lambda row: (length(row), -accuracy(row).center))
        takes = f"after {length_text(length(beside))} positions" if length(beside) else "without any reasoning"
        name = _name(beside)
        if beside is neither:  # the best of its kind
            name, num_pairs = named(beside), num_pairs * len(candidates(""))
        second = (
            f"{name} answers {percent(accuracy(beside).center)} % right {takes}: {_verdict(shown, beside, num_pairs)}."
        )
    else:
        second = f"Nothing else was {'asked the same questions' if has_others else 'measured beside it'}."
    return f"{how}{described(shown)}. {second}"


def _verdict(row: Row, other: Row, num_pairs: int) -> str:
    """Which of two rows is more accurate, and whether the paired interval over their questions says so too.

    They are the best of so many pairs, each of which might have been shown. So the interval is one that holds for all
    of them at once: the best of equals looks better than the others by chance alone.
    """
    pairs = [(result.right_share_N, other.results[name].right_share_N) for name, result in row.results.items()]
    paired = stratified_difference(pairs, confidence=1 - (1 - CONFIDENCE) / num_pairs)
    size, direction = f"{100 * abs(paired.center):.1f} points", "better" if paired.center > 0 else "worse"
    whose = "95 % interval" if num_pairs == 1 else "95 % interval for a choice among so many"
    if paired.low is None or paired.low <= 0 <= paired.high:
        return f"the difference of {size} is within its {whose}"
    return f"the first is {size} {direction}, beyond the {whose}"


def _thinks_in(row: Row) -> str:
    return next(iter(row.results.values())).thinks_in


def _name(row: Row) -> str:
    """As in "colar (speed 2)"."""
    stage, *rest = row.way.name.removesuffix(f", {row.way.sampling}").split(", ")
    return f"{stage} ({', '.join(rest)})" if rest else stage


def _mean_of(datasets: Sequence[str]) -> str:
    return f"of the questions (mean of {len(datasets)} data sets)"
