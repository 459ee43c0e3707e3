"""The slots from the host's side: fill some, let all go a few steps, release one; in the smallest shape there is."""

import bisect
import dataclasses
from collections.abc import Callable, Iterator

import jax
import numpy as np

from colar_jax.serving.resident import SlotPrograms
from colar_jax.serving.shapes import Shapes
from colar_jax.serving.sizes import SlotSizes
from colar_jax.serving.slots import Act, Slots, StepEvent, Wish
from colar_jax.settings.speeds import NO_NUMBER


@dataclasses.dataclass(frozen=True)
class Ask:
    """A question for a slot, and what is wished of the answer."""

    prompt_ids: np.ndarray  # int32, the separator that opens the reasoning included
    seed: int = 0  # from 0 to 2**32 - 1
    index: int = 0  # among the answers to that seed
    temperature: float = 0.0
    top_p: float = 1.0
    max_thoughts: int = 0
    max_tokens: int = 1
    speed_number: float = NO_NUMBER


@dataclasses.dataclass(frozen=True)
class Happened:
    """What slots did: arrays `[rows, steps]`, and latents still on the device, `[rows, steps, D]`."""

    kind: np.ndarray
    token: np.ndarray
    log_prob: np.ndarray
    stop_log_prob: np.ndarray
    own_speed: np.ndarray
    latents: jax.Array
    rows: dict[int, int]  # of the slots that this is about


class Running:
    """Steps that are under way."""

    def __init__(self, event: StepEvent, rows: dict[int, int]):
        self._event, self._rows = event, rows

    def wait(self) -> Happened:
        """What has happened, once it has. The latents stay: few ask for them."""
        event = self._event
        told = event.kind_B, event.token_B, event.log_prob_B, event.stop_log_prob_B, event.own_speed_B
        return Happened(*jax.device_get(told), event.latent_BD, self._rows)


