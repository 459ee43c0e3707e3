"""Shapes of the slots, of which the smallest is taken that is compiled and enough.

A shape is a number of slots and the room of each. The largest is compiled first, and serves everything; the others are
compiled beside it, and taken once they are there.
"""

import itertools

from colar_jax.serving.sizes import SlotSizes

# A smaller shape is taken when it has been enough for so many dispatches: to change costs about a step.
_PATIENCE = 12


class Shapes:
    """Which shapes are compiled, and which of them to take."""

    def __init__(self, sizes: SlotSizes):
        self._sizes, self._num_enough = sizes, 0
        self._prompts, self._ready = {sizes.prompts[-1]}, {(sizes.widths[-1], sizes.rooms[-1])}
        self.num_ready = 0

    def all(self) -> list[tuple[int, int]]:
        """(slots of a device, room), the largest first."""
        return sorted(itertools.product(self._sizes.widths, self._sizes.rooms), reverse=True)

    def add(self, shape: tuple[int, int]) -> None:
        """This one is compiled."""
        self._ready = self._ready | {shape}  # a new set: another thread may be looking through the old one
        self.num_ready += 1

    def add_prompt(self, width: int) -> None:
        """Questions of this width can be read."""
        self._prompts = self._prompts | {width}
        self.num_ready += 1

    def prompt(self, length: int) -> int:
        """The narrowest room for a question."""
        return min(width for width in self._prompts if width >= length)

    def smallest(self, num_rows: int, room: int) -> tuple[int, int]:
        """The cheapest that holds so many slots with so much room."""
        return min(
            (shape for shape in self._ready if shape[0] >= num_rows and shape[1] >= room),
            key=_cost,
        )

    def choose(self, current: tuple[int, int], num_rows: int, room: int) -> tuple[int, int]:
        """The current one, unless it is too small, or a smaller one has been enough for a while."""
        if current[0] < num_rows or current[1] < room:
            self._num_enough = 0
            return self.smallest(max(num_rows, current[0]), max(room, current[1]))
        smallest = self.smallest(num_rows, room)
        self._num_enough = self._num_enough + 1 if _cost(smallest) < _cost(current) else 0
        if self._num_enough < _PATIENCE:
            return current
        self._num_enough = 0
        return smallest


def _cost(shape: tuple[int, int]) -> int:
    return shape[0] * shape[1]
