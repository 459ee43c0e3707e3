"""Decodes whose chains are watched: in place of `decode_program.Programs`, so that an evaluator notices nothing.

While the devices think the next chunk the host reads the one before, and asks the verifier about what is new in it.
Its passes are queued behind that chunk. Their verdicts are known before the chunk after it is started: a chain is ended
one chunk late at most, and what it thought by then is discarded (and counted).
"""

import dataclasses
import functools
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from colar_jax.data.tokenizers import Tokenizer
from colar_jax.decoding import chunks
from colar_jax.decoding.chunks import Glimpse, Paused
from colar_jax.decoding.decoder import Decoded
from colar_jax.evaluation.decode_program import Programs, ProgramSpec, Variation, ways_of
from colar_jax.evaluation.trimming.verifier import YesNoModel
from colar_jax.evaluation.trimming.watch import Segment, TrimRules, Watch, Why
from colar_jax.evaluation.trimming.wording import Asked, Inquiry
from colar_jax.parallel.hosts import fetch
from colar_jax.settings import TrimConfig

_NO_END = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True, eq=False)
class _Running:
    """A batch whose first chunk is under way."""

    spec: ProgramSpec
    parameters: object
    what: Variation
    questions: Sequence[str]
    paused: Paused
    glimpse: Glimpse


@dataclasses.dataclass(frozen=True, eq=False)
class _Compiled:
    """The programs of a spec."""

    begin: object
    go_on: object
    answer: object


class TrimPrograms:
    """Compiles the chunks of each `ProgramSpec` once, whatever the number of agreements.

    Args:
        programs: whose counts of compilations and seconds these go into.
    """

    def __init__(self, settings: TrimConfig, verifier: YesNoModel, tokenizer: Tokenizer, programs: Programs):
        self.settings, self.verifier, self.tokenizer, self.programs = settings, verifier, tokenizer, programs
        self.cue_ids = tuple(tokenizer.encode(settings.answer_cue)) if settings.answer_cue else ()
        self.compiled = functools.cache(self._compile)

    def ended_by(self, agreements: int) -> "TrimmedDecodes":
        """Decodes that end after so many agreements in a row."""
        return TrimmedDecodes(self, agreements)

    def run(self, program, *arguments):
        """What a program gives, its time counted as compiling where it had to be compiled, else as the devices'.

        The verifier's programs are counted with the others.
        """
        programs, start = self.programs, time.perf_counter()
        num_before, num_of_verifier = programs.num_compiled, self.verifier.num_compiled
        given = program(*arguments)
        seconds = time.perf_counter() - start
        programs.num_compiled += self.verifier.num_compiled - num_of_verifier
        if programs.num_compiled > num_before:
            programs.compile_seconds += seconds
        else:
            programs.device_seconds += seconds
        return given

    def _compile(self, spec: ProgramSpec) -> _Compiled:
        # The cache of what is thought has room for all that comes after it.
        def with_room(limits):
            return dataclasses.replace(limits, max_answer_tokens=limits.max_answer_tokens + len(self.cue_ids))

        def begin(model, compute, prompts, keys_B, what):
            self.programs.num_compiled += 1  # runs when jit traces
            think, limits = ways_of(spec, what)
            return chunks.begin(model, prompts, keys_B, think, with_room(limits), compute)

        def go_on(model, compute, paused, ends_B, what):
            self.programs.num_compiled += 1
            what, until = what
            think, limits = ways_of(spec, what)
            limits = dataclasses.replace(with_room(limits), cut_at=jnp.minimum(limits.cut_at, until))
            return chunks.go_on(model, paused, ends_B, think, limits, compute)

        def answer(model, compute, paused, ends_B, what):
            self.programs.num_compiled += 1
            return chunks.answer(model, paused, ends_B, self.cue_ids, ways_of(spec, what)[1], compute)

        begin, go_on, answer = map(spec.engine.compile_rows, (begin, go_on, answer))
        # In place: the cache of what is thought is as large as anything.
        advance = jax.jit(
            lambda parameters, paused, ends, what: go_on(parameters, (paused, ends), what), donate_argnums=1
        )
        return _Compiled(begin, lambda parameters, rows, what: advance(parameters, *rows, what), answer)


