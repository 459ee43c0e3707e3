"""Chains that a stage learns instead of the data's: the shortest right ones of its own, or some with steps left out."""

import dataclasses
import json
import logging
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from colar_jax.data.json_lines import read_problems
from colar_jax.data.problems import Problem
from colar_jax.data.prompts import steps_text
from colar_jax.data.tokenizers import Tokenizer
from colar_jax.decoding.decoder import Decoded
from colar_jax.errors import UserError
from colar_jax.methods.shorter_chains import Concise, DroppedSteps
from colar_jax.parallel.hosts import wait_for_all
from colar_jax.rl.rollout import Sampler, ways_to_sample
from colar_jax.runs.identity import chains_that_say_lengths
from colar_jax.runs.made_from import Parts, is_kept, keep
from colar_jax.runs.run import Run
from colar_jax.runs.run_folder import CHAINS_FILE
from colar_jax.runs.starts import source_of, start_parameters

logger = logging.getLogger(__name__)


def shortest_right(run: Run, name: str) -> list[Problem]:
    """The training problems of a stage of `concise`, each with its shortest right chain; sampled once, and kept."""
    path = run.workdir / name / CHAINS_FILE
    if not is_kept(run, name, path):
        parts = Parts(run, name, path)
        problems = _sampled(run, name, parts)
        if not problems:
            raise UserError(
                f"stages.{name}: none of the chains that {source_of(run, name)} thinks ends in the right answer: train "
                "that stage first, or start from another (init_from)"
            )
        keep(run, name, path, lambda unfinished: _write(unfinished, problems))
        parts.remove()
    return read_problems(path)


def without_some_steps(run: Run, name: str) -> list[Problem]:
    """The training problems of a stage of `dropped_steps`: random steps are left out, in an order of chance."""
    method, seed, tokenizer = run.method(name), run.seed_of(name), run.tokenizer
    problems = run.train_problems
    lengths = [method.share * length for length in _lengths(problems, tokenizer)]
    if method.like:
        like = _chains_of(run, name, method)
        longest = dict(zip((problem.question for problem in like), _lengths(like, tokenizer), strict=True))
        problems = [problem for problem in problems if problem.question in longest]
        lengths = [longest[problem.question] for problem in problems]
    return [
        dataclasses.replace(problem, steps=_shortened(problem.steps, length, tokenizer, random.Random(f"{seed}/{i}")))
        for i, (problem, length) in enumerate(zip(problems, lengths, strict=True))
    ]


def _sampled(run: Run, name: str, parts: Parts) -> list[Problem]:
    """Each problem that was answered rightly, with its shortest right chain."""
    method: Concise = run.method(name)
    encoded = run.train.head(method.num_problems or len(run.train))
    logger.info("stage %s: sampling %d chains of each of %d problems", name, method.num_chains, len(encoded))
    told = method.recipe.told(method.recipe.speeds[0])
    prompts = [encoded.ask(index, told) for index in range(len(encoded))]
    sampler = Sampler(
        run.engine,
        ways_to_sample(run.engine, method, run.config.decode, run.tokenizer, num_generations=method.num_chains),
        batch_size=max(1, min(run.config.eval.batch_size // method.num_chains, len(prompts))),
        prompt_lengths=np.array([len(prompt) for prompt in prompts]),
    )
    parameters, key = start_parameters(run, name), jax.random.key(run.seed_of(name))
    starts = range(0, len(prompts), _PROMPTS_A_PART)
    for start in (start for start in starts if not parts.has(_part_of(start))):
        some = slice(start, start + _PROMPTS_A_PART)
        found = []
        for place, decoded in sampler.run(parameters, prompts[some], jax.random.fold_in(key, start)):
            found += _shortest_of(run, method, encoded.problems[some][place], decoded)
        parts.keep(_part_of(start), lambda unfinished, found=found: _write(unfinished, found))
    wait_for_all("sampled all chains")
    problems = [problem for start in starts for problem in read_problems(parts.path(_part_of(start)))]
    logger.info(
        "stage %s: %d of %d problems have a right chain; the shortest has %.3g tokens in the mean",
        name, len(problems), len(encoded), np.mean(_lengths(problems, run.tokenizer) or [0]),
    )  # fmt: skip
    return problems


# So many prompts are under way at a time, and kept together.
_PROMPTS_A_PART = 512


def _part_of(start: int) -> str:
    return f"{start}.jsonl"


def _shortest_of(run: Run, method: Concise, problems: Sequence[Problem], decoded: Decoded) -> Iterator[Problem]:
    """Of problems that were answered, those with a right chain, each with the shortest of its own."""
    of_chains = [problem for problem in problems for _ in range(method.num_chains)]
    _, predictions = run.judge.read(decoded.answer_ids_BA, decoded.num_answer_tokens_B)
    right_B = run.judge.judge(of_chains, predictions) & ~decoded.forced_stop_B
    lengths_B = np.where(right_B, decoded.num_thoughts_B, np.iinfo(np.int32).max)
    for number, problem in enumerate(problems):
        chains = slice(number * method.num_chains, (number + 1) * method.num_chains)
        best = chains.start + int(lengths_B[chains].argmin())
        if right_B[best]:
            ids = decoded.thoughts[best, : lengths_B[best]]
            yield dataclasses.replace(problem, steps=_steps_of(run.tokenizer.decode(ids.tolist())))


def _steps_of(text: str) -> tuple[str, ...]:
    return tuple(text.strip("\n").split("\n")) if text.strip() else ()


def _shortened(steps: tuple[str, ...], length: float, tokenizer: Tokenizer, rng: random.Random) -> tuple[str, ...]:
    """Steps in their order, without random ones: the first of one shuffling, as many as come nearest to so many tokens.

    Others may come nearer: they are not tried, so that what stays is chosen by chance and not by length.
    """
    order = list(range(len(steps)))
    rng.shuffle(order)

    def first(count: int) -> tuple[str, ...]:
        return tuple(steps[i] for i in sorted(order[:count]))

    def distance(count: int) -> float:
        return abs(len(tokenizer.encode(steps_text(first(count)))) - length) if count else length

    return first(min(range(len(steps) + 1), key=distance))


def _chains_of(run: Run, name: str, method: DroppedSteps) -> list[Problem]:
    path = chains_that_say_lengths(run, name)
    if not path.is_file():
        raise UserError(
            f"stages.{name}.dropped_steps.like={method.like!r}: there is no {path}; name a stage of method concise "
            "that was trained"
        )
    return read_problems(path)


def _lengths(problems: list[Problem], tokenizer: Tokenizer) -> list[int]:
    return [len(ids) for ids in tokenizer.encode_batch([steps_text(problem.steps) for problem in problems])]


def _write(path: Path, problems: list[Problem]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for problem in problems:
            record = {"question": problem.question, "steps": list(problem.steps), "answer": problem.answer}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
