"""The compiled programs of a model that is asked: one decodes a batch, a few others one question step by step.

Greedy and sampled decoding are two; speeds, temperatures, seeds and limits are data, up to the room that a program has.
"""

import dataclasses
import functools

import numpy as np

from colar_jax.data.tokenizers import Tokenizer
from colar_jax.decoding.decoder import Decoded
from colar_jax.decoding.streaming import Streamer
from colar_jax.engine import Engine
from colar_jax.errors import UserError
from colar_jax.evaluation.decode_program import TEMPERATURES, ProgramSpec, Variation, ways_of
from colar_jax.evaluation.latents import inspecting
from colar_jax.methods import Method
from colar_jax.methods.method import Thinking
from colar_jax.model.execution import Execution
from colar_jax.settings import DecodeConfig
from colar_jax.thinker.asked import Options
from colar_jax.thinker.question_batches import RoundUp


@dataclasses.dataclass(frozen=True)
class AskLimits:
    """What an answer may not exceed."""

    options: Options
    max_thoughts: int
    max_answer_tokens: int


class AskPrograms:
    """Compiles what answers a method's questions, once for every shape and room.

    Args:
        decode: the run's own settings of decoding.
        round_up: of limits above those, from `question_batches.rounding_of`.
    """

    def __init__(self, engine: Engine, method: Method, tokenizer: Tokenizer, decode: DecodeConfig, round_up: RoundUp):
        self._round_up = round_up
        self._engine, self._method, self._tokenizer, self._decode = engine, method, tokenizer, decode
        self._batch, self._stream = functools.cache(self._compile_batch), functools.cache(self._compile_stream)

    def checked(self, options: Options) -> Options:
        """The options; UserError where the method has no limit of the latents."""
        if options.max_latents is not None and not self._reads_max_latents:
            thinking = self._thinking(self._decode)
            does = f"thinks {thinking.max_thoughts} latents" if thinking.in_latents else "thinks in no latents"
            raise UserError(f"max_latents={options.max_latents}: the stage {does}, whatever is asked; leave it out")
        return options

    def limits(self, options: Options) -> AskLimits:
        """The limits that hold for these options."""
        max_thoughts = options.max_latents or self._thinking(self._decode).max_thoughts
        return AskLimits(options, max_thoughts, options.max_answer_tokens or self._decode.max_answer_tokens)

    def decode(self, parameters, rows: tuple, options: Options) -> Decoded:
        """The result of a batch, placed by `Engine.put_rows`, under way: records of `LatentRecord`s or of words."""
        spec = self._spec(options)
        return self._batch(spec, options.num_words)(parameters, *rows, self._variation(options))

    def stream(self, parameters, prompt, key, options: Options):
        """As `Streamer.run`."""
        spec = self._spec(options)
        return self._stream(spec, options.num_words).run(parameters, prompt, key, self._variation(options))

    def _spec(self, options: Options) -> ProgramSpec:
        """The program with room for what is asked; the temperatures in it are not read."""
        limits, decode = self.limits(options), self._decode
        room = dataclasses.replace(
            decode,
            max_latents=self._room(decode.max_latents, options.max_latents),
            max_answer_tokens=self._room(decode.max_answer_tokens, limits.max_answer_tokens),
            **dict.fromkeys(TEMPERATURES, 1.0),
        )
        separator_id, eos_id = self._tokenizer.separator_id, self._tokenizer.eos_id
        return ProgramSpec(self._engine, self._method, room, separator_id, eos_id, options.greedy)

    def _variation(self, options: Options) -> Variation:
        decode = options.decode(self._decode)
        temperatures = tuple(np.float32(getattr(decode, name)) for name in TEMPERATURES)
        return Variation(np.int32(self.limits(options).max_thoughts), temperatures)

    def _ways(self, spec: ProgramSpec, num_words: int, what: Variation):
        think, limits = ways_of(spec, what)
        if self._thinking(spec.decode).in_latents:
            is_gaussian = self._method.draws_latents
            think = inspecting(think, num_words, is_gaussian=is_gaussian, keeps_vectors=True)
        return think, limits

    def _compile_batch(self, spec: ProgramSpec, num_words: int):
        return self._engine.compile_decode(functools.partial(self._ways, spec, num_words), keeps_thoughts=True)

    def _compile_stream(self, spec: ProgramSpec, num_words: int) -> Streamer:
        ways = functools.partial(self._ways, spec, num_words)
        return Streamer(self._engine.graph, ways, Execution.of(self._engine.compute))

    @functools.cached_property
    def _reads_max_latents(self) -> bool:
        of = [dataclasses.replace(self._decode, max_latents=self._decode.max_latents + more) for more in (0, 1)]
        return self._thinking(of[0]).max_thoughts != self._thinking(of[1]).max_thoughts

    def _thinking(self, decode: DecodeConfig) -> Thinking:
        return self._method.thinking(decode, self._tokenizer.separator_id, greedy=True)

    def _room(self, configured: int, asked: int | None) -> int:
        """As configured where that is enough, else rounded up: few programs for many limits."""
        return configured if asked is None or asked <= configured else self._round_up(asked)
