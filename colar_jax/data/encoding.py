"""Problems as token ids: tokenized once, then put together for any speed."""

import dataclasses
import functools
import re

import numpy as np
from tokenizers import models

from colar_jax.data import prompts
from colar_jax.data.grouping import num_groups
from colar_jax.data.problems import Problem
from colar_jax.data.prompts import Speed
from colar_jax.data.recipe import SpeedChange, Told
from colar_jax.data.speed_changes import SpeedChanges
from colar_jax.data.tokenizers import Tokenizer
from colar_jax.errors import UserError

# Problems on which the shortcut of `_tail_lengths` is checked against tokenizing the whole prompt.
NUM_CHECKED = 64

# Words as a person sees them: a run of letters, a run of digits, or a single sign.
_WORD = re.compile(r"\d+|[^\W\d_]+|[^\w\s]|_")


# Of `EncodedProblems`, what has an entry for each problem.
_OF_EACH_PROBLEM = (
    *("problems", "heads", "steps", "answers", "step_starts", "step_ends", "step_token_starts"),
    *("before_digits", "needed_lengths", "speed_labels"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
    """A question as a model is asked it: its ids, the separator that opens the reasoning last."""

    ids: np.ndarray  # int32
    speed_number: float  # what that separator is told of the speed (`data.recipe.Told.number`)
    later: SpeedChange | None = None  # what latents are told of it; None: the same

    def __len__(self) -> int:
        return len(self.ids)


@dataclasses.dataclass(frozen=True)
class EncodedProblems:
    """The token ids of a set of problems, as three ragged lists of int32 arrays, and the separator's and eos's ids.

    A prompt depends on the speed it says. Only its tail does, so a prompt is kept once (with the first of `speeds`)
    and the tails once a speed: `prompt(i, speed)`.
    """

    problems: tuple[Problem, ...]
    heads: tuple[np.ndarray, ...]  # the prompt up to where the speed makes a difference
    tails: dict[str, np.ndarray]  # by the speed's text, the rest of the prompt
    steps: tuple[np.ndarray, ...]
    answers: tuple[np.ndarray, ...]  # "Answer:..." and eos
    separator_id: int
    eos_id: int
    step_starts: tuple[np.ndarray, ...] = ()  # where in `steps` each step begins, for methods that remove whole steps
    speed_labels: np.ndarray | None = None  # of each problem, of a grid of speeds (`OwnSpeed.labels_of`)
    speed_changes: SpeedChanges | None = None  # in mid-chain, with what to choose there (`methods.own_speed`)
    answer_prefix: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))  # of every answer
    needed_lengths: np.ndarray | None = None  # tokens of the steps that each answer needs; None: not known of all
    step_ends: tuple[np.ndarray, ...] = ()  # where each step ends, without the line break after it
    step_token_starts: tuple[np.ndarray, ...] = ()  # where in the steps' text each token begins
    before_digits: tuple[int, ...] = ()  # how many tokens of each answer stand before the one with its first digit

    def __len__(self) -> int:
        return len(self.problems)

    def prompt(self, index: int, speed: Speed) -> np.ndarray:
        """The ids of problem `index`'s prompt at `speed`, without the separator after it."""
        return np.concatenate([self.heads[index], self.tails[prompts.speed_text(speed)]])

    def head(self, count: int) -> "EncodedProblems":
        """The first problems alone."""
        parts = {name: getattr(self, name) for name in _OF_EACH_PROBLEM}
        parts = {name: part[:count] for name, part in parts.items() if part is not None}
        changes = None if self.speed_changes is None else self.speed_changes.head(count)
        return dataclasses.replace(self, **parts, speed_changes=changes)

    def ask(self, index: int, told: Told) -> Prompt:
        """Problem `index` as it is asked where the model is `told` of the speed."""
        return Prompt(np.append(self.prompt(index, told.said), np.int32(self.separator_id)), told.number, told.later)

    def prompt_lengths(self, speed: Speed) -> np.ndarray:
        """The number of tokens of every problem's prompt at `speed`."""
        return self.head_lengths + self.tail_length(speed)

    def tail_length(self, speed: Speed) -> int:
        """The number of tokens of a prompt from where its speed makes a difference."""
        return len(self.tails[prompts.speed_text(speed)])

    @functools.cached_property
    def head_lengths(self) -> np.ndarray:
        """The number of tokens of every problem's prompt before that."""
        return np.array([len(head) for head in self.heads])

    @functools.cached_property
    def step_lengths(self) -> np.ndarray:
        """The number of step tokens of every problem."""
        return np.array([len(steps) for steps in self.steps])

    def needed_latents(self, speed: float, phase: float = 0.0) -> float | None:
        """Mean #L at `speed` of chains with only the steps that the answers need; None where that is not known.

        No shorter chain says all of it: what a chain has more can be cut at no loss. `phase` is `Recipe.asked_phase`.
        """
        return None if self.needed_lengths is None else float(num_groups(self.needed_lengths, speed, phase).mean())

    def shared_answer_tokens(self, index: int) -> int:
        """How many tokens at the start of an answer are the prefix that all answers have."""
        is_same = self.answers[index][: len(self.answer_prefix)] == self.answer_prefix[: len(self.answers[index])]
        return int(np.cumprod(is_same).sum())

    def tokens_before_digit(self, index: int) -> int:
        """How many tokens of an answer stand before the one with its first digit; without a digit, its prefix."""
        return self.before_digits[index] if self.before_digits else self.shared_answer_tokens(index)

    @functools.cached_property
    def lengths_without_last_step(self) -> np.ndarray:
        """The number of step tokens of every problem up to its last step, and to the line break before that."""
        return np.array([int(ends[-2]) if len(ends) > 1 else 0 for ends in self.step_ends])

    @functools.cached_property
    def answer_lengths(self) -> np.ndarray:
        """The number of answer tokens of every problem, eos included."""
        return np.array([len(answer) for answer in self.answers])


