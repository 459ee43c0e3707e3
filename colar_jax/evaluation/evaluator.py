"""Decode a set of problems with one method, and judge every answer."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from colar_jax.data.encoding import EncodedProblems, Prompt
from colar_jax.data.prompts import Speed
from colar_jax.data.recipe import Told
from colar_jax.decoding.decoder import Decoded
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.engine import Engine
from colar_jax.evaluation.decode_program import Programs, ProgramSpec, lower, variation
from colar_jax.evaluation.judge import Judge
from colar_jax.evaluation.measures import measured
from colar_jax.methods import Method
from colar_jax.settings import DecodeConfig
from colar_jax.settings.speeds import AUTO_NUMBER, DECIMALS


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What became of each of `N` questions."""

    predictions: list[str]  # the extracted answers
    texts: list[str]  # the whole text after the reasoning
    right_N: np.ndarray  # bool
    lengths_N: np.ndarray  # int, #L
    forced_stop_N: np.ndarray  # bool
    answer_tokens_N: np.ndarray  # int, eos included
    prompt_tokens_N: np.ndarray  # int, the separator that opens the reasoning included
    measured: dict[str, np.ndarray]  # [N] each, by name: `measures.MEASURES`
    seconds: float  # from handing each batch to the device to having its result, added up

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return float(self.right_N.mean())


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """A set of problems to answer at `speed`: greedily, or sampled from `seed` (a question's draws are its own)."""

    encoded: EncodedProblems
    speed: Speed
    seed: int | None  # None: greedy
    decode: DecodeConfig | None = None  # other temperatures, or a lower limit of the reasoning; None: the evaluator's
    told: Sequence[Told] | None = None  # of each problem, in prompts as long as those of `speed`; None: that speed


@dataclasses.dataclass(frozen=True, eq=False)
class _Batch:
    """A part of a request, ready for the device."""

    request: Request
    questions: np.ndarray  # their indices; the last of a request come again to fill its last batch
    num_new: int  # how many of them count
    spec: ProgramSpec
    arguments: tuple
    is_last: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Workload:
    """What an evaluator will decode, so that one compiled program has room for any batch of it."""

    sets: list[EncodedProblems]
    speeds: tuple[Speed, ...]
    batch_size: int  # questions decoded at a time, over all devices


