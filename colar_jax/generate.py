"""Ask a trained stage something, and watch it think: `python -m colar_jax.generate --workdir=runs/arithmetic`.

Each latent is a line, the words nearest to it, as it comes; then the answer. A list of questions on standard input is
read in batches of --config.eval.batch_size, and a batch is decoded together; with a batch size of 1 each question is
answered as it comes. --workdir may be an exported folder, or the hub id of one, too. From Python: `colar_jax.load`.
"""

import dataclasses
import itertools
import json
import logging
import math
import sys
from collections.abc import Iterator

from colar_jax import Answer, Done, Latent, Thinker, Token, UserError, load
from colar_jax.command_line import ASKED, flag, question_lines, run_main
from colar_jax.config import Config
from colar_jax.settings.checks import is_finite

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
        if not (self.temperature >= 0 and is_finite(self.temperature)):
            raise UserError(f"--temperature={self.temperature} is no number of at least 0, finite in float32")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed={self.seed} is no whole number from 0 to {2**32 - 1}")
        if self.show + self.json + self.quiet > 1:
            raise UserError("--show, --json and --quiet are three ways to print a reply: take one")
        if self.question is not None and not self.question.strip():
            raise UserError("--question= is no question: write one, or leave the flag out to read standard input")


def generate(config: Config, flags: Flags) -> None:
    """Answer the questions of `--question` or of standard input."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    conversation = _Conversation(load(config, flags.stage or None), flags)
    if flags.question is not None:
        conversation.answer({"the question": flags.question})
    elif sys.stdin.isatty():
        for _, question in filter(_is_asked, _questions()):
            try:
                conversation.answer({"the question": question})
            except UserError as error:
                print(error, file=sys.stderr, flush=True)
    else:
        questions = _questions() if flags.quiet else filter(_is_asked, _questions())
        while batch := dict(itertools.islice(questions, config.eval.batch_size)):
            conversation.answer(batch, is_list=True)


class _Conversation:
    """Questions and what is printed of the replies; the draws of a question depend on how many came before it."""

    def __init__(self, thinker: Thinker, flags: Flags):
        thinker.checked_speed(flags.speed)  # also where nothing is asked
        self._thinker, self._flags, self._num_asked = thinker, flags, 0
        self._options = {"speed": flags.speed or None, "temperature": flags.temperature, "seed": flags.seed}

    def answer(self, lines: dict[str, str], *, is_list: bool = False) -> None:
        """Print the replies to these questions, one by one as it is thought, several when all are there.

        Each has the name that messages call it. Of an empty line an empty line, so that replies stand where their
        questions did. In a list each reply follows its question, and one with unknown words is answered all the same.
        """
        asked = dict(filter(_is_asked, lines.items()))
        replies = self._replies(asked, allow_unknown_words=is_list)
        self._num_asked += len(asked)
        for line in lines.values():
            if not line:
                print(flush=True)
                continue
            if is_list and not (self._flags.json or self._flags.quiet):
                print(f"{PROMPT}{line}")
            self._print(next(replies))

    def _replies(self, asked: dict[str, str], **options) -> Iterator[Iterator[Latent | Token | Done]]:
        """What is said of each question, as events."""
        names, questions = list(asked), list(asked.values())
        if len(questions) == 1 and not (self._flags.json or self._flags.quiet):
            options |= self._options | {"name": names[0]}
            return iter([self._thinker.stream(questions[0], index=self._num_asked, **options)])
        # One program to compile, where the stream has five.
        options |= self._options | {"names": names}
        answers = self._thinker.generate(questions, first_index=self._num_asked, **options)
        return map(_events, answers)

    def _print(self, events: Iterator[Latent | Token | Done]) -> None:
        if not (self._flags.json or self._flags.quiet):
            show(events, in_detail=self._flags.show)
            return
        *_, done = events
        if self._flags.json:
            print(json.dumps(done.answer.as_json(), ensure_ascii=False), flush=True)
        else:
            print(f"{' '.join(done.answer.answer.split())}{_what_was_cut(done.answer)}", flush=True)


def _events(answer: Answer) -> Iterator[Latent | Token | Done]:
    """An answer as `Thinker.stream` hands it out, all of it at once."""
    yield from answer.readings
    if answer.reasoning:
        yield Token(answer.reasoning, math.nan, is_answer=False)
    if answer.text:
        yield Token(answer.text, math.nan)
    yield Done(answer)


def show(events: Iterator[Latent | Token | Done], *, in_detail: bool) -> None:
    """Print what is said as it comes."""
    is_reasoning = False
    for event in events:
        if isinstance(event, Latent):
            print(f"{event.index + 1:3}  {event.line(in_detail=in_detail)}", flush=True)
        elif isinstance(event, Token):
            if is_reasoning and event.is_answer:
                print()
            is_reasoning = not event.is_answer
            print(event.text, end="", flush=True)
        else:
            print(_what_was_cut(event.answer), flush=True)


def _what_was_cut(answer: Answer) -> str:
    cut = [name for name, is_cut in (("thinking", answer.forced_stop), ("answer", answer.cut_answer)) if is_cut]
    return f"  ({' and '.join(cut)} cut at the limit)" if cut else ""


def _is_asked(line: tuple[str, str]) -> bool:
    return bool(line[1])


def _questions() -> Iterator[tuple[str, str]]:
    """What each line of standard input is called, and the line, "" for blank ones. UserError where it is not UTF-8."""
    return question_lines(_lines(), lambda number: f"line {number} of standard input")


def _lines() -> Iterator[str]:
    """The lines of standard input, as they come; one that is typed is asked for."""
    while True:
        try:
            yield input(PROMPT) if sys.stdin.isatty() else input()
        except EOFError:
            return


if __name__ == "__main__":
    run_main(generate, Flags, ASKED)
