"""The report for people: the paper's Table 1 (METHOD.md section 2), what an answer costs, who is better than whom."""

from collections.abc import Sequence

from colar_jax.report.differences import Difference
from colar_jax.report.number_text import difference_text, length_text, percent, plus_minus, quantity
from colar_jax.report.results import AS_CONFIGURED, NO_SPEED, SAMPLINGS, Result, Way
from colar_jax.report.rows import Row, complete_rows, datasets_of, table_rows


def markdown_table(results: Sequence[Result]) -> str:
    """The table, and below it what its intervals are, how many questions and seeds, and where reasoning was cut.

    A cell reads `92.1 ± 0.4 [90.3, 93.6] / 14.3`: accuracy in %, the half width of its t-interval over seeds (left out
    for one seed), its Wilson interval over questions, mean #L. A last column holds the mean over data sets when there
    is more than one; a row that lacks a data set has no mean, for it could not be compared with the others. Runs,
    limits and temperatures have a column where they differ.

    Raises:
        UserError: there are no results, or two are for the same cell.
    """
    rows, datasets = table_rows(results), datasets_of(results)
    complete = complete_rows(rows, datasets)
    lines = []
    for row in rows:
        cells = [_result_cell(row.results[dataset]) if dataset in row.results else "-" for dataset in datasets]
        if len(datasets) > 1:
            cells.append(_mean_cell(row) if row in complete else "-")
        lines.append(cells)
    header = [*datasets, *(["mean"] if len(datasets) > 1 else [])]
    return f"{_table(rows, header, lines)}\n\n{_legend(results)}{_remarks(rows)}\n"


def cost_table(results: Sequence[Result]) -> str:
    """What an answer of each row costs, and what several samples of it are worth; "" where no cost was measured."""
    rows = table_rows(results)
    header = ["data set", "#L", "forward passes", "FLOPs", "KV cache", "ms a question", "pass@k", "majority@k"]
    used, lines = [], []
    for row in rows:
        for dataset, result in row.results.items():
            if result.cost is not None:
                used.append(row)
                lines.append([dataset, *_cost_cells(result)])
    if not used:
        return ""
    return (
        f"## What an answer costs\n\n{_table(used, header, lines)}\n\n"
        "Means over examples. Forward passes follow one another: the prompt's, one a thought, one an answer token. "
        "FLOPs of the matrix products and bytes of keys and values are counted from the model's shapes; the time is "
        "measured, a batch's over its questions. pass@k: one of k samples is right; majority@k: the most frequent "
        "answer of k is; k is the number of seeds.\n"
    )


def differences_table(found: Sequence[Difference]) -> str:
    """Accuracy minus that of the reference row, on the same questions; "" where there is nothing to compare."""
    if not found:
        return ""
    datasets = list(dict.fromkeys(difference.dataset for difference in found))
    of_way: dict[Way, dict[str, Difference]] = {}
    for difference in found:
        of_way.setdefault(difference.way, {})[difference.dataset] = difference
    references = list(dict.fromkeys(difference.reference.name for difference in found))
    lines = [
        f"| {way.name} | "
        + " | ".join(difference_text(of_set[name].accuracy) if name in of_set else "-" for name in datasets)
        + " |"
        for way, of_set in of_way.items()
    ]
    head = [f"| minus {' / '.join(references)} | {' | '.join(datasets)} |", "| --- |" + " --- |" * len(datasets)]
    return (
        "## Differences on the same questions\n\n"
        + "\n".join([*head, *lines])
        + "\n\nPercentage points [95 % paired bootstrap interval over questions], seeds averaged. An interval without "
        "0 in it is a difference that other questions of the kind would show as well.\n"
    )


def causal_table(causal: Sequence[dict]) -> str:
    """Whether the latents are used: accuracy when something is done to them; "" without such a test."""
    if not causal:
        return ""
    columns = {"run": "run", "dataset": "data set", "stage": "stage", "speed": "speed", "intervention": "intervention"}
    shown = [name for name in columns if any(test.get(name) for test in causal)]
    names = [*(columns[name] for name in shown), "accuracy", "difference", "used"]
    lines = [f"| {' | '.join(names)} |", "| --- |" + " --- |" * (len(names) - 1)]
    for test in causal:
        low, high = test["interval"]
        difference = f"{100 * test['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        used = "-" if test["intervention"] == "none" else "yes" if test["used"] else "no"
        facts = " | ".join(test.get(name, "") for name in shown)
        lines.append(f"| {facts} | {percent(test['accuracy'])} | {difference} | {used} |")
    return (
        "## Are the latents used?\n\n"
        + "\n".join(lines)
        + "\n\nAccuracy in %, and percentage points lost or won [95 % interval], when every latent is zeroed, "
        "exchanged with another question's, swapped with another of its chain, or when the second half is cut off. "
        "Used: accuracy falls, by an exact sign test with Holm's correction over the four (5 % for all together), "
        "so an interval just below 0 may not be enough. If none is, the model does not need its latents.\n"
    )


