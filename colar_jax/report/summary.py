"""The result of a report in two sentences, written from its numbers."""

from collections.abc import Callable, Sequence

from colar_jax.report.number_text import length_text, percent
from colar_jax.report.results import Result
from colar_jax.report.rows import Row, complete_rows, datasets_of, table_rows
from colar_jax.statistics.intervals import Interval
from colar_jax.statistics.paired import paired_difference

_NOT_COMPARED = "So the rows say nothing about latents and words."


def summary(results: Sequence[Result]) -> str:
    """Two sentences: what latents reach and at which length, and what chains of thought do.

    Of several data sets the mean is meant, where rows have all of them; else the first set. Greedy decoding is meant
    where there is any. Of rows in latents the most accurate one at a trained speed is taken, the shortest of equals.
    """
    rows, datasets = table_rows(results), datasets_of(results)
    sampling = rows[0].way.sampling if all(row.way.sampling == rows[0].way.sampling for row in rows) else "greedy"
    complete = [row for row in complete_rows(rows, datasets) if row.way.sampling == sampling]
    if complete:
        return _of(
            complete, lambda row: row.mean_accuracy.of_share, lambda row: row.mean_length, lambda _: _mean_of(datasets)
        )
    dataset = datasets[0]
    chosen = [row for row in rows if dataset in row.results and row.way.sampling == sampling]
    if not chosen:  # its only results are of the other kind
        chosen = [row for row in rows if dataset in row.results]
    return _of(
        chosen,
        lambda row: row.results[dataset].accuracy_over_questions,
        lambda row: row.results[dataset].mean_length,
        lambda row: f"of {row.results[dataset].num_questions:,} questions of {dataset}",
    )


def _of(
    rows: Sequence[Row],
    accuracy: Callable[[Row], Interval],
    length: Callable[[Row], float],
    questions: Callable[[Row], str],
) -> str:
    def best(thinking: str) -> Row | None:
        of_kind = [row for row in rows if _thinks_in(row) == thinking]
        trained = [row for row in of_kind if row.was_trained] or of_kind
        return max(trained, key=lambda row: (accuracy(row).center, -length(row)), default=None)

    def described(row: Row) -> str:
        interval = accuracy(row)
        ends = "" if interval.low is None else f" (95 % interval {percent(interval.low)} to {percent(interval.high)})"
        takes = f"after {length_text(length(row))} positions of reasoning" if length(row) else "without any reasoning"
        return f"{_name(row)} answers {percent(interval.center)} % {questions(row)} right{ends}, {takes}"

    if not any(accuracy(row).center for row in rows):
        return f"Nothing was learned: none {questions(rows[0])} is answered right. {_NOT_COMPARED}"
    latents, words, neither = best("latents"), best("words"), best("")
    if latents is not None and words is not None:
        first = f"In latents, {described(latents)}."
        share = length(latents) / length(words) if length(words) else 0
        second = (
            f"In words, as a chain of thought, {_name(words)} answers {percent(accuracy(words).center)} % right after "
            f"{length_text(length(words))} positions: {_verdict(latents, words, accuracy)}"
            f"{f', at {100 * share:.0f} % of the length' if share else ''}."
        )
        return f"{first} {second}"
    shown = latents or words or neither
    how = {id(latents): "In latents, ", id(words): "In words, as a chain of thought, "}.get(id(shown), "")
    others = [row for row in (neither,) if row is not None and row is not shown]
    others = others or [row for row in rows if row is not shown]
    if others:
        beside = min(others, key=lambda row: (length(row), -accuracy(row).center))
        takes = f"after {length_text(length(beside))} positions" if length(beside) else "without any reasoning"
        second = (
            f"{_name(beside)} answers {percent(accuracy(beside).center)} % right {takes}: "
            f"{_verdict(shown, beside, accuracy)}."
        )
    else:
        second = "Nothing else was measured beside it."
    return f"{how}{described(shown)}. {second}"


def _verdict(row: Row, other: Row, accuracy: Callable[[Row], Interval]) -> str:
    """Which of two rows is more accurate, and whether the paired interval over their questions says so too."""
    difference = accuracy(row).center - accuracy(other).center
    size, direction = f"{100 * abs(difference):.1f} points", "better" if difference > 0 else "worse"
    pairs = [(result, other.results[name]) for name, result in row.results.items() if name in other.results]
    if len(pairs) != 1 or any((a.questions, a.num_questions) != (b.questions, b.num_questions) for a, b in pairs):
        return f"the first is {size} {direction}" if difference else "they are equal"
    ((a, b),) = pairs
    paired = paired_difference(a.right_share_N, b.right_share_N)
    if paired.low is None or paired.low <= 0 <= paired.high:
        return f"the difference of {size} is within its 95 % interval"
    return f"the first is {size} {direction}, beyond the 95 % interval"


def _thinks_in(row: Row) -> str:
    return next(iter(row.results.values())).thinks_in


def _name(row: Row) -> str:
    """As in "colar (speed 2)"."""
    stage, *rest = row.way.name.removesuffix(f", {row.way.sampling}").split(", ")
    return f"{stage} ({', '.join(rest)})" if rest else stage


def _mean_of(datasets: Sequence[str]) -> str:
    return f"of the questions (mean of {len(datasets)} data sets)"
