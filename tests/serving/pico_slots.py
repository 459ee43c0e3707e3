"""Slots of the small model of `decoding.test_decoder`, and what its decoder says, question by question."""

import dataclasses
import functools

import jax
import numpy as np
from decoding.test_decoder import EOS_ID, PROMPTS, SEPARATOR_ID, VOCABULARY, packed, random_model
from flax import nnx

from colar_jax.data.encoding import Prompt
from colar_jax.decoding.decoder import decode
from colar_jax.engine import Engine
from colar_jax.methods.colar import Colar
from colar_jax.methods.method import Method, decode_limits
from colar_jax.model.execution import Execution
from colar_jax.model.reasoner import abstract
from colar_jax.parallel.mesh import make_mesh
from colar_jax.serving.resident import SlotPrograms
from colar_jax.serving.sizes import SlotSizes
from colar_jax.serving.slot_engine import Ask, SlotEngine
from colar_jax.serving.slots import Act
from colar_jax.serving.traced_ways import TracedWays
from colar_jax.settings import DecodeConfig

DECODE = DecodeConfig(max_latents=10, min_latents=0, max_step_tokens=6, max_answer_tokens=8, greedy_stop="argmax")
SPEED = 1.5  # of methods that are told it as a number
SIZES = SlotSizes(slots=4, max_prompt=16, max_thoughts=10, max_tokens=8, steps=4)

__all__ = ["EOS_ID", "PROMPTS", "SEPARATOR_ID", "VOCABULARY"]


@dataclasses.dataclass
class Said:
    """What came of a question."""

    thoughts: list
    tokens: list[int]
    forced: bool = False
    log_probs: list[float] = dataclasses.field(default_factory=list)


def ask(number: int, *, seed: int | None = None, temperature: float = 0.0, **wishes) -> Ask:
    """The question of this number, with all that the decoder is given."""
    given = dict(max_thoughts=DECODE.max_latents, max_tokens=DECODE.max_answer_tokens, top_p=DECODE.top_p) | wishes
    seed = number if seed is None else seed
    return Ask(PROMPTS[number], seed, seed % 3, temperature, **given)


@functools.cache
def programs(method: Method = Colar(), decode: DecodeConfig = DECODE, num_devices: int = 1) -> SlotPrograms:  # noqa: B008
    """The programs of the slots, compiled once for all tests of a process."""
    graph, parameters = model_of(method)
    engine = Engine(graph, make_mesh(jax.devices()[:num_devices]))
    ways = TracedWays.of(engine, method, decode, separator_id=SEPARATOR_ID, eos_id=EOS_ID)
    return SlotPrograms(engine, ways, parameters)


def model_of(method: Method):
    """The small model; `method` may bring modules of its own."""
    graph, parameters = random_model()
    if not method.modules:
        return graph, parameters
    model = nnx.merge(graph, parameters)
    graph, shapes = abstract(model.llama.config, model.latent_head.config, modules=method.modules)
    rng = np.random.default_rng(3)
    own = {name: shapes[name] for name in method.modules}
    return graph, parameters | jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), own)


def slot_engine(sizes: SlotSizes = SIZES, **programs_of) -> SlotEngine:
    """Empty slots."""
    return SlotEngine(programs(**programs_of), sizes, programs_of.get("num_devices", 1))


@functools.cache
def decoded(number: int, seed: int | None = None, temperature: float = 0.0, method: Method = Colar()) -> Said:  # noqa: B008
    """What the decoder says to one question alone."""
    config, graph_and_parameters = DECODE, model_of(method)
    if temperature:
        of_all = dict.fromkeys(("latent_temperature", "stop_temperature", "answer_temperature"), temperature)
        config = dataclasses.replace(config, **of_all)
    seed = number if seed is None else seed
    key = jax.random.fold_in(jax.random.key(seed), seed % 3)
    out = jax.device_get(_decode(graph_and_parameters, config, method, temperature == 0, number, key))
    count, num_tokens = int(out.num_thoughts_B[0]), int(out.num_answer_tokens_B[0])
    thoughts = jax.tree.map(lambda leaf: leaf[0, :count], out.thoughts)
    return Said(
        list(thoughts) if count else [],
        out.answer_ids_BA[0, :num_tokens].tolist(),
        bool(out.forced_stop_B[0]),
        out.answer_log_probs_BA[0, :num_tokens].tolist(),
    )


def _decode(model, config: DecodeConfig, method: Method, greedy: bool, number: int, key):
    thinking = method.thinking(config, SEPARATOR_ID, greedy=greedy)
    limits = decode_limits(thinking, config, separator_id=SEPARATOR_ID, eos_id=EOS_ID, greedy=greedy)
    graph, parameters = model
    prompts = packed([Prompt(PROMPTS[number], method.recipe.told(SPEED).number)])
    program = _program(graph, thinking.think, limits, (config, method, greedy))
    return program(parameters, prompts, key[None])


_PROGRAMS = {}


def _program(graph, think, limits, name):
    if name not in _PROGRAMS:
        _PROGRAMS[name] = jax.jit(
            lambda parameters, prompts, keys: decode(
                nnx.merge(graph, parameters), prompts, keys, think, limits, Execution()
            )
        )
    return _PROGRAMS[name]


class Answers:
    """Fills slots and lets them go, and keeps what each question said."""

    def __init__(self, engine: SlotEngine):
        self.engine, self.said, self._of_slot = engine, {}, {}

    def put(self, name, asked: Ask) -> None:
        """A question into a free slot."""
        (slot,), running = self.engine.fill([asked])
        self._of_slot[slot], self.said[name] = name, Said([], [])
        self._note(running.wait())

    def go(self, steps: int = 4) -> list:
        """Some steps; the names of those who are done."""
        happened = self.engine.advance(steps).wait()
        self._note(happened)
        return [self._of_slot.pop(slot) for slot in self.engine.count(happened)]

    def release(self, name) -> None:
        """Give one up."""
        (slot,) = [slot for slot, other in self._of_slot.items() if other == name]
        self.engine.release([slot])
        del self._of_slot[slot]

    def finish(self) -> dict:
        """All that is under way, to its end."""
        while self.engine.num_active:
            self.go()
        return self.said

    def _note(self, happened) -> None:
        latents = np.asarray(happened.latents)
        for slot, row in happened.rows.items():
            if slot not in self._of_slot:
                continue
            said = self.said[self._of_slot[slot]]
            for step, kind in enumerate(happened.kind[row]):
                if kind == Act.THOUGHT:
                    said.thoughts.append(latents[row, step])
                elif kind == Act.CUT:
                    said.forced = True
                elif kind in (Act.TOKEN, Act.LAST_TOKEN):
                    said.tokens.append(int(happened.token[row, step]))
                    said.log_probs.append(float(happened.log_prob[row, step]))


def assert_same(said: Said, expected: Said, *, scale: float = 1.0) -> None:
    """The same tokens; the same latents within rounding."""
    assert said.tokens == expected.tokens
    assert len(said.thoughts) == len(expected.thoughts) and said.forced == expected.forced
    np.testing.assert_allclose(said.log_probs, expected.log_probs, rtol=1e-3, atol=1e-3)
    if expected.thoughts:
        np.testing.assert_allclose(said.thoughts, scale * np.stack(expected.thoughts), rtol=1e-3, atol=1e-3)
