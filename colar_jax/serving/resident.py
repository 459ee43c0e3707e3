"""What stays on the devices while a model is served: its weights layer by layer, and the programs of the slots.

A decode slices the layers out of their stack before its loops; these programs run for some steps at a time, so the
slices are made once, when the server starts.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from colar_jax.decoding.own_speeds import own_speeds
from colar_jax.decoding.prefill import last_slots, with_speeds
from colar_jax.engine import Engine
from colar_jax.model.execution import Execution
from colar_jax.model.reasoner import Reasoner
from colar_jax.parallel.mesh import REPLICATED, ROWS, manual_axes
from colar_jax.parallel.sharding import Tree, only
from colar_jax.serving.slot_cache import own_positions, put_question, questions, resized
from colar_jax.serving.slots import Act, Course, SlotPhase, Slots, StepEvent, Wish, as_fed, decide
from colar_jax.serving.traced_ways import TracedWays

_BLOCKS = ("llama", "blocks")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weights:
    """A model's parameters: its layers one by one, and the rest."""

    rest: dict[tuple[str, ...], jax.Array]
    layers: list[dict[tuple[str, ...], jax.Array]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Filling:
    """What prefilled questions bring into their slots: `R` rows."""

    layers: tuple
    course: Course
    wish: Wish


class SlotPrograms:
    """The compiled programs of one method on one engine.

    Args:
        engine, ways: the model, its devices, and how it thinks.
        parameters: of the whole model, on its devices.
    """

    def __init__(self, engine: Engine, ways: TracedWays, parameters: Tree):
        self._engine, self._ways = engine, ways
        self._axes = manual_axes(engine.mesh)
        self._specs = engine.parameter_specs(parameters)
        flat_specs = traverse_util.flatten_dict(self._specs)
        in_blocks = {path: spec for path, spec in flat_specs.items() if path[:2] == _BLOCKS}
        rest_specs = {path: spec for path, spec in flat_specs.items() if path not in in_blocks}
        layer_specs = {path[2:]: P(*spec[1:]) for path, spec in in_blocks.items()}
        self.weights = self._unstacked(parameters, rest_specs, layer_specs)
        self._weight_specs = Weights(rest_specs, [layer_specs] * len(self.weights.layers))
        self.prefill = jax.jit(self._prefill_on_devices)
        # The most steps are static, for they size what is told of them.
        self.advance = jax.jit(self._advance_on_devices, static_argnums=3, donate_argnums=1)
        # A leaf at a time: shapes differ between requests, and these compile in milliseconds.
        self._put_question = jax.jit(self._on_rows(put_question), donate_argnums=0)
        self._put_rows = jax.jit(self._on_rows(_put_rows), donate_argnums=0)
        self._resize_cache = jax.jit(self._resize_leaf, static_argnums=(1, 2))
        self._keep = jax.jit(self._on_rows(_keep), donate_argnums=0)

    def _unstacked(self, parameters: Tree, rest_specs: dict, layer_specs: dict) -> Weights:
        flat, mesh = traverse_util.flatten_dict(parameters), self._engine.mesh
        num_layers = next(leaf.shape[0] for path, leaf in flat.items() if path[:2] == _BLOCKS)

        def layer(index: int):
            return {path: self._layer_leaf(flat[(*_BLOCKS, *path)], path, index, spec)
                    for path, spec in layer_specs.items()}  # fmt: skip

        rest = {path: jax.device_put(flat[path], NamedSharding(mesh, spec)) for path, spec in rest_specs.items()}
        return Weights(rest, [layer(index) for index in range(num_layers)])

    def _layer_leaf(self, stacked, path: tuple[str, ...], index: int, spec: P):
        # A step multiplies by kernels in the dtype of activations: so they are held in it.
        leaf = stacked[index].astype(self._engine.dtype) if path[-1] == "kernel" else stacked[index]
        return jax.device_put(leaf, NamedSharding(self._engine.mesh, spec))

    def _on_rows(self, function):
        """`function` of rows, on each device for its own."""

        def mapped(*rows):
            return jax.shard_map(
                function, mesh=self._engine.mesh, axis_names=self._axes, in_specs=ROWS, out_specs=ROWS, check_vma=False
            )(*rows)

        return mapped

    def _with_model(self, function, weights: Weights, rows: tuple, what=None):
        """`function` of the model, rows and `what` (the same on all devices), on each device."""
        return jax.shard_map(
            lambda weights, rows, what: function(*self._model(weights), *rows, what),
            mesh=self._engine.mesh,
            axis_names=self._axes,
            in_specs=(only(self._axes, self._weight_specs), ROWS, REPLICATED),
            out_specs=ROWS,
            check_vma=False,
        )(weights, rows, what)

    def _model(self, weights: Weights) -> tuple[Reasoner, list[Tree], Execution]:
        """On one device: the model, its layers, and how it computes. The stack is made of the layers, and not used."""
        layers = [traverse_util.unflatten_dict(layer) for layer in weights.layers]
        stacked = traverse_util.flatten_dict(jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers))
        flat = weights.rest | {(*_BLOCKS, *path): leaf for path, leaf in stacked.items()}
        model = self._engine.merge(traverse_util.unflatten_dict(flat), self._specs)
        return model, layers, self._engine.execution(self._specs, gathers_each_step=True).for_steps()

    def _prefill_on_devices(self, weights: Weights, ids_RP, lengths_R, wish: Wish) -> tuple[Filling, StepEvent]:
        """Questions, one a row, right-padded, to what they bring into their slots, and what they decide first."""
        return self._with_model(self._prefill, weights, (ids_RP, lengths_R, wish))

    def _prefill(self, model: Reasoner, layers, compute: Execution, ids_RP, lengths_R, wish: Wish, _):
        embeds_RPD = model.llama.embed(ids_RP, jnp.dtype(compute.dtype))

        def read(embeds_RPD, lengths_R):
            positions_RP = jnp.broadcast_to(jnp.arange(ids_RP.shape[1])[None], ids_RP.shape)
            sees, reading = questions(positions_RP < lengths_R[:, None], lengths_R, compute)
            hidden_R1D, caches = model.llama.run(
                embeds_RPD, positions_RP, sees, compute, reading=reading, layers=layers
            )
            return hidden_R1D[:, 0], caches

        told_R, ways = wish.speed_number_B, self._ways
        own = own_speeds(
            model, told_R, lambda: read(embeds_RPD, lengths_R - 1)[0], ways.decode.speed_certainty, ways.anyone
        )
        own_R = jnp.zeros_like(told_R) if own is None else own[0]
        wish = dataclasses.replace(wish, speed_number_B=jnp.where(own_R > 0, own_R, told_R))
        last_R = last_slots(lengths_R, ids_RP.shape[1])
        hidden_RD, caches = read(with_speeds(model, embeds_RPD, last_R, wish.speed_number_B), lengths_R)
        zeros_R = jnp.zeros_like(lengths_R)
        separator_RD = model.llama.embed(zeros_R + self._ways.separator_id, embeds_RPD.dtype)
        thinks = self._ways.max_thoughts > 0
        phase_R = zeros_R + (SlotPhase.THINKING if thinks else SlotPhase.ANSWERING)
        course = Course(phase_R, separator_RD, lengths_R, zeros_R, zeros_R)
        decided, event = decide(model, hidden_RD, course, wish, self._ways)
        if not thinks:  # nothing is decided before the separator is read
            decided, event = course, dataclasses.replace(event, kind_B=zeros_R)
        return Filling(caches, decided, wish), dataclasses.replace(event, own_speed_B=own_R)

    def _advance_on_devices(self, weights: Weights, slots: Slots, limit, most: int) -> tuple[Slots, StepEvent]:
        """At most `limit` steps of all slots, of `most`; fewer when one is done and may be refilled, or none has work.

        What happened has an axis of `most` steps.
        """
        return self._with_model(functools.partial(self._steps, most=most), weights, (slots,), limit)

    def _steps(self, model: Reasoner, layers, compute: Execution, slots: Slots, limit, *, most: int):
        wish, ways = slots.wish, self._ways

        def goes_on(state):
            step, _, course, events = state
            is_active_B = course.phase_B != SlotPhase.IDLE
            has_ended = jnp.any(events.kind_B == Act.LAST_TOKEN)
            # Devices leave together: a request that waits for a slot waits for the slowest of them.
            return (step < limit) & ways.anyone(is_active_B) & ~ways.anyone(has_ended)

        def body(state):
            step, caches, course, events = state
            is_active_B = course.phase_B != SlotPhase.IDLE
            sees = own_positions(caches, course.length_B)
            embed_BD, positions_B = as_fed(model, course, wish)
            hidden_B1D, caches = model.llama.run(embed_BD[:, None], positions_B[:, None], sees, compute, layers=layers)
            fed = dataclasses.replace(course, length_B=course.length_B + is_active_B)
            following, event = decide(model, hidden_B1D[:, 0], fed, wish, ways)
            write = functools.partial(jax.lax.dynamic_update_index_in_dim, index=step, axis=1)
            return step + 1, caches, following, jax.tree.map(write, events, event)

        num_slots, hidden_size = slots.course.embed_BD.shape
        steps = jnp.int32(0), slots.layers, slots.course, _no_events(num_slots, most, hidden_size)
        _, caches, course, events = jax.lax.while_loop(goes_on, body, steps)
        return Slots(caches, course, wish), events

    def _resize_leaf(self, leaf, num_slots: int, room: int):
        """A cache, or (with a room of 0) something else of slots, for the first `num_slots` of each device."""
        return self._on_rows(lambda leaf_B: resized(leaf_B, num_slots, room))(leaf)

    def resize(self, slots: Slots, num_slots: int, room: int) -> Slots:
        """The first `num_slots` of each device, with so much room each."""
        layers = jax.tree.map(lambda leaf: self._resize_cache(leaf, num_slots, room), slots.layers)
        course, wish = jax.tree.map(lambda leaf: self._resize_cache(leaf, num_slots, 0), (slots.course, slots.wish))
        return Slots(layers, course, wish)

    def insert(self, slots: Slots, filling: Filling, rows_R) -> Slots:
        """The slots with each question in the one that `rows_R` names, of its device; beyond the last: nowhere."""
        layers = jax.tree.map(lambda leaf, new: self._put_question(leaf, new, rows_R), slots.layers, filling.layers)
        rest = self._put_rows((slots.course, slots.wish), (filling.course, filling.wish), rows_R)
        return Slots(layers, *rest)

    def release(self, slots: Slots, is_kept_B) -> Slots:
        """The slots, those that are not kept idle."""
        phase_B = self._keep(slots.course.phase_B, is_kept_B)
        return dataclasses.replace(slots, course=dataclasses.replace(slots.course, phase_B=phase_B))

    def put(self, rows):
        """Arrays of the host, a row for each slot or each device, onto the devices."""
        return self._engine.put_rows(rows)

    def empty(self, filling: Filling, num_slots: int, room: int) -> Slots:
        """Idle slots on the devices, so many on each; `filling` says (in shapes) what `R` of them hold."""
        idle = self._shapes_of(filling, num_slots, room)
        return self._engine.put_rows(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), idle))

    def compile_prefill(self, ids_RP, lengths_R, wish: Wish) -> None:
        """Make `prefill` ready for questions of this width. Nothing is run."""
        rows = self._engine.shapes_of_rows((ids_RP, lengths_R, wish))
        self.prefill.lower(self.weights, *rows).compile()

    def compile_advance(self, filling: Filling, num_slots: int, room: int, most: int) -> None:
        """Make `advance` ready for slots of this shape. Nothing is run or allocated: it is done beside those who serve.

        To run it would take a cache of this shape besides theirs, and time of the devices.
        """
        slots = self._engine.shapes_of_rows(self._shapes_of(filling, num_slots, room))
        self.advance.lower(self.weights, slots, np.int32(0), most).compile()

    def _shapes_of(self, filling: Filling, num_slots: int, room: int) -> Slots:
        num_rows = num_slots * self._engine.num_shards

        def row(leaf_R):
            return jax.ShapeDtypeStruct((num_rows, *leaf_R.shape[1:]), leaf_R.dtype)

        def cache(leaf_RKPH):
            _, K, _, H = leaf_RKPH.shape
            return jax.ShapeDtypeStruct((num_rows, K, room, H), leaf_RKPH.dtype)

        return Slots(jax.tree.map(cache, filling.layers), *jax.tree.map(row, (filling.course, filling.wish)))


def _no_events(num_slots: int, most: int, hidden_size: int) -> StepEvent:
    def zeros(dtype, *shape):
        return jnp.zeros((num_slots, most, *shape), dtype)

    int32, float32 = jnp.int32, jnp.float32
    latents = zeros(float32, hidden_size)
    return StepEvent(zeros(int32), zeros(int32), zeros(float32), zeros(float32), latents, zeros(float32))


def _put_rows(slots, filling, rows_R):
    return jax.tree.map(lambda rows_B, new_R: rows_B.at[rows_R].set(new_R, mode="drop"), slots, filling)


def _keep(phase_B, is_kept_B):
    return jnp.where(is_kept_B, phase_B, SlotPhase.IDLE)