def _table(rows: Sequence[Row], header: list[str], lines: list[list[str]]) -> str:
    """Lines of cells, each after what makes its row; columns in which no row says anything are left out."""
    ways = [row.way for row in rows]
    columns = {"run": "run", "stage": "stage", "speed": "speed", "latent_limit": "limit", "temperature": "temperature"}
    shown = [
        name
        for name in columns
        if name in ("stage", "speed") or any(getattr(way, name) not in ("", AS_CONFIGURED) for way in ways)
    ]
    names = [*(columns[name] for name in shown), "sampling", *header]
    texts = [names, ["---"] * len(names)]
    for way, cells in zip(ways, lines, strict=True):
        texts.append([*(getattr(way, name) for name in shown), way.sampling, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in texts)


def _result_cell(result: Result) -> str:
    over_questions = result.accuracy_over_questions
    return (
        f"{percent(over_questions.center)}{plus_minus(result.accuracy_over_seeds)} "
        f"[{percent(over_questions.low)}, {percent(over_questions.high)}] / {length_text(result.mean_length)}"
    )


def _mean_cell(row: Row) -> str:
    accuracy = row.mean_accuracy
    return f"{percent(accuracy.center)}{plus_minus(accuracy)} / {length_text(row.mean_length)}"


def _cost_cells(result: Result) -> list[str]:
    cost = result.cost
    k = result.num_seeds
    return [
        length_text(result.mean_length),
        length_text(cost.forward_passes),
        quantity(cost.flops),
        quantity(cost.kv_bytes, "B"),
        length_text(1000 * cost.seconds_per_question),
        *(f"{percent(at[k])} (k = {k})" if k in at else "-" for at in (result.pass_at, result.majority_at)),
    ]


def _counts_text(counts: dict[str, set[int]]) -> str:
    """As in "gsm8k 1,319, svamp 300 or 1,000"."""
    return ", ".join(f"{name} {' or '.join(f'{n:,}' for n in sorted(ns))}" for name, ns in counts.items())


def _legend(results: Sequence[Result]) -> str:
    questions = {name: {r.num_questions for r in results if r.dataset == name} for name in datasets_of(results)}
    seeds = {name: {r.num_seeds for r in results if r.sampling == name} for name in SAMPLINGS}
    sentences = [
        "Accuracy in % / #L (positions of reasoning, mean over examples).",
        "[low, high]: 95 % Wilson interval over questions.",
    ]
    if any(result.num_seeds > 1 for result in results):
        sentences.append("±: half width of the 95 % t-interval over seeds.")
    if len(questions) > 1:
        sentences.append("mean: every data set weighs the same.")
    sentences.append(f"Questions: {_counts_text(questions)}.")
    sentences.append(f"Seeds: {_counts_text({name: numbers for name, numbers in seeds.items() if numbers})}.")
    return " ".join(sentences)


def _remarks(rows: Sequence[Row]) -> str:
    """What is to be known of some rows: reasoning that was cut, speeds that were never trained."""
    cut = [
        f"{row.way.name}, on {dataset} {percent(result.forced_stop_share)} %"
        for row in rows
        for dataset, result in row.results.items()
        if result.forced_stop_share > 0
    ]
    untrained: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.way.speed != NO_SPEED and not all(result.was_trained for result in row.results.values()):
            stage = f"{row.way.run}: {row.way.stage}" if row.way.run else row.way.stage
            untrained.setdefault(stage, {})[row.way.speed] = None
    remarks = [f"Reasoning cut at its limit: {'; '.join(cut)}."] if cut else []
    if untrained:
        speeds = "; ".join(f"{stage} at {', '.join(of_stage)}" for stage, of_stage in untrained.items())
        remarks.append(f"Speeds never trained: {speeds}.")
    return "".join(f"\n\n{remark}" for remark in remarks)
