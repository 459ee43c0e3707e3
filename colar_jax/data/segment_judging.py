"""Questions for a small judge of chains: does this say an answer, and do these two say the same one?

Made of chains whose answers stand in lines of their own ("So 12."), as those of `arithmetic:max_reflections=6` do.
"""

import random
import re
from collections.abc import Sequence

from colar_jax.data.problems import Problem
from colar_jax.data.prompts import steps_text
from colar_jax.data.segments import last_sentences, split_segments
from colar_jax.errors import UserError

YES, NO = "Yes", "No"
# Words of the questions, apart from those of chains.
JUDGE_WORDS = (YES, NO, "States", "Same", "answer")
_STATEMENT = re.compile(r"^So (\d+)\.$", re.MULTILINE)


def statement_text(ending: str) -> str:
    """Does the end of a segment state an answer?"""
    return f"States answer?\n{ending}"


def agreement_text(first: str, second: str) -> str:
    """Do the ends of two segments state the same answer? Of two numbers that can be said without the problem."""
    return f"Same answer?\n{first}\n\n{second}"


def judge_problems(
    problems: Sequence[Problem], cues: tuple[str, ...], place: str, sentences: int, seed: int
) -> list[Problem]:
    """One question a chain, with the answer Yes or No, as often: two of three whether two segments agree.

    To compare is the harder one.

    Args:
        problems: whose chains are judged.
        cues, place: as `segments.reflections` takes them.
        sentences: how many the judge reads at a segment's end.

    Raises:
        UserError: no chain says an answer in a line of its own among the sentences that are read.
    """
    rng = random.Random(f"judge/{seed}")
    stating = [_stating(problem, cues, place, sentences) for problem in problems]
    if not any(stating):
        raise UserError(
            "no chain of the training problems says an answer in a line of its own (So 12.), which is what a segment "
            "judge learns from: take arithmetic:max_reflections=6, or a language model as eval.trim.verifier"
        )
    endings = [last_sentences(rng.choice(found), sentences) for found in stating if found]
    made = []
    for number, found in enumerate(stating):
        if not found:
            continue
        states, is_yes = number % 3 == 0, number // 3 % 2 == 0
        segment = rng.choice(found)
        ending = last_sentences(segment, sentences)
        if states:
            text = statement_text(ending if is_yes else _unfinished(segment, sentences, rng))
        else:
            text = agreement_text(*_pair(ending, is_yes, found, endings, (sentences, rng)))
        made.append(Problem(text, (), YES if is_yes else NO))
    return made


def _stating(problem: Problem, cues: tuple[str, ...], place: str, sentences: int) -> list[str]:
    """The segments of a chain that say an answer where the judge reads."""
    segments = split_segments(steps_text(problem.steps), cues, place)
    stating = [segment for segment in segments if _STATEMENT.search(segment)]
    return [segment for segment in stating if _STATEMENT.search(last_sentences(segment, sentences))]


def _unfinished(segment: str, sentences: int, rng: random.Random) -> str:
    """The end of a part of a segment before it says its answer."""
    lines = segment[: _STATEMENT.search(segment).start()].strip().split("\n")
    return last_sentences("\n".join(lines[: rng.randint(1, len(lines))]), sentences)


def _pair(ending: str, is_same: bool, found: list[str], endings: list[str], how) -> tuple[str, str]:
    """Two ends; a wrong second is another chain's, or the same with a number near to the right one."""
    sentences, rng = how
    answer = _said(ending)
    others = [text for text in (last_sentences(segment, sentences) for segment in found) if _said(text) == answer]
    if is_same:
        return ending, rng.choice(others)
    wrong = rng.choice(endings)
    if rng.random() < 0.5 or _said(wrong) == answer:
        near = rng.choice([n for n in range(max(1, int(answer) - 3), int(answer) + 4) if n != int(answer)])
        wrong = re.sub(rf"\b{answer}(?=>>|\.$)", str(near), rng.choice(others), flags=re.MULTILINE)
    return (ending, wrong) if rng.random() < 0.5 else (wrong, ending)


def _said(ending: str) -> str:
    return _STATEMENT.search(ending)[1]