def encode(problems: list[Problem], tokenizer: Tokenizer, speeds: tuple[Speed, ...]) -> EncodedProblems:
    """Tokenize `problems` for prompts that say any of `speeds`.

    Raises:
        UserError: the tokenizer does not know the words of most questions, or splits the end of a prompt differently
            from question to question, so that its tail cannot be exchanged.
    """
    texts = [prompts.speed_text(speed) for speed in speeds]
    questions = [problem.question for problem in problems]
    first_prompts = _arrays(tokenizer, [prompts.question_prompt(question, speeds[0]) for question in questions])
    num_unknown = sum(tokenizer.hf.unk_token_id in ids for ids in first_prompts)
    if tokenizer.hf.unk_token_id is not None and 2 * num_unknown > len(problems):
        raise UserError(
            f"{num_unknown} of {len(problems)} questions have words that the tokenizer does not know, such as "
            f"{questions[0]!r}: choose the tokenizer of your model, --config.data.tokenizer=<folder or hub id>"
        )
    tails = _tails(tokenizer, questions[0] if questions else "", speeds)
    tail_length = len(tails[texts[0]])
    heads = tuple(ids[: len(ids) - tail_length] for ids in first_prompts)
    step_starts, step_ends, step_token_starts = _step_bounds(problems, tokenizer)
    encoded = EncodedProblems(
        problems=tuple(problems),
        heads=heads,
        tails=tails,
        steps=_arrays(tokenizer, [prompts.steps_text(problem.steps) for problem in problems]),
        answers=tuple(
            np.append(ids, np.int32(tokenizer.eos_id))
            for ids in _arrays(tokenizer, [prompts.answer_text(problem.answer) for problem in problems])
        ),
        separator_id=tokenizer.separator_id,
        eos_id=tokenizer.eos_id,
        step_starts=step_starts,
        answer_prefix=np.array(tokenizer.encode(prompts.ANSWER_PREFIX), np.int32),
        step_ends=step_ends,
        step_token_starts=step_token_starts,
        before_digits=_before_digits(problems, tokenizer),
        needed_lengths=_needed_lengths(problems, tokenizer),
    )
    _check_tails(encoded, tokenizer, speeds)
    return encoded


def _arrays(tokenizer: Tokenizer, texts: list[str]) -> tuple[np.ndarray, ...]:
    return tuple(np.array(ids, np.int32) for ids in tokenizer.encode_batch(texts))


