"""Would the exact answer of a problem be judged right? Checked before training, not found out by an accuracy of 0.

A text can collide with what controls a decode: `###` in a step ends the reasoning, "Answer: 5" as an answer is read
back as nothing, and a tokenizer may not give back what it was given. Every answer is encoded, cut where a decode would
stop, decoded, extracted and verified as in evaluation.
"""

import dataclasses
import logging
import reprlib

import numpy as np

from colar_jax.data.answers import extract_answer, find_verifier, is_plainly_right, is_same_mathematics
from colar_jax.data.encoding import EncodedProblems, encode
from colar_jax.data.grouping import num_groups
from colar_jax.data.problems import Problem
from colar_jax.data.prompts import SEPARATOR, Speed
from colar_jax.data.tokenizers import Tokenizer
from colar_jax.errors import UserError
from colar_jax.settings import DataConfig

logger = logging.getLogger(__name__)

# Of the answers that come back changed, so many are shown to the verifier: math takes up to seconds for one.
_MOST_VERIFIED = 50
_MOST_NAMED = 3


@dataclasses.dataclass(frozen=True)
class DecodeRoom:
    """What a decode has room for; 0 where no method of the run thinks so."""

    answer_tokens: int
    words: int = 0  # of a chain of thought
    latents: int = 0
    slowest: float = 1.0  # the speed at which most latents are needed


def encode_readable(
    name: str,
    problems: list[Problem],
    tokenizer: Tokenizer,
    speeds: tuple[Speed, ...],
    config: DataConfig,
    room: DecodeRoom,
) -> EncodedProblems:
    """`encode` a set, and see that its answers can be right.

    Args:
        name: of the set, for messages.
        room: what lengths are compared with; what is longer is logged.

    Raises:
        UserError: more problems than `config.max_unreadable` can never be judged right, or as `encode`.
    """
    encoded = encode(problems, tokenizer, speeds)
    refuse_unreadable(name, encoded, tokenizer, config)
    warn_of_lengths(name, encoded, room)
    return encoded


def refuse_unreadable(name: str, encoded: EncodedProblems, tokenizer: Tokenizer, config: DataConfig) -> None:
    """Name the problems of a set that would be judged wrong if a model said them perfectly.

    UserError where they are more than `data.max_unreadable`, else a warning.
    """
    faults = _faults(encoded, tokenizer, config.verifier)
    if not faults:
        return
    most = config.max_unreadable * (1 if config.max_unreadable >= 1 else len(encoded))
    named = [f"{encoded.problems[i].place or f'problem {i + 1}'}: {faults[i]}" for i in sorted(faults)[:_MOST_NAMED]]
    message = (
        f"{name}: {len(faults)} of {len(encoded)} problems would be judged wrong if a model said them perfectly: "
        f"{'; '.join(named)}{'; ...' if len(faults) > _MOST_NAMED else ''}"
    )
    if len(faults) > most:
        raise UserError(
            f"{message}. Mend them, choose another data.tokenizer or data.verifier, or set data.max_unreadable="
            f"{len(faults)} to go on with them"
        )
    logger.warning("%s (allowed by data.max_unreadable)", message)


def warn_of_lengths(name: str, encoded: EncodedProblems, room: DecodeRoom) -> None:
    """Log how many answers and chains of a set are longer than a decode has room for, and by how much."""
    latents = num_groups(encoded.step_lengths, room.slowest)
    for kind, lengths, limit, setting in (
        ("answers", encoded.answer_lengths, room.answer_tokens, "max_answer_tokens"),
        ("chains of thought", encoded.step_lengths, room.words, "max_step_tokens"),
        (f"chains at speed {room.slowest:g}", latents, room.latents, "max_latents"),
    ):
        too_long = int(np.sum(lengths > limit)) if limit else 0
        if too_long:
            logger.warning(
                "%s: %d of %d %s are longer than decode.%s=%d (the longest: %d), which cuts them",
                name, too_long, len(encoded), kind, setting, limit, lengths.max(),
            )  # fmt: skip


def _faults(encoded: EncodedProblems, tokenizer: Tokenizer, verifier: str) -> dict[int, str]:
    """What is wrong with each problem that would be judged wrong, by its index."""
    faults = {}
    for index in _holding(encoded.separator_id, encoded.steps):
        faults[index] = f"{SEPARATOR!r} in its steps ends the reasoning there"
    read_back: dict[str, str | None] = {}
    for index, problem in enumerate(encoded.problems):
        if problem.answer not in read_back:
            said = _said(encoded.answers[index], tokenizer)
            read_back[problem.answer] = None if said == problem.answer else said
    wrong = _wrong(read_back, verifier)
    for index, problem in enumerate(encoded.problems):
        if problem.answer in wrong and index not in faults:
            answer, said = problem.answer, wrong[problem.answer]
            faults[index] = (
                f"data.verifier={verifier} never takes the answer {answer!r} for right"
                if said == answer
                else f"its answer {reprlib.repr(answer)} is read back as {reprlib.repr(said)}"
            )
    return faults


def _said(answer_ids: np.ndarray, tokenizer: Tokenizer) -> str:
    """The answer that evaluation reads in what a model says perfectly; its first eos ends it."""
    ends = np.flatnonzero(answer_ids == tokenizer.eos_id)
    (text,) = tokenizer.answer_texts(answer_ids[None], ends[:1] + 1)
    return extract_answer(text)


def _wrong(read_back: dict[str, str | None], verifier: str) -> dict[str, str]:
    """Of answers and what is read of each (None: the same), those that are judged wrong."""
    judge = find_verifier(verifier)
    at_a_glance = is_plainly_right if judge is is_same_mathematics else judge
    texts = {answer: answer if said is None else said for answer, said in read_back.items()}
    doubtful = [answer for answer, text in texts.items() if not at_a_glance(text, answer)]
    asked, others = doubtful[:_MOST_VERIFIED], doubtful[_MOST_VERIFIED:]
    wrong = [answer for answer in asked if not judge(texts[answer], answer)]
    # Where all that were asked about are right, so are the others: a tokenizer changes them in the same way.
    return {answer: texts[answer] for answer in (*wrong, *(others if wrong else ()))}


def _holding(token_id: int, texts: tuple[np.ndarray, ...]) -> list[int]:
    """The indices of the texts in which a token stands."""
    if not texts:
        return []
    ends = np.cumsum([len(ids) for ids in texts])
    return np.unique(np.searchsorted(ends, np.flatnonzero(np.concatenate(texts) == token_id), side="right")).tolist()
