"""A language model that says yes or no by prefill alone: its logits of the two words after a question.

What all questions of a kind begin with is read once. The rests of many questions are rows of one pass, which see it and
themselves. So what is said of a question does not depend on those beside it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colar_jax.engine import Engine
from colar_jax.evaluation.trimming.wording import Asked, Inquiry, Wording
from colar_jax.model.context import Seen, bias_of, heads_first
from colar_jax.model.execution import Execution
from colar_jax.model.reasoner import Reasoner
from colar_jax.model.visibility import blocks, packed
from colar_jax.parallel.hosts import fetch
from colar_jax.parallel.sharding import Tree

_MOST_ROWS = 64  # of one pass, on each device
_WIDTH = 32  # positions: widths are this times a power of two, so that few are compiled

# Calls what it is given with the arguments after it: whoever wants to know how long that takes has one with a clock.
Caller = Callable[..., Any]


def just_run(program, *arguments):
    """A `Caller` without a clock."""
    return program(*arguments)


class YesNoModel:
    """Answers `Inquiry`s.

    Args:
        engine, parameters: of the model, on its devices.
        wording: how it is asked.
    """

    def __init__(self, engine: Engine, parameters: Tree, wording: Wording):
        self._engine, self._parameters, self._wording = engine, parameters, wording
        yes_no = np.array([wording.yes_id, wording.no_id], np.int32)
        self.num_compiled = 0
        self._read_shared = engine.compile_rows(self._counted(_read_shared))
        self._read_rests = engine.compile_rows(self._counted(functools.partial(_read_rests, yes_no=yes_no)))
        self._shared: dict[Asked, Any] = {}  # caches of what all questions of a kind begin with, on every device

    def num_tokens(self, inquiry: Inquiry) -> int:
        """How many are read for it, besides what all of its kind share."""
        return len(self._wording.rest(inquiry))

    def start(self, inquiries: Sequence[Inquiry], run: Caller = just_run) -> list[tuple[list[int], jax.Array]]:
        """Hand questions to the devices; each part of the result is under way, with the numbers of its questions."""
        parts = []
        for asked in Asked:
            numbers = [number for number, inquiry in enumerate(inquiries) if inquiry.asked is asked]
            size = _MOST_ROWS * self._engine.num_shards
            for start in range(0, len(numbers), size):
                of_part = numbers[start : start + size]
                parts.append((of_part, self._start_part(asked, [inquiries[n] for n in of_part], run)))
        return parts

    def finish(self, parts: list[tuple[list[int], jax.Array]], run: Caller = just_run) -> np.ndarray:
        """Log-odds of yes for each question that was started, float32 in their order; above 0 means yes."""
        odds = np.zeros(sum(len(numbers) for numbers, _ in parts), np.float32)
        for numbers, of_part in parts:
            odds[numbers] = run(fetch, of_part)[: len(numbers)]
        return odds

    def verdicts(self, inquiries: Sequence[Inquiry], run: Caller = just_run) -> list[bool]:
        """Yes or no to each question; waits for them.

        Args:
            run: calls each program, and waits for what it gives; `num_compiled` rises within a call that compiles.
        """
        return [bool(odds > 0) for odds in self.finish(self.start(inquiries, run), run)]

    def _start_part(self, asked: Asked, inquiries: list[Inquiry], run: Caller) -> jax.Array:
        rests = [self._wording.rest(inquiry) for inquiry in inquiries]
        shards = self._engine.num_shards
        rows = shards * _power_of_two(-(-len(rests) // shards))
        width = _WIDTH * _power_of_two(-(-max(map(len, rests)) // _WIDTH))
        ids_QT, lengths_Q = np.zeros((rows, width), np.int32), np.ones(rows, np.int32)
        for row, rest in enumerate(rests):
            ids_QT[row, : len(rest)], lengths_Q[row] = rest, len(rest)
        placed = self._engine.put_rows((ids_QT, lengths_Q))
        if asked not in self._shared:
            ids_CP = np.repeat(self._wording.shared(asked)[None], shards, axis=0)
            self._shared[asked] = run(self._read_shared, self._parameters, (self._engine.put_rows(ids_CP),))
        return run(self._read_rests, self._parameters, (*placed, self._shared[asked]))

    def _counted(self, read):
        def counted(*arguments):
            self.num_compiled += 1  # runs when jit traces
            return read(*arguments)

        return counted


def _read_shared(model: Reasoner, compute: Execution, ids_CP, _):
    sees = packed(jnp.ones_like(ids_CP), compute, keeps=True)
    positions_CP = jnp.broadcast_to(jnp.arange(ids_CP.shape[1]), ids_CP.shape)
    embeds_CPD = model.llama.embed(ids_CP, jnp.dtype(compute.dtype))
    return model.llama.run(embeds_CPD, positions_CP, sees, compute.for_prefill())[1]


def _read_rests(model: Reasoner, compute: Execution, ids_QT, lengths_Q, shared, _, *, yes_no):
    """Log-odds of yes, float32 `[Q]`; `shared` has one row."""
    Q, T = ids_QT.shape
    contexts = tuple(
        tuple(jnp.broadcast_to(cache_CKPH, (Q, *cache_CKPH.shape[1:])) for cache_CKPH in layer) for layer in shared
    )
    P = shared[0][0].shape[2]
    all_BTP = bias_of(jnp.ones((Q, T, P), bool))
    causal_BTT = bias_of(jnp.broadcast_to(jnp.tril(jnp.ones((T, T), bool)), (Q, T, T)))

    def seen(k, v, context):
        return (Seen(context, all_BTP), Seen((heads_first(k), heads_first(v)), causal_BTT)), None

    hidden_QTD, _ = model.llama.run(
        model.llama.embed(ids_QT, jnp.dtype(compute.dtype)),
        jnp.broadcast_to(P + jnp.arange(T), (Q, T)),
        blocks(seen, contexts),
        compute.for_prefill(),
    )
    last_QD = jnp.take_along_axis(hidden_QTD, (lengths_Q - 1)[:, None, None], axis=1)[:, 0]
    rows_2D = model.llama.head_matrix_VD[yes_no].astype(last_QD.dtype)
    logits_Q2 = jnp.einsum("qd,vd->qv", last_QD, rows_2D, preferred_element_type=jnp.float32)
    return logits_Q2[:, 0] - logits_Q2[:, 1]


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
