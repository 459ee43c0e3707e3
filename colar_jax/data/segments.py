"""A chain of thought in segments: each ends where a reflection begins ("Wait, ...")."""

import functools
import itertools
import re

PLACES = {"blank_line": r"\n[ \t]*\n\s*", "line": r"\n\s*"}
# A sentence of a chain ends at a line break, or after a sign that ends one.
_SENTENCE_END = re.compile(r"\n+|(?<=[.!?])\s+")


@functools.cache
def _cue_pattern(cues: tuple[str, ...], place: str) -> re.Pattern[str]:
    words = "|".join(re.escape(cue) for cue in cues)
    # One more character has to be there: what begins a longer word is no cue.
    return re.compile(rf"{PLACES[place]}((?:{words})(?=\W))")


def reflections(text: str, cues: tuple[str, ...], place: str) -> list[int]:
    """Where in a text the words stand that begin a reflection, in characters; the first word of a text is none.

    Args:
        cues: the words, such as `Wait`.
        place: one of `PLACES`, what has to stand before them.
    """
    return [match.start(1) for match in _cue_pattern(cues, place).finditer(text)]


def split_segments(text: str, cues: tuple[str, ...], place: str) -> list[str]:
    """The segments of a whole text, which put together are the text."""
    places = [0, *reflections(text, cues, place), len(text)]
    return [text[start:stop] for start, stop in itertools.pairwise(places)]


def last_sentences(text: str, count: int) -> str:
    """The last sentences of a segment, one a line: what states its answer, if anything does."""
    sentences = [sentence.strip() for sentence in _SENTENCE_END.split(text)]
    return "\n".join([sentence for sentence in sentences if sentence][-count:])
