"""What may be asked: questions that can be read, and options within their ranges; what is wrong is a UserError."""

import dataclasses
import functools
import logging
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import models

from colar_jax.config import DecodeConfig, nearest, parse_speeds
from colar_jax.data.encoding import unreadable_words
from colar_jax.data.prompts import AUTO_SPEED, Speed, speed_text
from colar_jax.data.recipe import Recipe
from colar_jax.data.tokenizers import Tokenizer
from colar_jax.errors import UserError
from colar_jax.settings.checks import A_SPEED, is_finite, is_speed

logger = logging.getLogger(__name__)

# Thoughts and answer tokens that anybody may ask for; each has a place in the cache.
MOST_POSITIONS = 1 << 15
# Below it a temperature is greedy: divided by less, float32 logits overflow.
COLDEST = 1e-3
_LARGEST_INDEX = 2**32 - 1
_SHOWN, _SHOWN_OF_A_WORD = 80, 40  # characters of a question, and of a word that it has
_MOST_KNOWN = 200  # words in a message


@dataclasses.dataclass(frozen=True)
class Options:
    """How to answer, checked: `Thinker.generate` says what each of them is."""

    speed: Speed
    temperature: float
    seed: int
    max_latents: int | None
    max_answer_tokens: int | None
    num_words: int

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0

    def decode(self, configured: DecodeConfig) -> DecodeConfig:
        """The settings with the temperature for latents, stops and tokens alike."""
        names = ("latent_temperature", "stop_temperature", "answer_temperature")
        return configured if self.greedy else dataclasses.replace(configured, **dict.fromkeys(names, self.temperature))


def check_options(
    *, temperature: Any, seed: Any, max_latents: Any, max_answer_tokens: Any, num_words: Any, speed: Speed
) -> Options:
    """The options, or the UserError for the first that is wrong."""
    if not (_is_number(temperature) and temperature >= 0 and is_finite(temperature)):
        raise UserError(f"temperature={temperature!r} is no number of at least 0, finite in float32")
    _whole("seed", seed, 0, 2**32 - 1)
    for name, value in (("max_latents", max_latents), ("max_answer_tokens", max_answer_tokens)):
        if value is not None:
            _whole(name, value, 1, MOST_POSITIONS)
    _whole("num_words", num_words, 0, 1000)
    return Options(
        speed=speed,
        temperature=float(temperature) if temperature >= COLDEST else 0.0,
        seed=int(seed),
        max_latents=None if max_latents is None else int(max_latents),
        max_answer_tokens=None if max_answer_tokens is None else int(max_answer_tokens),
        num_words=int(num_words),
    )


def check_index(name: str, index: Any, num_questions: int = 1) -> None:
    """UserError where so many questions from this index on have none that a key is made of."""
    _whole(name, index, 0, _LARGEST_INDEX + 1 - max(num_questions, 1))


def check_speed(asked: Any, recipe: Recipe, *, has_speed: bool, stage: str) -> Speed:
    """The speed to think at: `asked`, a number or "auto"; None is the first that was trained.

    Raises:
        UserError: it is no speed, or several, or the stage has none to choose.
    """
    trained = recipe.trained_speeds
    if asked is None or asked == "":
        return trained[0]
    given = parse_speeds(asked) if isinstance(asked, str) else (float(asked),) if _is_number(asked) else (math.nan,)
    if len(given) > 1:
        raise UserError(f"speed={asked}: one speed at a time, such as speed={speed_text(given[0])}")
    if not given or (given[0] != AUTO_SPEED and not is_speed(given[0])):
        raise UserError(f"speed={asked!r} is no thinking speed: {A_SPEED}")
    if not has_speed:
        raise UserError(f"speed={asked}: stage {stage} has none to choose; leave it out")
    recipe.told(given[0])  # may refuse it
    return given[0]


@functools.cache  # once, however many batches a list of questions has
def tell_untrained(stage: str, recipe: Recipe, speed: Speed) -> None:
    """A warning that a stage was never trained at the speed that it is asked for."""
    trained, asked = ", ".join(map(speed_text, recipe.trained_speeds)), speed_text(speed)
    logger.warning("stage %s was trained at speed %s, not at %s: its answers will be poor", stage, trained, asked)


