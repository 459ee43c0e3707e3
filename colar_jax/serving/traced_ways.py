"""How a method thinks and answers, with temperatures that are data: greedy and sampled requests share the slots."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from colar_jax.decoding.thinking import Thought
from colar_jax.engine import Engine
from colar_jax.evaluation.decode_program import TEMPERATURES, TracedDecode
from colar_jax.methods import Method
from colar_jax.methods.method import Thinking
from colar_jax.model.reasoner import Reasoner
from colar_jax.parallel.mesh import BATCH_AXES
from colar_jax.settings import DecodeConfig


@dataclasses.dataclass(frozen=True)
class TracedWays:
    """One method on one engine. Equal ones compile equal programs.

    Attributes:
        max_thoughts: the most that the method ever thinks; 0: it answers at once.
        in_words: whether a thought is a word, and its record the word's id.
    """

    method: Method
    decode: DecodeConfig
    separator_id: int
    eos_id: int
    num_devices: int = 1

    @classmethod
    def of(
        cls, engine: Engine, method: Method, decode: DecodeConfig, *, separator_id: int, eos_id: int
    ) -> "TracedWays":
        """Those of an engine."""
        return cls(method, decode, separator_id, eos_id, engine.mesh.size)

    @functools.cached_property
    def _greedy(self) -> Thinking:
        return self.method.thinking(self.decode, self.separator_id, greedy=True)

    @property
    def max_thoughts(self) -> int:
        return self._greedy.max_thoughts

    @property
    def min_thoughts(self) -> int:
        """Before so many thoughts no decision to stop is asked for."""
        return self._greedy.min_thoughts

    @property
    def in_words(self) -> bool:
        return self._greedy.in_words

    @property
    def in_latents(self) -> bool:
        """Whether there are thoughts to look into."""
        return self._greedy.in_latents

    @property
    def limit_is_choosable(self) -> bool:
        """Whether a request may say how many latents there are at most: not of a fixed number, or of words."""
        return self.in_latents and self.min_thoughts < self.max_thoughts

    def greedy_thought(self, model: Reasoner, hidden_BD) -> Thought:
        """What each slot would think, without drawing."""
        if not self.max_thoughts:
            return _no_thought(hidden_BD)
        keys_B = jax.random.split(jax.random.key(0), hidden_BD.shape[0])  # nobody draws from them
        return self._greedy.think(model, hidden_BD, keys_B)

    def sampled_thought(self, model: Reasoner, hidden_BD, keys_B, temperature, top_p) -> Thought:
        """What each slot would think at this temperature, a traced scalar, and from this nucleus of words."""
        if not self.max_thoughts:
            return _no_thought(hidden_BD)
        traced = dict.fromkeys(TEMPERATURES, temperature) | {"top_p": top_p}
        decode = TracedDecode(**vars(self.decode) | traced)
        thinking = self.method.thinking(decode, self.separator_id, greedy=False)
        return thinking.think(model, hidden_BD, keys_B)

    def anyone(self, is_B) -> jax.Array:
        """Whether it is so for any slot of any device: what all of them branch by."""
        here = jnp.any(is_B)
        if self.num_devices == 1:
            return here
        return jax.lax.pmax(here.astype(jnp.int32), BATCH_AXES) > 0


def _no_thought(hidden_BD) -> Thought:
    """For methods that answer at once."""
    zeros_B = jnp.zeros(hidden_BD.shape[0], jnp.float32)
    return Thought(hidden_BD, zeros_B.astype(jnp.int32), zeros_B, zeros_B > 0, zeros_B)
