"""Ask a trained stage something, and watch it think: `python -m colar_jax.generate --workdir=runs/arithmetic`.

Each latent is a line, the words nearest to it, as it comes; then the answer.
"""

import dataclasses
import itertools
import json
import logging
import math
import sys
from collections.abc import Iterator

import jax

from colar_jax.command_line import RUN, flag, require_text, run_main
from colar_jax.config import Config, nearest, parse_speeds
from colar_jax.data.prompts import Speed, speed_text
from colar_jax.errors import UserError
from colar_jax.evaluation.asking import Reply, Words
from colar_jax.evaluation.latents import Latent
from colar_jax.run import Run, prepare
from colar_jax.starts import finished_parameters
from colar_jax.training.stage import CHECKPOINTS_FOLDER


@dataclasses.dataclass(frozen=True)
class Flags:
    """What `generate` takes besides --workdir and the settings."""

    question: str = flag("", "what to ask; without it questions are read from standard input, one a line")
    stage: str = flag("", "default: the last stage of the run that thinks in latents, else the last")
    speed: str = flag("", "tokens a latent stands for, or auto; default: the first speed that the stage was trained at")
    temperature: float = flag(0.0, "of latents, decisions and words; 0: greedy")
    seed: int = flag(0, "of what is sampled")
    show: bool = flag(
        False, "cosines, what the language head would have said, standard deviation and P(stop) of each latent"
    )
    json: bool = flag(False, "one JSON object a question, and nothing else, on standard output")

    def __post_init__(self):
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"--temperature={self.temperature} is no number of at least 0")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed={self.seed} is no whole number from 0 to {2**32 - 1}")


def generate(config: Config, flags: Flags) -> None:
    """Answer the questions of `--question` or of standard input."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    run = prepare(config, with_problems=False)
    stage = _stage(run, flags.stage)
    speed, folder = _speed(run, stage, flags.speed), run.workdir / stage
    if not (folder / CHECKPOINTS_FOLDER).is_dir():
        raise UserError(f"--stage={stage}: {folder} has no checkpoint yet: train it first, or name another stage")
    parameters = finished_parameters(run, folder)
    asker = run.asker(stage, temperature=flags.temperature)
    for number, question in enumerate([flags.question] if flags.question else _questions()):
        key = jax.random.fold_in(jax.random.key(flags.seed), number)
        events = asker.ask(parameters, question, speed, key)
        if flags.json:
            reply = next(event for event in events if isinstance(event, Reply))
            facts = {"question": question, "stage": stage, "speed": speed_text(speed)}
            print(json.dumps(facts | as_json(reply), ensure_ascii=False), flush=True)
        else:
            show(events, in_detail=flags.show)


def as_json(reply: Reply) -> dict:
    """A reply in the fields of samples.jsonl."""
    return {
        "reasoning": reply.reasoning,
        "latents": [latent.as_json() for latent in reply.latents],
        "length": reply.num_thoughts,
        "text": reply.text,
        "prediction": reply.answer,
    }


def show(events: Iterator[Latent | Words | Reply], *, in_detail: bool) -> None:
    """Print what is said as it comes."""
    num_latents, is_reasoning = 0, False
    for event in events:
        if isinstance(event, Latent):
            num_latents += 1
            print(f"{num_latents:3}  {_latent_line(event, in_detail)}", flush=True)
        elif isinstance(event, Words):
            if is_reasoning and event.is_answer:
                print()
            is_reasoning = not event.is_answer
            print(event.text, end="", flush=True)
    print(flush=True)


def _latent_line(latent: Latent, in_detail: bool) -> str:
    if not in_detail:
        return "  ".join(word.label for word in latent.words)
    near, said = (
        "  ".join(f"{word.label} {word.score:.2f}" for word in words) for words in (latent.words, latent.head_words)
    )
    return f"{near}  |  head: {said}  |  std {latent.std:.3f}  |  P(stop) {latent.p_stop:.2f}"


def _questions() -> Iterator[str]:
    """The lines of standard input. UserError for one that is not UTF-8."""
    for number in itertools.count(1):
        try:
            line = input("question> ") if sys.stdin.isatty() else input()
        except EOFError:
            return
        if line.strip():
            yield require_text(line.strip(), f"line {number} of standard input")


def _stage(run: Run, named: str) -> str:
    """The stage that `--stage` names, or the last one that thinks in latents."""
    stages = run.config.stage_names
    if named:
        if named not in run.config.stages:
            raise UserError(f"--stage={named} is no stage of this run: {', '.join(stages)}.{nearest(named, stages)}")
        return named
    in_latents = [name for name in stages if run.inspector(name).thinks_in_latents]
    return (in_latents or stages)[-1]


def _speed(run: Run, stage: str, asked: str) -> Speed:
    trained = run.trained_speeds(stage)
    given = parse_speeds(asked)
    if not given:
        return trained[0]
    if len(given) > 1:
        raise UserError(f"--speed={asked}: one speed at a time, such as --speed={speed_text(given[0])}")
    known = ", ".join(map(speed_text, trained))
    if not run.method(stage).has_speed:
        raise UserError(f"--speed={asked}: stage {stage} has none to choose; leave the flag out")
    if given[0] not in trained:
        logging.warning("stage %s was trained at speed %s, not at %s: expect little", stage, known, asked)
    return given[0]


if __name__ == "__main__":
    run_main(generate, Flags, RUN)