class TrimmedDecodes:
    """As `Programs`: `start` a batch, then `finish` it."""

    def __init__(self, shared: TrimPrograms, agreements: int):
        self._shared, self._agreements = shared, agreements

    @property
    def compile_seconds(self) -> float:
        """Of all programs that share it, the verifier's among them."""
        return self._shared.programs.compile_seconds

    def start(
        self, spec: ProgramSpec, parameters, prompts, keys_B, what: Variation, questions: Sequence[str] = ()
    ) -> _Running:
        """Read a batch and start its first chunk."""
        compiled, run = self._shared.compiled(spec), self._shared.run
        paused = run(compiled.begin, parameters, (prompts, keys_B), what)
        nowhere = spec.engine.put_rows(np.full(len(questions), _NO_END, np.int32))
        until = np.int32(min(self._shared.settings.chunk, what.max_thoughts))
        paused, glimpse = run(compiled.go_on, parameters, (paused, nowhere), (what, until))
        return _Running(spec, parameters, what, questions, paused, glimpse)

    def finish(self, running: _Running) -> Decoded:
        """Chunk after chunk, each while the host looks at the one before; then the answers."""
        spec, what, limit = running.spec, running.what, int(running.what.max_thoughts)
        compiled, run, chunk = self._shared.compiled(spec), self._shared.run, self._shared.settings.chunk
        rules = TrimRules(self._agreements, limit, self._shared.settings)
        watches = [Watch(question, rules, self._shared.tokenizer.decode) for question in running.questions]
        counts = _Counts(len(watches))
        paused, glimpse, until = running.paused, running.glimpse, min(chunk, limit)
        while True:
            ahead = None
            if until < limit:  # under way while the host looks
                until = min(until + chunk, limit)
                ends_B = spec.engine.put_rows(_ends_of(watches))
                paused, ahead = run(compiled.go_on, running.parameters, (paused, ends_B), (what, np.int32(until)))
            seen = run(fetch, glimpse)
            counts.see(seen)
            self._look(watches, seen, counts)
            if ahead is None or (seen.done_B | (_ends_of(watches) < _NO_END)).all():
                counts.see(seen if ahead is None else run(fetch, ahead))
                break
            glimpse = ahead
        ends_B = spec.engine.put_rows(_ends_of(watches))
        decoded = run(fetch, run(compiled.answer, running.parameters, (paused, ends_B), what))
        return dataclasses.replace(decoded, trim=counts.as_record(watches))

    def _look(self, watches: list[Watch], seen: Glimpse, counts: "_Counts") -> None:
        """What is new in each chain, and what the verifier says of it, in two rounds."""
        new = [watch.grow(words[:n].tolist(), is_over) for watch, words, n, is_over in _rows(watches, seen)]
        said = self._verdicts(Asked.STATES, watches, [[(segment,) for segment in of_one] for of_one in new], counts)
        pairs = [watch.stated(of_one, verdicts) for watch, of_one, verdicts in zip(watches, new, said, strict=True)]
        said = self._verdicts(Asked.AGREES, watches, pairs, counts)
        for watch, of_one, verdicts in zip(watches, pairs, said, strict=True):
            watch.hear(of_one, verdicts)

    def _verdicts(
        self, asked: Asked, watches: list[Watch], about: list[list[tuple[Segment, ...]]], counts: "_Counts"
    ) -> list[list[bool]]:
        """The verdicts about each chain's segments."""
        inquiries, of_row = [], []
        for row, (watch, segments) in enumerate(zip(watches, about, strict=True)):
            for group in segments:
                inquiries.append(Inquiry(asked, watch.question, tuple(segment.ending for segment in group)))
                of_row.append(row)
        verdicts: list[list[bool]] = [[] for _ in watches]
        if not inquiries:
            return verdicts
        counts.ask(of_row, [self._shared.verifier.num_tokens(inquiry) for inquiry in inquiries])
        said = self._shared.verifier.verdicts(inquiries, self._shared.run)
        for row, verdict in zip(of_row, said, strict=True):
            verdicts[row].append(verdict)
        return verdicts


class _Counts:
    """What trimming cost, chain by chain."""

    def __init__(self, num_chains: int):
        self._thought_B = np.zeros(num_chains, np.int64)
        self._passes_B, self._tokens_B = (np.zeros(num_chains, np.int64) for _ in range(2))

    def see(self, seen: Glimpse) -> None:
        """How far chains were thought; a later end takes none of it back."""
        self._thought_B = np.maximum(self._thought_B, seen.num_thoughts_B)

    def ask(self, rows: list[int], num_tokens: list[int]) -> None:
        """So many tokens were read about the chains in these rows."""
        np.add.at(self._passes_B, rows, 1)
        np.add.at(self._tokens_B, rows, num_tokens)

    def as_record(self, watches: list[Watch]) -> dict[str, np.ndarray]:
        """By the names of `evaluation.measures`."""
        ends_B = _ends_of(watches)
        return {
            "agreed": np.array([watch.why is Why.AGREEMENT for watch in watches]),
            "cut_without_agreement": np.array([watch.why > Why.AGREEMENT for watch in watches]),
            "discarded_thoughts": self._thought_B - np.minimum(ends_B, self._thought_B),
            "verifier_passes": self._passes_B,
            "verifier_tokens": self._tokens_B,
        }


def _rows(watches: list[Watch], seen: Glimpse):
    arrays = (seen.words_BL, seen.num_thoughts_B, seen.done_B)
    return zip(watches, *map(np.asarray, arrays), strict=True)


def _ends_of(watches: list[Watch]) -> np.ndarray:
    return np.array([_NO_END if watch.end is None else watch.end for watch in watches], np.int32)
