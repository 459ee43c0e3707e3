"""Decode any number of runs in every way that is asked for, and write one report."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from colar_jax.config import Config
from colar_jax.data.prompts import speed_text
from colar_jax.data.splits import parse_tests
from colar_jax.errors import UserError
from colar_jax.evaluation.evaluator import Outcome
from colar_jax.evaluation.samples import write_samples
from colar_jax.parallel.hosts import is_first
from colar_jax.progress import Progress
from colar_jax.report.differences import check_reference
from colar_jax.report.files import PAGE_FILE, Report, read_report, tables_of, write_report
from colar_jax.report.provenance import provenance
from colar_jax.report.results import NO_SPEED, Result
from colar_jax.report.table_text import markdown_text
from colar_jax.runs.asked_speeds import decode_speeds, stages_of
from colar_jax.runs.folder_lock import REPORT, locked
from colar_jax.runs.run import Run, prepare
from colar_jax.runs.starts import finished_identity
from colar_jax.runs.sweep.cells import Cell, cells_of
from colar_jax.runs.sweep.clock import Clock
from colar_jax.runs.sweep.idle import refuse_idle_settings
from colar_jax.runs.sweep.member import causal_rows, decode_missing, results_of, shown_samples
from colar_jax.runs.sweep.of_runs import decode_settings_of, notes_of, repeats_of, unfinished_stages
from colar_jax.runs.sweep.stage_cells import StageCells, stage_cells
from colar_jax.runs.sweep.store import CAUSAL_FILE, CELLS_FILE, Store, are_causal_rows
from colar_jax.runs.trained_questions import refuse_trained_questions

logger = logging.getLogger(__name__)

SAMPLES_FILE = "samples.jsonl"
FOLDER_OF_SEVERAL = "sweep"  # beside the first run, unless another is named


def sweep(configs: Sequence[Config], folder: Path | None = None, *, reference: str = "") -> list[Result]:
    """Decode the runs of `configs` as their `eval` says, one after the other, and write one report.

    What was decoded before, into the same folder and from the same checkpoints, is not decoded again.

    Args:
        folder: where the report goes; None: the run's own, for several runs `sweep` beside the first.
        reference: the row that others are compared with, as `differences.differences` takes it.

    Raises:
        UserError: a stage has no finished checkpoint (of several runs, in none that has the stage), no stage reads what
            `eval` asks for, no row will be the reference, or the folder cannot be one; all found before anything is
            decoded.
    """
    for number, config in enumerate(configs):
        if any(_workdir(config).resolve() == _workdir(other).resolve() for other in configs[:number]):
            raise UserError(f"--workdir names the run {config.workdir} twice: a row is compared with another run's")
    configs = _with_finished_stages(configs)
    refuse_idle_settings(configs)
    check_reference(reference, _places(configs))
    if folder is None:
        first = _workdir(configs[0])
        folder = first if len(configs) == 1 else first.parent / FOLDER_OF_SEVERAL
    one_by_one = (
        (name, prepare(config, sets="tests", for_training=False))
        for name, config in zip(run_names(configs), configs, strict=True)
    )
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise UserError(f"--out={folder}: {path} is a file, and a report is a folder of files: name another")
    with locked(folder, REPORT, "evaluate (--out)"):
        return _sweep(one_by_one, configs, folder, reference)


def sweep_run(run: Run) -> list[Result]:
    """As `sweep`, for a run that is prepared already, into its own folder."""
    with locked(run.workdir, REPORT, "evaluate (--out)"):
        return _sweep([("", run)], [run.config], run.workdir, "")


def run_names(configs: Sequence[Config]) -> list[str]:
    """A name for each run: its folder's, or its whole path where two folders have one name; none for a lone run."""
    if len(configs) == 1:
        return [""]
    names = [_workdir(config).resolve().name for config in configs]
    return names if len(set(names)) == len(names) else [str(_workdir(config)) for config in configs]


def _with_finished_stages(configs: Sequence[Config]) -> list[Config]:
    """The configs, each without the stages that are finished in another run alone; UserError for what none finished."""
    faults: dict[tuple[int, str], UserError] = {}
    finished = set()
    for number, config in enumerate(configs):
        for stage in stages_of(config):
            try:
                finished_identity(_workdir(config) / stage)
                finished.add(stage)
            except UserError as fault:
                faults[number, stage] = fault
    kept = []
    for number, config in enumerate(configs):
        stages = [stage for stage in stages_of(config) if (number, stage) not in faults]
        for stage in stages_of(config):
            if fault := faults.get((number, stage)):
                if stage not in finished or not stages:
                    raise fault
                logger.info("skipped: %s", fault)
        kept.append(dataclasses.replace(config, eval=dataclasses.replace(config.eval, stages=",".join(stages))))
    return kept


