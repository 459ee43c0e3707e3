"""One run of a sweep: decode the cells that are missing, and make results of all of them."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np
from flax import nnx

from colar_jax.config import Config
from colar_jax.data.answers import find_verifier
from colar_jax.data.prompts import AUTO_SPEED, speed_text
from colar_jax.evaluation.causal import causal_tests
from colar_jax.evaluation.cost import CostModel, cost_of
from colar_jax.evaluation.evaluator import Outcome, Request
from colar_jax.evaluation.inspector import Chain, Inspector
from colar_jax.evaluation.measures import stacked
from colar_jax.evaluation.samples import samples_of
from colar_jax.methods.codi import PROJECTION
from colar_jax.report.results import AS_CONFIGURED, NO_SPEED, Result
from colar_jax.runs.run import Run
from colar_jax.runs.starts import finished_parameters
from colar_jax.runs.sweep.cells import Cell, is_looked_at, room_for
from colar_jax.runs.sweep.clock import Clock
from colar_jax.runs.sweep.stage_cells import StageCells, decode_settings, questions_digest
from colar_jax.runs.sweep.store import Store, StoredDecode, key_of
from colar_jax.runs.sweep.timed_on import are_timed_on, timed_on
from colar_jax.statistics.repeated import votes_of

_VARIED = ("latent_limit", "temperature", "trim")  # of a cell, said of a sample where it is not the config's own


def decode_missing(part: StageCells, store: Store, clock: Clock, on_decoded: Callable[[Cell, Outcome], None]) -> None:
    """Decode what is not in the store, and put it there cell by cell."""
    run, missing = part.run, part.missing(store)
    if not missing:
        return
    parameters = finished_parameters(run, run.workdir / part.stage, part.step)
    sets, speeds = list(run.tests.values()), run.decode_speeds(part.stage)
    inspector, here = run.inspector(part.stage), timed_on(run)
    for trim in dict.fromkeys(cell.trim for cell in missing):
        programs, cells = clock.programs, [cell for cell in missing if cell.trim == trim]
        if trim != AS_CONFIGURED:
            programs = part.trims.programs(clock.programs).ended_by(int(trim))
        evaluator = run.evaluator(part.stage, sets, speeds, room_for(run.config), programs)
        for group in _up_to_looks(run.config, cells):
            requests = (Request(run.tests[cell.dataset], cell.speed, cell.seed, cell.decode) for cell in group)
            with clock:
                for cell, (request, outcome) in zip(group, evaluator.run_all(parameters, requests), strict=True):
                    samples = []
                    if cell.shows_samples:
                        with clock.paused():
                            chains = _look(run, inspector, parameters, cell)
                        samples = list(samples_of(request.encoded, outcome, chains, **_facts(cell)))
                    depends_on = part.dependencies[cell]
                    store.add(key_of(depends_on), depends_on, StoredDecode.of(outcome, samples, here).as_json())
                    on_decoded(cell, outcome)


def _up_to_looks(config: Config, cells: list[Cell]) -> Iterator[list[Cell]]:
    """The cells in groups, each of which ends where latents are looked at: a decode that is under way would count it
    as its own time."""
    start = 0
    for stop, cell in enumerate(cells, start=1):
        if is_looked_at(config, cell) or stop == len(cells):
            yield cells[start:stop]
            start = stop


def _look(run: Run, inspector: Inspector, parameters, cell: Cell) -> list[Chain] | None:
    """What was thought in a decode, where it is recorded."""
    if not is_looked_at(run.config, cell):
        return None
    return inspector.look(parameters, run.tests[cell.dataset], cell.speed, num_words=run.config.eval.latent_words)


def causal_rows(part: StageCells, store: Store) -> Iterator[dict]:
    """Rows that say whether a stage's latents are used, if `eval.causal` asks for them; found once, and kept."""
    run, stage = part.run, part.stage
    inspector = run.inspector(stage)
    if not run.config.eval.causal or not inspector.thinks_in_latents:
        return
    parameters = None
    for dataset, encoded in run.tests.items():
        for speed in run.decode_speeds(stage):
            depends_on = part.of_stage | {"dataset": dataset, "questions": questions_digest(encoded)}
            depends_on |= {"speed": speed_text(speed), "decode": decode_settings(run.config.decode, run.method(stage))}
            # Older rows were judged otherwise, shuffled at another speed, or cut where nothing may be.
            depends_on |= {"verdict": "sign test, Holm; too few", "cut": "zeroed where the number is fixed"}
            key = key_of(depends_on)
            if key not in store:
                parameters = parameters or finished_parameters(run, run.workdir / stage, part.step)
                facts = {"stage": stage, "dataset": dataset}
                store.add(key, depends_on, causal_tests(inspector, parameters, encoded, speed, **facts))
            of_row = ({"run": part.name} if part.name else {}) | (
                {} if run.method(stage).has_speed else {"speed": NO_SPEED}  # as results have it
            )
            yield from (row | of_row for row in store[key])