class Evaluator:
    """Decodes with one compiled program for greedy and one for sampled decoding, whatever the speed.

    One batch is on the device at a time: while it is, the host judges the one before and packs the one after.

    Args:
        decode_config: how to decode, unless a request says otherwise; no request may think longer.
        programs: where compiled programs are kept; given to several evaluators, they share what is the same.
    """

    def __init__(
        self,
        engine: Engine,
        method: Method,
        judge: Judge,
        decode_config: DecodeConfig,
        workload: Workload,
        programs: Programs | None = None,
    ):
        self._engine = engine = engine.for_decoding
        self._judge, self._config = judge, decode_config
        self._recipe = method.recipe
        self._spec = functools.partial(
            ProgramSpec,
            engine=engine,
            method=method,
            decode=decode_config,
            separator_id=judge.tokenizer.separator_id,
            eos_id=judge.tokenizer.eos_id,
        )
        self._programs = Programs() if programs is None else programs
        self._shard_size = -(-workload.batch_size // engine.num_shards)
        said = dict.fromkeys(self._recipe.told(speed).said for speed in workload.speeds)
        lengths = [encoded.prompt_lengths(text) + 1 for encoded in workload.sets for text in said]
        self._shape = shape_for([part for of_set in lengths for part in self._parts(of_set)])

    def run(self, parameters, encoded: EncodedProblems, speed: Speed, *, seed: int | None) -> Outcome:
        """Answer every problem at `speed`: greedily, or sampled from `seed` (a question's draws are its own)."""
        ((_, outcome),) = self.run_all(parameters, [Request(encoded, speed, seed)])
        return outcome

    def run_all(
        self, parameters, requests: Iterable[Request], before_each: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[Request, Outcome]]:
        """Answer one request after the other, and give each back as soon as it is judged.

        What the caller does between two of them costs no time while the device has its next batch.

        Args:
            before_each: called before a batch is given to the device, which has none then; what it raises ends all.
        """
        parameters = self._engine.placed(parameters)
        judged: list[Outcome] = []
        running = None
        for batch in (batch for request in requests for batch in self._batches(request)):
            done = self._wait(running)
            before_each()
            running = self._start(parameters, batch)
            if done is not None:
                yield from self._collect(judged, *done)
        if (done := self._wait(running)) is not None:
            yield from self._collect(judged, *done)

    def _batches(self, request: Request) -> Iterator[_Batch]:
        encoded = request.encoded
        spec = self._spec(greedy=request.seed is None)
        what = variation(spec, self._config if request.decode is None else request.decode)
        keys_N = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
            jax.random.key(request.seed or 0), jnp.arange(len(encoded))
        )
        shards, per_batch = self._parts(np.arange(len(encoded))), self._engine.num_shards
        told_N = request.told or [self._recipe.told(request.speed)] * len(encoded)
        for start in range(0, len(shards), per_batch):
            batch = shards[start : start + per_batch]
            packed = [pack_prompts([encoded.ask(i, told_N[i]) for i in part], self._shape) for part in batch]
            packed = jax.tree.map(lambda *parts: np.concatenate(parts), *packed)
            questions = np.concatenate(batch)
            yield _Batch(
                request=request,
                questions=questions,
                num_new=min(len(questions), len(encoded) - start * self._shard_size),
                spec=spec,
                arguments=(*self._engine.put_rows((packed, keys_N[questions])), what),
                is_last=start + per_batch == len(shards),
            )

    def lower(self, parameters, *, greedy: bool) -> jax.stages.Lowered:
        """The program of a batch, not compiled yet, for parameters that may be shapes alone."""
        shards = self._engine.num_shards
        part = pack_prompts([Prompt(np.zeros(1, np.int32), AUTO_NUMBER)] * self._shard_size, self._shape)
        prompts = jax.tree.map(lambda *parts: np.concatenate(parts), *[part] * shards)
        keys_B = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), self._shard_size * shards))
        placed = self._engine.shapes_of_rows((prompts, keys_B))
        spec = self._spec(greedy=greedy)
        return lower(spec, variation(spec, self._config), parameters, *placed)

    def _parts(self, values_N: np.ndarray) -> list[np.ndarray]:
        """Values, one for each question, in parts of a shard's size, a whole number of batches; the last fills up."""
        batch_size = self._shard_size * self._engine.num_shards
        num_parts = -(-len(values_N) // batch_size) * self._engine.num_shards
        filled = values_N[np.arange(num_parts * self._shard_size).clip(max=len(values_N) - 1)]
        return np.split(filled, num_parts)

    def _start(self, parameters, batch: _Batch) -> tuple[_Batch, Decoded, float]:
        """A batch, its result, which is under way, and when it began (later by what compiling took)."""
        start, compiling = time.perf_counter(), self._programs.compile_seconds
        problems = batch.request.encoded.problems
        questions = [problems[i].question for i in batch.questions]
        decoded = self._programs.start(batch.spec, parameters, *batch.arguments, questions)
        return batch, decoded, start + self._programs.compile_seconds - compiling

    def _wait(self, running: tuple[_Batch, Decoded, float] | None) -> tuple[_Batch, Decoded, float] | None:
        """A batch with its result on the host, and the seconds since it was given to the device."""
        if running is None:
            return None
        batch, decoded, start = running
        compiling = self._programs.compile_seconds
        finished = self._programs.finish(decoded)
        compiled = self._programs.compile_seconds - compiling  # of what is decoded in chunks, the last ones
        return batch, finished, time.perf_counter() - start - compiled

    def _collect(
        self, judged: list[Outcome], batch: _Batch, decoded: Decoded, seconds: float
    ) -> Iterator[tuple[Request, Outcome]]:
        """Judge a batch; with the last of a request, all of it is given back."""
        judged.append(self._outcome(decoded, batch, seconds))
        if batch.is_last:
            outcome = _joined(judged)
            yield batch.request, outcome
            judged.clear()

    def _outcome(self, decoded: Decoded, batch: _Batch, seconds: float) -> Outcome:
        encoded, new = batch.request.encoded, slice(batch.num_new)
        questions = batch.questions[new]
        answers = self._judge.answers(
            [encoded.problems[i] for i in questions],
            decoded.answer_ids_BA[new],
            decoded.num_answer_tokens_B[new],
            decoded.num_thoughts_B[new],
            trim=None if decoded.trim is None else {name: of_B[new] for name, of_B in decoded.trim.items()},
            own_speeds_N=chosen_speeds(decoded, new),
        )
        return Outcome(
            predictions=list(answers.predictions),
            texts=list(answers.texts),
            right_N=answers.right_N,
            lengths_N=answers.lengths_N,
            forced_stop_N=decoded.forced_stop_B[new],
            answer_tokens_N=answers.num_tokens_N,
            prompt_tokens_N=encoded.prompt_lengths(self._recipe.told(batch.request.speed).said)[questions] + 1,
            measured=measured(answers),
            seconds=seconds,
        )


def chosen_speeds(decoded: Decoded, new: slice) -> np.ndarray | None:
    """The speeds that the model chose, of a chain whose speed changes its mean; None where it was told."""
    if decoded.own_speeds_B is None or not np.all(decoded.own_speeds_B):
        return None
    speeds_B = np.asarray(decoded.own_speeds_B, np.float64)
    if decoded.speeds_BL is not None:
        is_thought_BL = np.arange(decoded.speeds_BL.shape[1]) < np.maximum(decoded.num_thoughts_B, 1)[:, None]
        speeds_B = np.mean(decoded.speeds_BL, axis=1, where=is_thought_BL, dtype=np.float64)
    return np.round(speeds_B[new], DECIMALS)


def _joined(parts: list[Outcome]) -> Outcome:
    """The outcome of a request from those of its batches."""
    join = {
        list: lambda values: [item for value in values for item in value],
        np.ndarray: np.concatenate,
        dict: lambda values: {name: np.concatenate([value[name] for value in values]) for name in values[0]},
        float: sum,
    }
    values = {f.name: [getattr(part, f.name) for part in parts] for f in dataclasses.fields(Outcome)}
    return Outcome(**{name: join[type(of_parts[0])](of_parts) for name, of_parts in values.items()})