def _step_bounds(problems: list[Problem], tokenizer: Tokenizer) -> tuple[tuple[np.ndarray, ...], ...]:
    """The first token of each step, the one after its last, and where tokens begin: before or after a line break."""
    starts, ends = [], []
    token_starts = tokenizer.token_starts([prompts.steps_text(problem.steps) for problem in problems])
    for problem, starts_of_tokens in zip(problems, token_starts, strict=True):
        after = np.cumsum([len(step) + 1 for step in problem.steps], dtype=int)  # the line break
        starts.append(np.searchsorted(starts_of_tokens, np.concatenate([[0], after[:-1]]).astype(int)[: len(after)]))
        ends.append(np.searchsorted(starts_of_tokens, after - 1))
    return tuple(starts), tuple(ends), tuple(np.array(of_one, np.int32) for of_one in token_starts)


def _needed_lengths(problems: list[Problem], tokenizer: Tokenizer) -> np.ndarray | None:
    if not problems or any(problem.needed_steps is None for problem in problems):
        return None
    texts = [prompts.steps_text(problem.needed_steps) for problem in problems]
    return np.array([len(ids) for ids in tokenizer.encode_batch(texts)])


def _before_digits(problems: list[Problem], tokenizer: Tokenizer) -> tuple[int, ...]:
    texts = [prompts.answer_text(problem.answer) for problem in problems]
    before = []
    for text, starts_of_tokens in zip(texts, tokenizer.token_starts(texts), strict=True):
        digit = re.search(r"\d", text)
        place = len(prompts.ANSWER_PREFIX) if digit is None else digit.start()
        before.append(max(int(np.searchsorted(starts_of_tokens, place, side="right")) - 1, 0))
    return tuple(before)


def _tails(tokenizer: Tokenizer, question: str, speeds: tuple[Speed, ...]) -> dict[str, np.ndarray]:
    """The part of a prompt from the first token that any two speeds disagree on (or its last token)."""
    ids = {prompts.speed_text(s): tokenizer.encode(prompts.question_prompt(question, s)) for s in speeds}
    shortest = min(len(prompt) for prompt in ids.values())
    common = 0
    while common < shortest - 1 and len({prompt[common] for prompt in ids.values()}) == 1:
        common += 1
    return {text: np.array(prompt[common:], np.int32) for text, prompt in ids.items()}


def _check_tails(encoded: EncodedProblems, tokenizer: Tokenizer, speeds: tuple[Speed, ...]) -> None:
    # Ranges bring hundreds of speeds: each of them is tried on fewer problems.
    per_speed = NUM_CHECKED if len(speeds) <= NUM_CHECKED else 2
    for index in np.linspace(0, len(encoded) - 1, min(per_speed, len(encoded))).astype(int):
        for speed in speeds:
            prompt = prompts.question_prompt(encoded.problems[index].question, speed)
            if tokenizer.encode(prompt) != encoded.prompt(index, speed).tolist():
                raise UserError(
                    f"the tokenizer splits the end of the prompt of problem {index} (speed {speed}) in its own way, so "
                    f"that speeds cannot be exchanged: {prompt!r}"
                )


def unreadable_words(question: str, tokenizer: Tokenizer) -> tuple[str, ...]:
    """The words and numbers of a question that the tokenizer cannot read, each once, in their order.

    A word that it does not know becomes its unknown token. A tokenizer of whole words, as the embedded one, also takes
    a number apart that is not among its words (150 becomes 15 and 0), which no model of it has learned to put together.
    Where tokens are pieces of words, that is how every number is read.
    """
    encoding = tokenizer.hf(question, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, spans = encoding["input_ids"], encoding["offset_mapping"]
    reads_whole_words = isinstance(tokenizer.hf.backend_tokenizer.model, models.WordLevel)
    unknown_id, words = tokenizer.hf.unk_token_id, {}
    first = 0  # the first token that does not end before the word: words and tokens are both in their order
    for match in _WORD.finditer(question):
        while first < len(spans) and spans[first][1] <= match.start():
            first += 1
        after = first
        while after < len(spans) and spans[after][0] < match.end():
            after += 1
        of_word = [ids[at] for at in range(first, after) if spans[at][1] > match.start()]
        is_cut = reads_whole_words and match[0].isdigit() and len(of_word) > 1
        if is_cut or unknown_id in of_word or not of_word:
            words[match[0]] = None
    return tuple(words)
