"""The data of a run, for its shapes: the real problems where they can be read, else problems of assumed lengths."""

import dataclasses
import logging

import numpy as np

from colar_jax.config import Config
from colar_jax.data.encoding import EncodedProblems, encode
from colar_jax.data.problems import Problem
from colar_jax.data.prompts import Speed, speed_text
from colar_jax.data.splits import load_splits
from colar_jax.data.tokenizers import load_tokenizer
from colar_jax.weights.base_model import base_folder

logger = logging.getLogger(__name__)

# Tokens of an average problem of GSM8K-Aug's kind: prompt, steps, answer.
ASSUMED_LENGTHS = (70, 26, 5)
ASSUMED_STEP = 8  # tokens of one step, such as <<24*2=48>> and its line break
_NUM_ASSUMED = 4096
_SEPARATOR, _EOS = 0, 1


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Of a tokenizer, what shapes and programs depend on."""

    num_tokens: int
    separator_id: int
    eos_id: int


@dataclasses.dataclass(frozen=True)
class PlannedData:
    """Training and validation problems, and how many the real training set has."""

    vocabulary: Vocabulary
    train: EncodedProblems
    val: EncodedProblems
    num_examples: int
    is_assumed: bool


def planned_data(
    config: Config, speeds: tuple[Speed, ...], llama_vocabulary: int, num_examples: int = 0
) -> PlannedData:
    """The data of a config.

    Args:
        llama_vocabulary: of the model, for where the tokenizer cannot be read either.
        num_examples: the real number, where what is here is a sample.
    """
    try:
        base = base_folder(config.model.base, with_weights=False) if config.uses_tokenizer_of_base else None
        tokenizer = load_tokenizer(str(base or config.data.tokenizer))
        splits = load_splits(config.data)
    except ValueError as error:
        logger.warning(
            "the data cannot be read here (%s): assuming %d + %d + %d tokens a problem",
            " ".join(str(error).split())[:160], *ASSUMED_LENGTHS,
        )  # fmt: skip
        vocabulary = Vocabulary(llama_vocabulary, _SEPARATOR, _EOS)
        assumed = _assumed(speeds)
        return PlannedData(vocabulary, assumed, assumed, num_examples or _NUM_ASSUMED, is_assumed=True)
    vocabulary = Vocabulary(tokenizer.num_tokens, tokenizer.separator_id, tokenizer.eos_id)
    train, val = encode(splits.train, tokenizer, speeds), encode(splits.val, tokenizer, speeds)
    return PlannedData(vocabulary, train, val, num_examples or len(train), is_assumed=False)


def _assumed(speeds: tuple[Speed, ...]) -> EncodedProblems:
    """Problems whose lengths spread by half around the assumed ones."""
    rng = np.random.default_rng(0)
    prompts, steps, answers = (
        tuple(np.zeros(length, np.int32) for length in rng.integers(mean // 2, mean + mean // 2 + 1, _NUM_ASSUMED))
        for mean in ASSUMED_LENGTHS
    )
    starts = tuple(np.arange(0, len(step), ASSUMED_STEP) for step in steps)
    return EncodedProblems(
        problems=tuple(Problem("", ("",) * len(of_problem), "") for of_problem in starts),
        heads=prompts,
        tails={speed_text(speed): np.zeros(1, np.int32) for speed in speeds},
        steps=steps,
        answers=answers,
        separator_id=_SEPARATOR,
        eos_id=_EOS,
        step_starts=starts,
        step_ends=tuple(np.append(of_problem, len(step))[1:] for of_problem, step in zip(starts, steps, strict=True)),
    )