def _places(configs: Sequence[Config]) -> list[tuple[str, str, str]]:
    """Run, stage and speed of every row that there will be, before any model is loaded."""
    places = []
    for name, config in zip(run_names(configs), configs, strict=True):
        for stage in stages_of(config):
            has_speed = config.stages[stage].bound_method.has_speed
            speeds = [speed_text(speed) if has_speed else NO_SPEED for speed in decode_speeds(config, stage)]
            places += [(name, stage, speed) for speed in speeds]
    return places


def _sweep(named_runs, configs: Sequence[Config], folder: Path, reference: str) -> list[Result]:
    store, clock = Store(folder / CELLS_FILE), Clock()
    of_causes = Store(folder / CAUSAL_FILE, are_causal_rows)
    results, samples, causal, notes, remarks = [], [], [], [], []
    short: dict[str, dict[str, str]] = {}  # of each run the stages that have not taken all their steps
    # How many cells there are follows from the configs, before any model is loaded.
    total = sum(_num_cells(config) for config in configs)
    with Progress("evaluation", total, unit="decode") as progress:
        done = 0
        for name, run in named_runs:  # one at a time: each holds a model
            for stage in stages_of(run.config):
                remarks += [f"{name}: {seen}" if name else seen for seen in refuse_trained_questions(run, stage)]
                part = stage_cells(name, run, stage)
                num_known = len(part.dependencies) - len(part.missing(store))
                progress.skip(num_known)
                done = _decode(part, store, clock, progress, done + num_known)
                results.extend(results_of(part, store))
                samples.extend(shown_samples(part, store))
                causal.extend(causal_rows(part, of_causes))
            remarks += [remark for remark in repeats_of(run) if remark not in remarks]
            short[name] = unfinished_stages(run)
            notes.append(notes_of(name, run, short[name]))
            del run, part  # its model, before the next one is loaded
    by_name = dict(zip(run_names(configs), configs, strict=True))
    report = Report(
        title=configs[0].title if len(configs) == 1 else f"{', '.join(run_names(configs))} side by side",
        notes=" ".join(notes),
        results=results,
        reference=reference,
        causal=causal,
        timing=clock.numbers(),
        samples=samples,
        remarks=remarks,
        made=provenance(
            {name: config.seed for name, config in by_name.items()},
            max(config.eval.seeds for config in configs),
            {name: decode_settings_of(config) for name, config in by_name.items()},
            {name: of_run for name, of_run in short.items() if of_run},
        ),
    )
    _say_what_was_cut(results)
    if is_first():
        _say_what_is_replaced(folder, results)
        write_report(folder, report)
        write_samples(folder / SAMPLES_FILE, iter(samples))
    shown = [table for table in tables_of(report) if table.name in ("accuracy", "differences")]
    print("\n".join(markdown_text(table) for table in shown), flush=True)
    logger.info("report: %s", folder / PAGE_FILE)
    return results


def _say_what_was_cut(results: Sequence[Result]) -> None:
    """Once an evaluation, of the row that has the most of it; the report says it of all."""
    worst = max(results, key=lambda result: result.mean_of("cut_answer") or 0)
    if cut_share := worst.mean_of("cut_answer"):
        logger.info(
            "answers were cut at decode.max_answer_tokens, most of them in %s on %s: %.1f %%",
            worst.way.name,
            worst.dataset,
            100 * cut_share,
        )


def _say_what_is_replaced(folder: Path, results: Sequence[Result]) -> None:
    """If the folder has a report of more rows or questions than this one."""
    try:
        before = read_report(folder)["results"]
        size = len(before), max(int(row["num_questions"]) for row in before)
    except (OSError, UserError, KeyError, TypeError, ValueError):
        return  # there is none, or none that can be read
    if size[0] > len(results) or size[1] > max(result.num_questions for result in results):
        logger.info(
            "%s: the report of %d %s on %s questions is replaced; --out=FOLDER keeps it (its answers are kept: the "
            "settings of before write it again without decoding)",
            folder,
            size[0],
            "row" if size[0] == 1 else "rows",
            f"{size[1]:,}",
        )


def _decode(part: StageCells, store: Store, clock: Clock, progress: Progress, done: int) -> int:
    """Decode what is missing of a stage; how many cells are done after it."""

    def on_decoded(cell: Cell, outcome: Outcome) -> None:
        nonlocal done
        done += 1
        clock.num_decoded += len(outcome.predictions)
        values = {"accuracy": outcome.accuracy, "length": float(outcome.lengths_N.mean())}
        progress.log(done, values, num_examples=len(outcome.predictions))

    decode_missing(part, store, clock, on_decoded)
    return done


def _num_cells(config: Config) -> int:
    sets = list(parse_tests(config.data.test)) if config.data.test else ["own"]
    return sum(len(cells_of(config, stage, sets)) for stage in stages_of(config))


def _workdir(config: Config) -> Path:
    return Path(config.workdir).expanduser()