def results_of(part: StageCells, store: Store) -> Iterator[Result]:
    """A result for all seeds of a data set, speed, limit and temperature; all cells must be in the store."""
    run, method = part.run, part.run.method(part.stage)
    together: dict[tuple, list[StoredDecode]] = {}
    for cell, depends_on in part.dependencies.items():
        speed = speed_text(cell.speed) if method.has_speed else NO_SPEED
        was_trained = not method.has_speed or run.was_trained(part.stage, cell.speed)
        place = (cell.dataset, speed, cell.sampling, cell.latent_limit, cell.temperature, cell.trim, was_trained)
        decoded = StoredDecode.from_json(store[key_of(depends_on)])
        together.setdefault((*place, depends_on["questions"]), []).append(decoded)
    is_same = functools.lru_cache(maxsize=2**16)(find_verifier(run.config.data.verifier))
    model = _cost_model(part)
    thinks_in, here = _thinks_in(part), timed_on(run)
    for (dataset, speed, sampling, limit, temperature, trim, was_trained, questions), seeds in together.items():
        cost = cost_of(model, seeds)
        if not are_timed_on(seeds, here):
            cost = dataclasses.replace(cost, seconds_per_question=None)
        yield Result(
            run=part.name,
            stage=part.stage,
            method=run.config.stages[part.stage].method,
            dataset=dataset,
            speed=speed,
            sampling=sampling,
            latent_limit=limit,
            temperature=temperature,
            trim=trim,
            was_trained=was_trained,
            questions=questions,
            right_SN=np.stack([seed.right_N for seed in seeds]),
            lengths_SN=np.stack([seed.lengths_N for seed in seeds]),
            forced_stops_SN=np.stack([seed.forced_stop_N for seed in seeds]),
            measured_SN=stacked([seed.measured for seed in seeds]),
            thinks_in=thinks_in,
            votes_SN=votes_of([seed.predictions for seed in seeds], is_same) if len(seeds) > 1 else None,
            cost=cost,
            needed_length=_needed_length(part, dataset, speed, thinks_in),
        )


def _needed_length(part: StageCells, dataset: str, speed: str, thinks_in: str) -> float | None:
    """The shortest mean #L that loses nothing, of chains in words or at a speed; of others it is not known."""
    # In words only a chain of thought is written as a whole: other methods leave steps out as they go.
    is_chain = speed == NO_SPEED and thinks_in == "words" and part.run.config.stages[part.stage].method == "cot"
    if speed == AUTO_SPEED or (speed == NO_SPEED and not is_chain):
        return None
    phase = part.run.method(part.stage).recipe.asked_phase
    return part.run.tests[dataset].needed_latents(1.0 if speed == NO_SPEED else float(speed), phase)


def shown_samples(part: StageCells, store: Store) -> Iterator[dict]:
    """The rows of samples.jsonl: the greedy answers where there are any, else those of the first seed."""
    is_greedy = part.run.config.eval.greedy
    for cell, depends_on in part.dependencies.items():
        if cell.seed == (None if is_greedy else 0):
            facts = ({"run": part.name} if part.name else {}) | _facts(cell)
            for sample in store[key_of(depends_on)]["samples"]:
                # The cell that wrote it may have had another name: the limit 8, where 8 is the config's own.
                yield facts | {name: value for name, value in sample.items() if name not in _VARIED}


def _thinks_in(part: StageCells) -> str:
    """What the stage's thoughts are, as `Result` has it."""
    config = part.run.config
    thinking = part.run.method(part.stage).thinking(config.decode, 0, greedy=True)
    if not thinking.max_thoughts:
        return ""
    return "words" if thinking.in_words else "latents"


def _facts(cell: Cell) -> dict:
    """What comes first in a sample."""
    facts = {"stage": cell.stage, "dataset": cell.dataset, "speed": speed_text(cell.speed)}
    varied = {name: getattr(cell, name) for name in _VARIED}
    return facts | {name: text for name, text in varied.items() if text != AS_CONFIGURED}


def _cost_model(part: StageCells) -> CostModel:
    model, method = nnx.merge(part.run.graph, part.run.shapes), part.run.method(part.stage)
    thinking, projection = part.run.thinking(part.stage), method.modules.get(PROJECTION)
    return CostModel(
        llama=model.llama.config,
        latent_head_size=model.latent_head.config.intermediate_size if method.draws_latents else 0,
        bytes_per_value=jnp.dtype(part.run.config.model.dtype).itemsize,
        projection_size=projection.settings.intermediate_size if projection else 0,
        reads_words=thinking.reads_words and thinking.max_thoughts > 0,
        mixes_words=thinking.mixes_words,
        question_reads=2 if method.chooses_speed else 1,
        sweeps=thinking.sweeps,
    )
