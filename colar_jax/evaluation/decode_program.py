"""The compiled decodes of an evaluation: what is the same program, and what is only data to one.

Speeds, seeds, temperatures and limits of the reasoning are data: whatever is asked of a method, greedy decoding is one
program and sampled decoding another.
"""

import dataclasses
import functools
import time
from collections.abc import Sequence

import jax
import numpy as np

from colar_jax.decoding.decoder import Decoded
from colar_jax.decoding.prompt_rows import PackedPrompts
from colar_jax.engine import Engine, Ways
from colar_jax.errors import UserError
from colar_jax.methods import Method
from colar_jax.methods.method import decode_limits
from colar_jax.parallel.hosts import fetch
from colar_jax.settings import DecodeConfig

TEMPERATURES = ("latent_temperature", "stop_temperature", "answer_temperature")
LIMITS = ("max_latents", "max_step_tokens")  # of the reasoning: a program has room for the largest


@dataclasses.dataclass(frozen=True)
class ProgramSpec:
    """What makes one compiled decode; prompts' shapes come with its arguments. Equal specs share a program."""

    engine: Engine
    method: Method
    decode: DecodeConfig  # its limit of the reasoning is the most that the program has room for
    separator_id: int
    eos_id: int
    greedy: bool


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Variation:
    """What of a decode is data to its program, as scalars."""

    max_thoughts: np.int32
    temperatures: tuple[np.float32, ...]  # in the order of `TEMPERATURES`


class TracedDecode(DecodeConfig):
    """A `DecodeConfig` some of whose fields are traced: they were checked before they became arrays."""

    def __post_init__(self):
        pass


def variation(spec: ProgramSpec, config: DecodeConfig) -> Variation:
    """What `config` asks of the program `spec`.

    Raises:
        UserError: another program is needed, because the reasoning may become longer or a fixed setting differs.
    """
    fixed = (f.name for f in dataclasses.fields(config) if f.name not in (*TEMPERATURES, *LIMITS))
    changed = [name for name in fixed if getattr(config, name) != getattr(spec.decode, name)]
    limit, room = (_thinking(spec, settings).max_thoughts for settings in (config, spec.decode))
    if changed or limit > room:
        longer = (f"decode.{name}={getattr(config, name)} > {getattr(spec.decode, name)}" for name in LIMITS)
        what = ", ".join(f"decode.{name}" for name in changed) or ", ".join(longer)
        raise UserError(f"{what}: fixed when the evaluator was made; make one for this")
    temperatures = tuple(np.float32(getattr(config, name)) for name in TEMPERATURES)
    return Variation(np.int32(limit), temperatures)


class Programs:
    """Compiles each `ProgramSpec` once, for all evaluators that share this; knows where the time went.

    One batch is to be under way at a time: `start`, then `finish`.
    """

    def __init__(self):
        self.num_compiled = 0
        self.compile_seconds = 0.0  # tracing included
        self.device_seconds = 0.0  # in which the host did nothing but hand a batch over, or wait for one
        self._jitted = functools.cache(self._build)

    def start(
        self,
        spec: ProgramSpec,
        parameters,
        prompts: PackedPrompts,
        keys_B,
        what: Variation,
        questions: Sequence[str] = (),
    ) -> Decoded:
        """Hand a batch to the device; what is returned is under way.

        `questions` are the texts, for decodes that look at them (`evaluation.trimming`).
        """
        num_before, start = self.num_compiled, time.perf_counter()
        decoded = self._jitted(spec)(parameters, prompts, keys_B, what)
        seconds = time.perf_counter() - start
        if self.num_compiled > num_before:
            self.compile_seconds += seconds
        else:
            self.device_seconds += seconds
        return decoded

    def finish(self, decoded: Decoded) -> Decoded:
        """Wait for a batch, and bring its result to the host."""
        start = time.perf_counter()
        decoded = fetch(decoded)
        self.device_seconds += time.perf_counter() - start
        return decoded

    def _build(self, spec: ProgramSpec):
        decode = _compile(spec, functools.partial(ways_of, spec))

        def counted(*arguments):
            self.num_compiled += 1  # runs when jit traces, once for each shape
            return decode(*arguments)

        return jax.jit(counted)


def lower(spec: ProgramSpec, what: Variation, *arguments) -> jax.stages.Lowered:
    """A program that is not compiled yet, of this variation alone: its loops' limits can be read from it.

    The arguments are those of `Programs.start`, and may be shapes alone.
    """
    return _compile(spec, lambda _: ways_of(spec, what)).lower(*arguments)


def _compile(spec: ProgramSpec, ways: Ways):
    # The thoughts are large, and the judge does not read them.
    return spec.engine.compile_decode(ways, keeps_thoughts=False)


def ways_of(spec: ProgramSpec, what: Variation):
    """How a program thinks and its limits, whose `cut_at` and temperatures are what `what` says, traced or not."""
    traced = TracedDecode(**vars(spec.decode) | dict(zip(TEMPERATURES, what.temperatures, strict=True)))
    thinking = _thinking(spec, traced)
    limits = decode_limits(thinking, traced, separator_id=spec.separator_id, eos_id=spec.eos_id, greedy=spec.greedy)
    return thinking.think, dataclasses.replace(limits, cut_at=what.max_thoughts)


def _thinking(spec: ProgramSpec, config: DecodeConfig):
    return spec.method.thinking(config, spec.separator_id, greedy=spec.greedy)
