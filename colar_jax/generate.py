"""Ask a trained stage something, and watch it think: `python -m colar_jax.generate --workdir=runs/arithmetic`.

Each latent is a line, the words nearest to it, as it comes; then the answer. A list of questions on standard input is
read in batches of --config.eval.batch_size, and a batch is decoded together; with a batch size of 1 each question is
answered as it comes.
"""

import dataclasses
import itertools
import json
import logging
import math
import sys
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from colar_jax.command_line import RUN, flag, require_text, run_main
from colar_jax.config import Config, nearest, parse_speeds
from colar_jax.data.encoding import unreadable_words
from colar_jax.data.prompts import Speed, speed_text
from colar_jax.errors import UserError
from colar_jax.evaluation.asking import Reply, Words
from colar_jax.evaluation.latents import Latent
from colar_jax.runs.run import Run, prepare
from colar_jax.runs.starts import default_stage, finished_parameters
from colar_jax.training.stage import CHECKPOINTS_FOLDER

PROMPT = "question> "


@dataclasses.dataclass(frozen=True)
class Flags:
    """What `generate` takes besides --workdir and the settings."""

    question: str | None = flag(None, "what to ask; without it questions are read from standard input, one a line")
    stage: str = flag("", "default: the last stage of the run that thinks in latents, else the last")
    speed: str = flag("", "tokens a latent stands for, or auto; default: the first speed that the stage was trained at")
    temperature: float = flag(0.0, "of latents, decisions and words; 0: greedy")
    seed: int = flag(0, "of what is sampled")
    show: bool = flag(
        False, "cosines, what the language head would have said, standard deviation and P(stop) of each latent"
    )
    json: bool = flag(False, "one JSON object a question, and nothing else, on standard output")
    quiet: bool = flag(False, "one line a question on standard output: the answer")

    def __post_init__(self):
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"--temperature={self.temperature} is no number of at least 0")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed={self.seed} is no whole number from 0 to {2**32 - 1}")
        if self.show + self.json + self.quiet > 1:
            raise UserError("--show, --json and --quiet are three ways to print a reply: take one")
        if self.question is not None and not self.question.strip():
            raise UserError("--question= is no question: write one, or leave the flag out to read standard input")


def generate(config: Config, flags: Flags) -> None:
    """Answer the questions of `--question` or of standard input."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("colar_jax.data.tokenizers").setLevel(logging.ERROR)  # `_Conversation` says it with the words
    if flags.stage and flags.stage not in config.stages:  # before anything is loaded
        stages = config.stage_names
        raise UserError(
            f"--stage={flags.stage} is no stage of this run: {_listed(stages)}.{nearest(flags.stage, stages)}"
        )
    run = prepare(config, sets="none")
    stage = flags.stage or default_stage(run)
    speed, folder = _speed(run, stage, flags.speed), run.workdir / stage
    if not (folder / CHECKPOINTS_FOLDER).is_dir():
        raise UserError(f"--stage={stage}: {folder} has no checkpoint yet: train it first, or name another stage")
    conversation = _Conversation(run, stage, speed, finished_parameters(run, folder), flags)
    if flags.question is not None:
        conversation.answer([flags.question])
    elif sys.stdin.isatty():
        for question in filter(None, _questions()):
            conversation.answer([question])
    else:
        questions = _questions() if flags.quiet else filter(None, _questions())
        while batch := list(itertools.islice(questions, config.eval.batch_size)):
            conversation.answer(batch, echoes=not (flags.json or flags.quiet))


class _Conversation:
    """Questions and what is printed of the replies; the draws of a question depend on how many came before it."""

    def __init__(self, run: Run, stage: str, speed: Speed, parameters, flags: Flags):
        self._asker = run.asker(stage, temperature=flags.temperature)
        self._facts = {"stage": stage, "speed": speed_text(speed)}
        self._tokenizer, self._parameters, self._speed, self._flags = run.tokenizer, parameters, speed, flags
        self._num_asked = 0

    def answer(self, lines: list[str], *, echoes: bool = False) -> None:
        """Print the replies to these questions, one by one as it is thought, several when all are there.

        Of an empty line an empty line, so that replies stand where their questions did.
        """
        replies = self._replies([line for line in lines if line])
        for line in lines:
            if not line:
                print(flush=True)
                continue
            if echoes:
                print(f"{PROMPT}{line}")
            self._print(line, next(replies))

    def _replies(self, questions: list[str]) -> Iterator[Iterator[Latent | Words | Reply]]:
        """What is said of each question, as events."""
        if not questions:
            return
        numbers = np.arange(self._num_asked, self._num_asked + len(questions))
        self._num_asked += len(questions)
        for question in questions:
            self._warn(question)
        keys_N = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(self._flags.seed), numbers)
        if len(questions) == 1 and not (self._flags.json or self._flags.quiet):
            yield self._asker.ask(self._parameters, questions[0], self._speed, keys_N[0])
        else:  # one program to compile, where the stream has five
            for reply in self._asker.answer(self._parameters, questions, self._speed, keys_N):
                yield reply.events()

    def _print(self, question: str, events: Iterator[Latent | Words | Reply]) -> None:
        if not (self._flags.json or self._flags.quiet):
            show(events, in_detail=self._flags.show)
            return
        *_, reply = events
        if self._flags.json:
            print(json.dumps({"question": question} | self._facts | as_json(reply), ensure_ascii=False), flush=True)
        else:
            print(f"{' '.join(reply.answer.split())}{_what_was_cut(reply)}", flush=True)

    def _warn(self, question: str) -> None:
        words = unreadable_words(question, self._tokenizer)
        if words:
            logging.warning(
                "%s: the tokenizer has no token for %s, so the model does not read what you wrote",
                question if len(question) <= 80 else f"{question[:77]}...",
                _listed(map(repr, words)),
            )


def as_json(reply: Reply) -> dict:
    """A reply in the fields of samples.jsonl."""
    return {
        "reasoning": reply.reasoning,
        "latents": [latent.as_json() for latent in reply.latents],
        "length": reply.num_thoughts,
        "text": reply.text,
        "prediction": reply.answer,
        "forced_stop": reply.forced_stop,
        "cut_answer": reply.cut_answer,
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
        else:
            print(_what_was_cut(event), flush=True)


def _what_was_cut(reply: Reply) -> str:
    cut = [name for name, is_cut in (("thinking", reply.forced_stop), ("answer", reply.cut_answer)) if is_cut]
    return f"  ({' and '.join(cut)} cut at the limit)" if cut else ""


def _latent_line(latent: Latent, in_detail: bool) -> str:
    if not in_detail:
        return "  ".join(word.label for word in latent.words)
    near, said = (
        "  ".join(f"{word.label} {word.score:.2f}" for word in words) for words in (latent.words, latent.head_words)
    )
    return f"{near}  |  head: {said}  |  std {latent.std:.3f}  |  P(stop) {latent.p_stop:.2f}"


def _questions() -> Iterator[str]:
    """The lines of standard input, "" for blank ones. UserError for one that is not UTF-8."""
    for number in itertools.count(1):
        try:
            line = input(PROMPT) if sys.stdin.isatty() else input()
        except EOFError:
            return
        yield require_text(line.strip(), f"line {number} of standard input")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


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
        logging.warning("stage %s was trained at speed %s, not at %s: its answers will be poor", stage, known, asked)
    return given[0]


if __name__ == "__main__":
    run_main(generate, Flags, RUN)
