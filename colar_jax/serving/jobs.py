"""What a scheduler is given to do, and how it says what it did."""

import dataclasses
from collections.abc import Callable
from typing import Any

from colar_jax.serving.narration import Happening
from colar_jax.serving.slot_engine import Ask


class QueueFullError(Exception):
    """There is no room to wait in; `retry_after` seconds later there may be."""

    def __init__(self, retry_after: int):
        super().__init__(f"the queue is full: try again in {retry_after} s")
        self.retry_after = retry_after


class StoppingError(Exception):
    """The server is about to stop, and takes nothing new."""


class FailedError(Exception):
    """The server's devices have failed: it takes nothing more."""


@dataclasses.dataclass(eq=False)
class Job:
    """One answer to be made."""

    ask: Ask
    wants_latents: bool = False
    owner: Any = None  # whom it is made for
    index: int = 0  # among those of its owner
    is_cancelled: bool = False


# What has happened to jobs, in order; called from the thread of the devices.
Tell = Callable[[list[tuple[Job, list[Happening]]]], None]


class Observer:
    """What is counted; this one counts nothing (`serving.counters` does)."""

    def ran(self, num_steps: int, num_useful: int, num_slots: int, seconds: float) -> None:
        """A run of so many steps of all slots, of which so many slot-steps were of use."""

    def now(self, num_waiting: int, num_active: int) -> None:
        """How many wait, and how many slots are at work."""
