"""One chain of thought, watched as it grows: its segments, what the verifier says of them, and where thinking ends."""

import bisect
import dataclasses
import enum
import itertools
from collections.abc import Callable, Sequence

from colar_jax.data.segments import last_sentences, reflections
from colar_jax.settings import TrimConfig, split_names

_BASE, _MODULUS = 1_000_003, (1 << 61) - 1  # of the rolling hash


class Why(enum.IntEnum):
    """Why thinking ended."""

    ITSELF = 0  # the model stopped, or was cut at its limit
    AGREEMENT = 1
    SEGMENTS = 2  # too many without agreement
    BUDGET = 3
    REPEATS = 4


@dataclasses.dataclass(frozen=True)
class TrimRules:
    """When a chain is ended."""

    agreements: int
    limit: int  # of the chain, in tokens
    settings: TrimConfig

    @property
    def cues(self) -> tuple[str, ...]:
        """The words that begin a reflection."""
        return split_names(self.settings.cues)

    @property
    def budget(self) -> int:
        """Tokens after which thinking ends at the latest; `limit + 1`: no such number."""
        share = self.settings.budget_share
        return max(1, int(share * self.limit)) if share else self.limit + 1


@dataclasses.dataclass(frozen=True)
class Segment:
    """A segment that is over: tokens `start` to `stop` of its chain.

    A chain that ends with it ends at `end`, without the white space before the next segment: as chains end by
    themselves.
    """

    start: int
    stop: int
    end: int
    ending: str  # its last sentences


class Watch:
    """Follows a chain. `grow` with what is thought so far, ask the verifier about what came back, `hear` the verdicts.

    What comes of it does not depend on how often one looks: what is known after the fewest thoughts ends the chain, and
    of what is known after equally many, a segment before a repeat.
    """

    def __init__(self, question: str, rules: TrimRules, read: Callable[[list[int]], str]):
        self.question, self._rules, self._read = question, rules, read
        self.end: int | None = None  # after how many thoughts, once that is decided
        self.why = Why.ITSELF
        self._start = 0  # of the segment that is not over yet
        self._num_segments = 0
        self._stated: Segment | None = None  # the last that stated an answer
        self._agreed = 0  # in a row
        self._repeats = RollingHash(rules.settings.repeat_window, rules.settings.repeat_times)

    def grow(self, ids: Sequence[int], is_over: bool = False) -> list[Segment]:
        """The segments that are over by now and were not before.

        Args:
            is_over: the chain has ended by itself, after these tokens.
        """
        if self.end is not None:
            return []
        settings, budget = self._rules.settings, self._rules.budget
        exceeds = len(ids) > budget or (len(ids) == budget and not is_over)
        ids = list(ids[:budget])
        repeats = self._repeats.first_repeat(ids)
        if repeats is not None:
            self._end_at(repeats, Why.REPEATS)
            ids = ids[: repeats + settings.repeat_window]  # what is thought later says nothing any more
        elif exceeds:
            self._end_at(budget, Why.BUDGET)
        segments = self._new_segments(ids)
        if settings.max_segments:
            left = settings.max_segments - self._num_segments
            segments = segments[:left]
            if len(segments) == left:
                self._end_at(segments[-1].end, Why.SEGMENTS)
        self._num_segments += len(segments)
        return segments

    def stated(self, segments: Sequence[Segment], verdicts: Sequence[bool]) -> list[tuple[Segment, Segment]]:
        """Of new segments those that state an answer, each after the one that did so before: do they agree?"""
        stating = [segment for segment, states in zip(segments, verdicts, strict=True) if states]
        chain = [*([self._stated] if self._stated else []), *stating]
        self._stated = chain[-1] if chain else None
        return list(itertools.pairwise(chain))

    def hear(self, pairs: Sequence[tuple[Segment, Segment]], verdicts: Sequence[bool]) -> None:
        """What the verifier says of these pairs: thinking ends with the segment of the last agreement that it takes."""
        for (_, later), agree in zip(pairs, verdicts, strict=True):
            self._agreed = self._agreed + 1 if agree else 0
            if self._agreed >= self._rules.agreements:
                self.end, self.why = later.end, Why.AGREEMENT
                return

    def _end_at(self, end: int, why: Why) -> None:
        self.end, self.why = end, why

    def _new_segments(self, ids: list[int]) -> list[Segment]:
        found = []
        while (segment := self._first_segment(ids[self._start :])) is not None:
            found.append(segment)
            self._start = segment.stop
        return found

    def _first_segment(self, ids: list[int]) -> Segment | None:
        """The first that is over, of `ids` from its first token on: as read by one who looks at once after it.

        A token may hold the end of one and the beginning of the next, so that each is read anew.
        """
        settings, start, text = self._rules.settings, self._start, self._said(ids)
        for place in reflections(text, self._rules.cues, settings.cue_after):
            if count := self._tokens_of(ids, place):
                end = min(count, self._tokens_with(ids, len(text[:place].rstrip())))
                ending = last_sentences(text[:place], settings.sentences)
                return Segment(start, start + count, start + end, ending)
        return None

    def _said(self, ids: list[int]) -> str:
        """What tokens say, without a last character of which only the first bytes are there: it may be of a word."""
        return self._read(ids).rstrip("\N{REPLACEMENT CHARACTER}")

    def _tokens_of(self, ids: list[int], num_characters: int) -> int:
        """How many of the tokens lie wholly in the first characters of what they say."""
        return bisect.bisect_right(range(1, len(ids) + 1), num_characters, key=lambda n: len(self._said(ids[:n])))

    def _tokens_with(self, ids: list[int], num_characters: int) -> int:
        """How many tokens it takes to say the first characters."""
        return bisect.bisect_left(range(1, len(ids) + 1), num_characters, key=lambda n: len(self._said(ids[:n]))) + 1


class RollingHash:
    """Finds where a window of tokens comes for the n-th time, none of its times overlapping another."""

    def __init__(self, window: int, times: int):
        self._window, self._times = window, times
        self._hash, self._seen = 0, 0
        self._found: dict[int, tuple[int, int]] = {}  # hash -> (how often, where the last one ends)
        self._leading = pow(_BASE, window - 1, _MODULUS) if window else 0

    def first_repeat(self, ids: Sequence[int]) -> int | None:
        """Where the window that comes once too often begins; `ids` is all there is, what was seen before included."""
        if not self._window:
            return None
        for place in range(self._seen, len(ids)):
            if place >= self._window:
                self._hash -= (ids[place - self._window] + 1) * self._leading
            self._hash = (self._hash * _BASE + ids[place] + 1) % _MODULUS
            self._seen = place + 1
            start = place + 1 - self._window
            if start < 0:
                continue
            count, end = self._found.get(self._hash, (0, 0))
            if start >= end:
                count, end = count + 1, place + 1
                self._found[self._hash] = count, end
                if count == self._times:
                    return start
        return None