def check_questions(
    questions: Any,
    tokenizer: Tokenizer,
    *,
    allow_unknown_words: bool,
    names: Sequence[str] = (),
    warn: Callable[..., None] = logger.warning,
) -> list[str]:
    """The questions, each a text that the tokenizer reads; UserError for the first that is none.

    Args:
        names: what messages call each of them; none: their numbers, from 0 on.
        warn: is given a message and its arguments where a question is let pass with words that are not read.
    """
    if not isinstance(questions, Sequence) or isinstance(questions, bytes | bytearray):
        questions = _listed_questions(questions)
    for number, question in enumerate(questions):
        where = names[number] if names else "the question" if len(questions) == 1 else f"question {number}"
        if not isinstance(question, str):
            raise UserError(f"{where} is {question!r:.{_SHOWN}}, of type {type(question).__name__}: a text is wanted")
        if not question.strip():
            raise UserError(f"{where} is empty: ask something")
        try:
            question.encode()
        except UnicodeEncodeError as error:
            half = question[error.start]
            raise UserError(f"{where} has {half!r}, half of a character: it cannot be encoded") from None
        if sign := _special_in(question, tokenizer):
            raise UserError(
                f"{where} has {sign!r} in it, which tells the model that something ends: write it otherwise"
            )
        if words := unreadable_words(question, tokenizer):
            if not allow_unknown_words and isinstance(tokenizer.hf.backend_tokenizer.model, models.WordLevel):
                raise UserError(_unknown_words(where, question, words, tokenizer))
            warn(
                "%s: the tokenizer has no token for %s, so the model does not read what you wrote",
                _shown(question),
                _named(words),
            )
    return list(questions)


def _special_in(question: str, tokenizer: Tokenizer) -> str:
    """What in a question the tokenizer reads as the separator, or as a special token; "" for nothing."""
    ids = tokenizer.hf(question, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    special = {tokenizer.separator_id, *tokenizer.hf.all_special_ids} - {tokenizer.hf.unk_token_id}
    return next((tokenizer.token_text(token_id) for token_id in ids if token_id in special), "")


def _listed_questions(questions: Any) -> list[Any]:
    try:
        if not isinstance(questions, bytes | bytearray):
            return list(questions)
    except TypeError:
        pass
    raise UserError(f"questions is of type {type(questions).__name__}: a text is wanted, or a list of texts")


def _unknown_words(where: str, question: str, words: Sequence[str], tokenizer: Tokenizer) -> str:
    """A tokenizer of whole words has a list of what it knows; of pieces of words only odd signs are missing."""
    known = known_words(tokenizer)
    hints = "".join(filter(None, (nearest(word, known) for word in words[:1] if not word.isdigit())))
    more = f" and {len(known) - _MOST_KNOWN} more" if len(known) > _MOST_KNOWN else ""
    return (
        f"{where}, {_shown(question)!r}: the tokenizer does not know {_named(words)}.{hints} It knows "
        f"{_numbers(tokenizer)}these words: {' '.join(known[:_MOST_KNOWN])}{more}"
    )


def _named(words: Sequence[str]) -> str:
    """The first ten, none of them longer than a line can take."""
    named = ", ".join(repr(_shown(word, _SHOWN_OF_A_WORD)) for word in words[:10])
    return named + (f" and {len(words) - 10} more" if len(words) > 10 else "")


def _shown(text: str, most: int = _SHOWN) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def known_words(tokenizer: Tokenizer) -> list[str]:
    """The words, of letters, that a tokenizer of whole words knows, sorted."""
    special = set(tokenizer.hf.all_special_tokens)
    return sorted((word for word in tokenizer.hf.get_vocab() if word.isalpha() and word not in special), key=str.lower)


def _numbers(tokenizer: Tokenizer) -> str:
    """Up to where a tokenizer of whole words knows all whole numbers, as the start of a list."""
    vocabulary, count = tokenizer.hf.get_vocab(), 0
    while str(count) in vocabulary:
        count += 1
    return f"the whole numbers up to {count - 1} and " if count else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _whole(name: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or not least <= value <= most:
        raise UserError(f"{name}={value!r} is no whole number from {least} to {most}")
