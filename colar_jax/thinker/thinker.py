"""A trained stage that answers questions: many at once, one as a stream, or a set of problems to be judged."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import jax
import numpy as np

from colar_jax.data.encoding import EncodedProblems, Prompt
from colar_jax.data.problems import Problem
from colar_jax.data.prompts import Speed, question_prompt
from colar_jax.data.tokenizers import Tokenizer
from colar_jax.decoding.prompt_rows import pack_prompts
from colar_jax.engine import Engine
from colar_jax.errors import UserError
from colar_jax.methods import Method
from colar_jax.parallel.hosts import fetch
from colar_jax.report.results import Result
from colar_jax.runs.run import Run
from colar_jax.settings import DecodeConfig
from colar_jax.thinker.answer import Answer, Event
from colar_jax.thinker.ask_programs import AskPrograms
from colar_jax.thinker.asked import Options, check_index, check_options, check_questions, check_speed, tell_untrained
from colar_jax.thinker.exported_run import is_exported
from colar_jax.thinker.question_batches import RoundUp, batches_of, prompt_shape, rounding_of
from colar_jax.thinker.reading import Reader
from colar_jax.thinker.scoring import encoded_for, first_problems, score
from colar_jax.training.state import Tree


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Thinker:
    """A model with the way it thinks, made by `colar_jax.load`. It holds its weights once, and changes nothing.

    Attributes:
        run: what the stage belongs to: its config, tokenizer, devices. Of an exported folder, a run of one stage.
        stage: its name.
        parameters: a nested dict of `jax.Array`s, in place on the devices.
    """

    run: Run
    stage: str
    parameters: Tree

    def __repr__(self) -> str:
        return f"<Thinker: stage {self.stage!r} of {self.run.workdir}>"

    @property
    def speeds(self) -> tuple[Speed, ...]:
        """The thinking speeds that were trained, the first of which is the default; () where there is none to choose.

        A number of tokens that a latent stands for, or "auto".
        """
        return self.run.trained_speeds(self.stage) if self.method.has_speed else ()

    @property
    def engine(self) -> Engine:
        """What compiles and places."""
        return self.run.engine

    @property
    def method(self) -> Method:
        """How the stage was trained, and thinks."""
        return self.run.method(self.stage)

    @property
    def tokenizer(self) -> Tokenizer:
        """Of questions and answers."""
        return self.run.tokenizer

    @property
    def decode(self) -> DecodeConfig:
        """The limits and temperatures that hold where a question asks for nothing else."""
        return self.run.config.decode

    @overload
    def generate(self, questions: str, speed: Speed | None = None, **options) -> Answer: ...

    @overload
    def generate(self, questions: Sequence[str], speed: Speed | None = None, **options) -> list[Answer]: ...

    def generate(
        self,
        questions,
        speed=None,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        first_index: int = 0,
        allow_unknown_words: bool = False,
        names: Sequence[str] = (),
        **limits,
    ):
        """Answer one question, or any number of them, in batches of `eval.batch_size`.

        An answer does not depend on the others: greedily its tokens are those of the evaluation, and what is sampled
        is drawn from `seed` and the question's index. A program is compiled for each shape of a batch: a power of two
        of questions, a power of two of prompt positions. Speeds, temperatures, seeds and limits are data to it.

        Args:
            questions: a text, or a sequence of texts.
            speed: tokens that a latent stands for, a number of at least 1, or "auto"; None: the first that was trained.
            temperature: of latents, decisions and words; 0, or below 0.001: greedy.
            seed: of what is sampled, from 0 to 2**32 - 1.
            first_index: the index of the first question, for lists that come in parts; likewise.
            allow_unknown_words: answer a question with words that the tokenizer cannot read, and only log it.
            names: what messages call each question, such as "line 7"; none: its number, from 0 on.
            max_latents: how many latents may be thought; None: `decode.max_latents`.
            max_answer_tokens: how many tokens an answer may have, its end included; None: `decode.max_answer_tokens`.
            num_words: nearest words of each latent, 3 unless it is said; 0 saves finding them.

        Returns:
            The `Answer` to a text, or the list of those to a sequence, in its order.

        Raises:
            UserError: one line that says which question or option is wrong, and why.
        """
        options = self._options(speed, temperature=temperature, seed=seed, **limits)
        is_one = isinstance(questions, str)
        texts = check_questions(
            [questions] if is_one else questions,
            self.tokenizer,
            allow_unknown_words=allow_unknown_words,
            names=names,
        )
        check_index("first_index", first_index, len(texts))
        answers = self._answers(texts, options, first_index) if texts else []
        return answers[0] if is_one else answers

    def stream(
        self,
        question: str,
        speed: Speed | None = None,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        index: int = 0,
        allow_unknown_words: bool = False,
        name: str = "the question",
        **limits,
    ) -> Iterator[Event]:
        """Answer a question, and yield each latent and each piece of text as soon as it is there.

        The options are those of `generate` (`name` is what messages call the question); what is drawn is what
        `generate` draws for a question of this index. What is wrong with them is said at once, before the first event
        is asked for.

        Yields:
            `Latent`s (or, of a chain of thought, `Token`s with `is_answer=False`), `Token`s, and at the end `Done`.
        """
        options = self._options(speed, temperature=temperature, seed=seed, **limits)
        (question,) = check_questions([question], self.tokenizer, allow_unknown_words=allow_unknown_words, names=[name])
        check_index("index", index)
        prompt = self.prompts([question], options.speed)[0]
        packed = pack_prompts([prompt], prompt_shape(1, len(prompt), self._round_up))
        key = jax.random.fold_in(jax.random.key(options.seed), np.uint32(index))
        return self._reader.events(
            self._programs.stream(self.parameters, packed, key, options), question, self._programs.limits(options)
        )

    def evaluate(
        self,
        problems: Sequence[Problem | dict] | str | Path,
        speeds: Sequence[Speed] | Speed | None = None,
        *,
        seeds: int = 0,
        limit: int | None = None,
    ) -> list[Result]:
        """Answer problems whose answers are known, and judge each: by `data.verifier`, as the evaluation of a run does.

        Args:
            problems: `Problem`s, dicts with question, steps and answer, or a source of `data.sources.load_problems`: a
                .jsonl file, a folder, `hub:...`, `arithmetic:...` (which needs `limit`).
            speeds: to decode at; None: those that were trained.
            seeds: how often every problem is sampled at the run's temperatures, besides one greedy decode.
            limit: the first so many problems of a source.

        Returns:
            A `report.results.Result` for each speed, greedy, and one sampled where there are seeds. `right_SN` says
            which problems are right, `accuracy_over_questions` the accuracy with its 95 % Wilson interval.

        Raises:
            UserError: a speed, a source or a problem that cannot be used; or the stage was trained on a question (of
                an exported folder that is not known), and `data.allow_overlap` is False.
        """
        return score(self, problems, speeds, seeds=seeds, limit=limit)

    def test_problems(self, limit: int | None = None) -> dict[str, list[Problem]]:
        """The test sets of the run by name, of each the first `limit` problems.

        Raises:
            UserError: an exported folder knows no problems; or a set cannot be read.
        """
        if is_exported(self.run.workdir):
            raise UserError(f"{self.run.workdir} is an exported folder and knows no problems: bring your own")
        return first_problems(self.run.config.data, limit)

    def encode_problems(self, problems: Sequence[Problem], *speeds: Speed) -> EncodedProblems:
        """Problems as token ids, to be asked at these speeds: for what looks closer at them (docs/inspect.md)."""
        return encoded_for(self, problems, [self.checked_speed(speed) for speed in speeds])

    def _options(self, speed, *, max_latents=None, max_answer_tokens=None, num_words=3, **given) -> Options:
        return self._programs.checked(
            check_options(
                speed=self.checked_speed(speed),
                max_latents=max_latents,
                max_answer_tokens=max_answer_tokens,
                num_words=num_words,
                **given,
            )
        )

    def checked_speed(self, asked) -> Speed:
        """The speed that is meant; UserError where it is none."""
        speed = check_speed(asked, self.method.recipe, has_speed=self.method.has_speed, stage=self.stage)
        if self.method.has_speed and not self.run.was_trained(self.stage, speed):
            tell_untrained(self.stage, self.method.recipe, speed)
        return speed

    @functools.cached_property
    def _programs(self) -> AskPrograms:
        return AskPrograms(self.engine, self.method, self.tokenizer, self.decode, self._round_up)

    @functools.cached_property
    def _round_up(self) -> RoundUp:
        return rounding_of(self.run.model.llama)

    @functools.cached_property
    def _reader(self) -> Reader:
        return Reader(self.stage, self.tokenizer, self.run.thinking(self.stage), self.run.model.llama.hidden_size)

    def _answers(self, questions: list[str], options: Options, first_index: int) -> list[Answer]:
        prompts, answers = self.prompts(questions, options.speed), {}
        keys_N = jax.vmap(jax.random.fold_in, (None, 0))(
            jax.random.key(options.seed), np.arange(first_index, first_index + len(questions)).astype(np.uint32)
        )
        for batch in batches_of(prompts, self.run.config.eval.batch_size, self.engine.num_shards, self._round_up):
            rows = self.engine.put_rows((batch.prompts, keys_N[batch.row_numbers_B]))
            decoded = fetch(self._programs.decode(self.parameters, rows, options))
            limits = self._programs.limits(options)
            for row, number in enumerate(batch.numbers):
                answers[number] = self._reader.answer(decoded, row, questions[number], limits)
        return [answers[number] for number in range(len(questions))]

    def prompts(self, questions: Sequence[str], speed: Speed) -> list[Prompt]:
        """The questions as the model is asked them: the ids of each, int32 `[T]`; the last opens the reasoning."""
        told = self.method.recipe.told(speed)
        texts = [question_prompt(question, told.said) for question in questions]
        ids = self.tokenizer.ids_of(texts)  # `check_questions` has said already which words are unknown
        prompts = (np.array([*of_one, self.tokenizer.separator_id], np.int32) for of_one in ids)
        return [Prompt(prompt, told.number) for prompt in prompts]