class SlotEngine:
    """All slots of all devices, for the thread that owns them. A slot is a number; a device has some in a row."""

    def __init__(self, programs: SlotPrograms, sizes: SlotSizes, num_shards: int):
        self._programs, self.sizes, self._num_shards = programs, sizes, num_shards
        self._lengths: dict[int, int] = {}  # positions of what is in a slot
        self._longest: dict[int, int] = {}  # that it may come to have
        self._shapes = Shapes(sizes)
        self._filling, _ = jax.eval_shape(programs.prefill, programs.weights, *self._no_questions(sizes.prompts[-1]))
        self._shape = self._shapes.smallest(1, 1)  # as yet the largest
        self._slots: Slots = programs.empty(self._filling, *self._shape)
        self._free = [list(range(sizes.slots)) for _ in range(num_shards)]  # rows of each device, ascending
        # What the model cannot compute over so many positions is said now, not when the program is compiled.
        jax.eval_shape(lambda slots: programs.advance(programs.weights, slots, np.int32(0), sizes.steps), self._slots)

    @property
    def num_slots(self) -> int:
        """How many slots all devices have together."""
        return self.sizes.slots * self._num_shards

    @property
    def num_active(self) -> int:
        """Slots that are at work."""
        return len(self._lengths)

    @property
    def num_free(self) -> int:
        """Slots that can be filled."""
        return self.num_slots - self.num_active

    @property
    def num_fillable(self) -> int:
        """Slots that one `fill` can fill."""
        return sum(map(bool, self._free))

    def fill(self, asks: list[Ask]) -> tuple[list[int], Running]:
        """Put questions into free slots, one on a device at most; the slots, and what they decide first.

        The devices with the most free slots are taken. The caller has checked what is asked.
        """
        shards = sorted(range(self._num_shards), key=lambda shard: -len(self._free[shard]))[: len(asks)]
        assert len(asks) <= sum(bool(self._free[shard]) for shard in shards), "no free slot"
        width = self._shapes.prompt(max(len(ask.prompt_ids) for ask in asks))
        rows_R = np.full(self._num_shards, np.iinfo(np.int32).max, np.int32)
        ids_RP, lengths_R, wish = self._no_questions(width)
        slots = []
        for shard, ask in zip(shards, asks, strict=True):
            row, length = self._free[shard].pop(0), len(ask.prompt_ids)
            rows_R[shard], lengths_R[shard], ids_RP[shard, :length] = row, length, ask.prompt_ids
            for field in dataclasses.fields(wish):
                getattr(wish, field.name)[shard] = getattr(ask, field.name.removesuffix("_B"))
            slots.append(shard * self.sizes.slots + row)
            self._lengths[slots[-1]] = length
            self._longest[slots[-1]] = length + ask.max_thoughts + ask.max_tokens
        self._fit(steps=1)
        given = self._programs.put((ids_RP, lengths_R, wish, rows_R))
        filling, event = self._programs.prefill(self._programs.weights, *given[:3])
        self._slots = self._programs.insert(self._slots, filling, given[3])
        # One step of each device's row.
        event = jax.tree.map(lambda leaf_R: leaf_R[:, None], event)
        return slots, Running(event, dict(zip(slots, shards, strict=True)))

    def advance(self, limit: int) -> Running:
        """Let all slots go `limit` steps, or until one of them is done."""
        limit = min(limit, self.sizes.steps)
        self._fit(steps=limit)
        rows = {slot: self._row(slot) for slot in self._lengths}
        weights, most = self._programs.weights, self.sizes.steps
        self._slots, event = self._programs.advance(weights, self._slots, np.int32(limit), most)
        return Running(event, rows)

    def count(self, happened: Happened) -> list[int]:
        """Take note of what `advance` brought about; the slots that are done are free again, and are returned."""
        done = []
        for slot, row in happened.rows.items():
            if slot not in self._lengths:
                continue  # released since
            kinds = happened.kind[row]
            self._lengths[slot] += int(np.count_nonzero(kinds))
            if Act.LAST_TOKEN in kinds:
                self._forget(slot)
                done.append(slot)
        return done

    def release(self, slots: list[int]) -> None:
        """Free these slots, whatever they are at."""
        num_rows, _ = self._shape
        is_kept_B = np.ones(num_rows * self._num_shards, bool)
        for slot in slots:
            is_kept_B[self._row(slot)] = False
            self._forget(slot)
        self._slots = self._programs.release(self._slots, self._programs.put(is_kept_B))

    def compilations(self) -> Iterator[None]:
        """Compile a program at each turn: first the two that serve everything, then smaller ones.

        The first two turns are for before anything is served; the others may be a thread's beside those who serve.
        """
        prompts, shapes = reversed(self.sizes.prompts), self._shapes.all()
        first = self._compile_prompt(next(prompts)), self._compile_shape(shapes[0])
        rest = (*map(self._compile_prompt, prompts), *map(self._compile_shape, shapes[1:]))
        for compilation in (*first, *rest):
            compilation()
            yield

    def _compile_prompt(self, width: int) -> Callable[[], None]:
        def compilation():
            self._programs.compile_prefill(*self._no_questions(width))
            self._shapes.add_prompt(width)

        return compilation

    def _compile_shape(self, shape: tuple[int, int]) -> Callable[[], None]:
        def compilation():
            self._programs.compile_advance(self._filling, *shape, self.sizes.steps)
            self._shapes.add(shape)

        return compilation

    @property
    def num_programs(self) -> tuple[int, int]:
        """How many are compiled, and how many there will be."""
        return self._shapes.num_ready, len(self._shapes.all()) + len(self.sizes.prompts)

    def _forget(self, slot: int) -> None:
        del self._lengths[slot], self._longest[slot]
        shard, row = divmod(slot, self.sizes.slots)
        bisect.insort(self._free[shard], row)

    def _row(self, slot: int) -> int:
        shard, row = divmod(slot, self.sizes.slots)
        return shard * self._shape[0] + row

    def _fit(self, steps: int) -> None:
        """Take the smallest shape that holds all that is in slots, now and `steps` later."""
        num_rows = 1 + max(slot % self.sizes.slots for slot in self._lengths)
        room = max(min(self._lengths[slot] + steps, self._longest[slot]) for slot in self._lengths)
        shape = self._shapes.choose(self._shape, num_rows, room)
        if shape != self._shape:
            self._slots, self._shape = self._programs.resize(self._slots, *shape), shape

    def _no_questions(self, width: int) -> tuple[np.ndarray, np.ndarray, Wish]:
        """Rows for one question of each device, without any."""
        num_rows = self._num_shards
        kinds = np.uint32, np.uint32, np.float32, np.float32, np.int32, np.int32, np.float32
        wish = Wish(*(np.ones(num_rows, kind) for kind in kinds))
        wish.temperature_B[:] = 0  # else the costlier draws are made for it
        return np.zeros((num_rows, width), np.int32), np.ones(num_rows, np.int32), wish
