"""A set of problems answered and judged: the accuracy of a loaded model, as its run's evaluation would measure it."""

import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from colar_jax.config import parse_speeds
from colar_jax.data.answers import check_verifier
from colar_jax.data.encoding import EncodedProblems, encode
from colar_jax.data.problems import Problem
from colar_jax.data.prompts import Speed, speed_text
from colar_jax.data.readable import refuse_unreadable
from colar_jax.data.records import log_unread, parse_problem, unread_keys
from colar_jax.data.sources import load_problems
from colar_jax.data.splits import load_tests
from colar_jax.errors import UserError
from colar_jax.evaluation.evaluator import Evaluator, Outcome, Request
from colar_jax.evaluation.measures import stacked
from colar_jax.report.results import NO_SPEED, Result
from colar_jax.runs.trained_questions import refuse_trained_questions
from colar_jax.settings import DataConfig
from colar_jax.statistics.repeated import votes_of
from colar_jax.thinker.exported_run import is_exported

if TYPE_CHECKING:
    from colar_jax.thinker.thinker import Thinker

logger = logging.getLogger(__name__)


def score(thinker: "Thinker", problems, speeds, *, seeds: int, limit: int | None) -> list[Result]:
    """As `Thinker.evaluate`."""
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 0:
        raise UserError(f"seeds={seeds!r} is no number of sampled decodes: 0, or some")
    check_verifier(thinker.run.config.data.verifier)
    name, problems = _problems(problems, limit)
    chosen, run = _speeds(thinker, speeds), thinker.run
    encoded = encoded_for(thinker, problems, chosen)
    refuse_unreadable(name, encoded, thinker.tokenizer, run.config.data)
    if is_exported(run.workdir):  # a folder that does not say what it was trained on
        logger.warning("%s does not say what it was trained on: no question was looked for there", run.workdir)
    else:
        refuse_trained_questions(dataclasses.replace(run, tests={name: encoded}), thinker.stage)
    evaluator = run.evaluator(thinker.stage, [encoded], chosen)
    return [result for speed in chosen for result in _results(thinker, evaluator, encoded, name, speed, seeds)]


def encoded_for(thinker: "Thinker", problems: Sequence[Problem], speeds: Sequence[Speed]) -> EncodedProblems:
    """The problems as token ids, for what prompts say where these speeds are asked for."""
    said = (thinker.method.recipe.told(speed).said for speed in speeds)
    return encode(list(problems), thinker.tokenizer, tuple(dict.fromkeys(said)))


def first_problems(data: DataConfig, limit: int | None) -> dict[str, list[Problem]]:
    """The test sets that a run's settings name, of each the first `limit` problems."""
    return load_tests(data if limit is None else dataclasses.replace(data, num_test=limit))


def _results(
    thinker: "Thinker", evaluator: Evaluator, encoded: EncodedProblems, name: str, speed: Speed, seeds: int
) -> Iterator[Result]:
    for sampling, chosen in (("greedy", [None]), ("sampled", list(range(seeds)))):
        if not chosen:
            continue
        requests = [Request(encoded, speed, seed) for seed in chosen]
        outcomes = [outcome for _, outcome in evaluator.run_all(thinker.parameters, requests)]
        yield _result(thinker, name, speed, sampling, outcomes)


def _result(thinker: "Thinker", name: str, speed: Speed, sampling: str, outcomes: list[Outcome]) -> Result:
    run, method = thinker.run, thinker.method
    thinking = run.thinking(thinker.stage)
    return Result(
        stage=thinker.stage,
        dataset=name,
        speed=speed_text(speed) if method.has_speed else NO_SPEED,
        sampling=sampling,
        right_SN=np.stack([outcome.right_N for outcome in outcomes]),
        lengths_SN=np.stack([outcome.lengths_N for outcome in outcomes]),
        forced_stops_SN=np.stack([outcome.forced_stop_N for outcome in outcomes]),
        method=run.config.stages[thinker.stage].method,
        was_trained=not method.has_speed or run.was_trained(thinker.stage, speed),
        votes_SN=votes_of([outcome.predictions for outcome in outcomes], run.judge.is_right)
        if len(outcomes) > 1
        else None,
        measured_SN=stacked([outcome.measured for outcome in outcomes]),
        thinks_in="latents" if thinking.in_latents else "words" if thinking.max_thoughts else "",
    )


def _speeds(thinker: "Thinker", asked) -> tuple[Speed, ...]:
    """The speeds, each of them checked."""
    if asked is None:
        return thinker.speeds or thinker.run.trained_speeds(thinker.stage)[:1]
    if isinstance(asked, str):
        asked = parse_speeds(asked)
    elif not isinstance(asked, Sequence):
        asked = [asked]
    if not asked:
        raise UserError("speeds names none: leave it out for those that were trained")
    return tuple(dict.fromkeys(thinker.checked_speed(speed) for speed in asked))


def _problems(given, limit: int | None) -> tuple[str, list[Problem]]:
    """A name for the set, and its problems; UserError where there are none, or one is none."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise UserError(f"limit={limit!r} is no number of problems: at least 1, or None for all")
    if isinstance(given, str | os.PathLike):
        source = os.fspath(given)
        return source, load_problems(source, "test", limit=limit)
    if isinstance(given, dict) or not isinstance(given, Iterable):
        kind = type(given).__name__
        raise UserError(f"problems is of type {kind}: a list of problems is wanted, or the name of a source")
    problems, unread = [], set()
    for number, problem in enumerate(given):
        if not isinstance(problem, Problem):
            record = problem
            try:
                problem = parse_problem(record, needs_steps=False)
            except UserError as error:
                raise UserError(f"problem {number}: {error}") from None
            unread |= unread_keys(record)
        problems.append(dataclasses.replace(problem, place=problem.place or f"problem {number}"))
    log_unread("problems", unread)
    if not problems:
        raise UserError("there are no problems to evaluate")
    return "problems", problems[:limit]
