"""Who gets a slot, and when: a thread that owns the devices.

    cancelled ones leave -> free slots are filled from the queue -> some steps of all -> what happened is told

What happened in one run of steps is told while the devices are at the next.
"""

import collections
import dataclasses
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from colar_jax.errors import no_memory
from colar_jax.serving.jobs import FailedError, Job, Observer, QueueFullError, StoppingError, Tell
from colar_jax.serving.narration import Failed, Happening, Narrator, ToldThought
from colar_jax.serving.slot_engine import Happened, Running, SlotEngine

logger = logging.getLogger(__name__)

# A run of steps takes about so long, so that what is told comes piece by piece, and a request does not wait for long.
_RUN_SECONDS = 0.04
# A shorter one while slots are free: who comes next, perhaps the client that has just got its answer, takes one sooner.
_RUN_SECONDS_WITH_ROOM = 0.02
# Questions that are read between two runs of steps, so that those who think do not stand still.
_MOST_FILLS = 8
# Finished answers by which is estimated how long the queue takes.
_RECENT = 64


class Scheduler:
    """Makes answers.

    Args:
        engine: the slots; they are this thread's from now on.
        tell: is called with what happened.
        max_waiting: jobs that may wait for a slot.
        read: the words nearest to latents `[N, D]`, for jobs that want them.
        refills: False fills slots only when all are free (static batches; for comparison).
    """

    def __init__(
        self,
        engine: SlotEngine,
        tell: Tell,
        *,
        max_waiting: int,
        in_words: bool = False,
        read: Callable[[np.ndarray], list] = lambda latents_ND: [()] * len(latents_ND),
        refills: bool = True,
        observer: Observer = Observer(),  # noqa: B008
    ):
        self._engine, self._tell, self._in_words, self._refills = engine, tell, in_words, refills
        self._max_waiting, self._observer, self._read = max_waiting, observer, read
        self._changed = threading.Condition()
        self._waiting: collections.deque[Job] = collections.deque()
        self._slots: dict[int, tuple[Job, Narrator]] = {}
        self._untold: list[tuple[Happened, dict[int, tuple[Job, Narrator]]]] = []
        self._is_stopping = self._has_cancelled = False
        self._step_seconds = _RUN_SECONDS
        self._finished_at: collections.deque[float] = collections.deque(maxlen=_RECENT)
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="devices", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """All of these, or none. Raises what `check_room` raises."""
        with self._changed:
            self.check_room(len(jobs))
            self._waiting.extend(jobs)
            self._changed.notify()

    def check_room(self, num_jobs: int) -> None:
        """QueueFullError: no room for so many. StoppingError, FailedError: nothing is taken any more."""
        with self._changed:
            if self.failure is not None:
                raise FailedError("the server has failed, and has to be started again: its log says why")
            if self._is_stopping:
                raise StoppingError("the server is about to stop")
            num_free = self._engine.num_slots - len(self._slots)
            if len(self._waiting) + num_jobs > self._max_waiting + num_free:
                raise QueueFullError(self._seconds_to_go())

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Give these up; nothing more is told of them soon."""
        with self._changed:
            for job in jobs:
                job.is_cancelled = True
            gone = set(map(id, jobs))
            self._waiting = collections.deque(job for job in self._waiting if id(job) not in gone)
            self._has_cancelled = True
            self._changed.notify()

    def stop(self, *, timeout: float | None = None) -> bool:
        """Take nothing new, finish what is there; whether all was finished in time."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def num_slots(self) -> int:
        """How many slots all devices have together."""
        return self._engine.num_slots

    @property
    def num_programs(self) -> tuple[int, int]:
        """How many are compiled, and how many there will be."""
        return self._engine.num_programs

    @property
    def num_waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._waiting)

    @property
    def num_active(self) -> int:
        """Jobs in slots."""
        return len(self._slots)

    @property
    def is_alive(self) -> bool:
        """Whether answers are being made."""
        return self._thread.is_alive()

    def _seconds_to_go(self) -> int:
        """How long the queue may take, by how fast answers came lately."""
        times = self._finished_at
        if len(times) < 2 or times[-1] <= times[0]:
            return 1
        rate = (len(times) - 1) / (times[-1] - times[0])
        return min(60, max(1, math.ceil(len(self._waiting) / rate)))

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:
            words = no_memory(error)
            logger.error("the thread of the devices has ended: %s", words or error, exc_info=not words)
            with self._changed:
                self.failure = error
                untold = (slots for _, slots in self._untold)  # who is done, and has not heard of it, among them
                at_work = (job for slots in (*untold, self._slots) for job, _ in slots.values())
                jobs = list(dict.fromkeys([*at_work, *self._waiting]))
                self._waiting.clear()
            self._tell([(job, [Failed("the server has failed; its log says why")]) for job in jobs])

    def _serve(self) -> None:
        while self._wait_for_work(is_idle=not self._untold):
            self._release_cancelled()
            fillings = self._fill()
            start = time.perf_counter()
            running = self._engine.advance(self._limit()) if self._engine.num_active else None
            slots = dict(self._slots)
            self._tell_all(self._untold)
            self._untold = []
            self._tell_all([(filling.wait(), slots) for filling in fillings])
            if running is None:
                continue
            happened = running.wait()
            self._note(happened, time.perf_counter() - start, is_alone=not fillings)
            self._untold = [(happened, slots)]
            for slot in self._engine.count(happened):
                del self._slots[slot]
                self._finished_at.append(time.monotonic())

    def _wait_for_work(self, *, is_idle: bool) -> bool:
        """Until there is something to do; False when there never will be."""
        with self._changed:
            while is_idle and not (self._waiting or self._slots or self._has_cancelled):
                if self._is_stopping:
                    return False
                self._observer.now(0, 0)
                self._changed.wait()
            return True

    def _release_cancelled(self) -> None:
        with self._changed:
            if not self._has_cancelled:
                return
            self._has_cancelled = False
        slots = [slot for slot, (job, _) in self._slots.items() if job.is_cancelled]
        if slots:
            self._engine.release(slots)
            for slot in slots:
                del self._slots[slot]

    def _fill(self) -> list[Running]:
        """Questions from the queue into free slots: their first decisions."""
        fillings = []
        if not self._refills and self._slots:
            return fillings
        most = _MOST_FILLS if self._refills else self._engine.num_slots
        while len(fillings) < most and self._engine.num_free:
            with self._changed:
                count = min(len(self._waiting), self._engine.num_fillable)
                jobs = [self._waiting.popleft() for _ in range(count)]
            if not jobs:
                break
            try:
                slots, running = self._engine.fill([job.ask for job in jobs])
            except BaseException:  # they wait still, to be told of it with the others
                self._waiting.extendleft(jobs)
                raise
            for slot, job in zip(slots, jobs, strict=True):
                self._slots[slot] = job, Narrator(in_words=self._in_words)
            fillings.append(running)
        self._observer.now(len(self._waiting), len(self._slots))
        return fillings

    def _limit(self) -> int:
        seconds = _RUN_SECONDS_WITH_ROOM if self._engine.num_free else _RUN_SECONDS
        return max(1, min(self._engine.sizes.steps, round(seconds / self._step_seconds)))

    def _note(self, happened: Happened, seconds: float, *, is_alone: bool) -> None:
        kinds = happened.kind[list(happened.rows.values())]
        num_steps = int(np.count_nonzero(kinds, axis=1).max(initial=0))
        if is_alone and num_steps:  # else it includes the reading of questions
            self._step_seconds += 0.2 * (seconds / num_steps - self._step_seconds)
        self._observer.ran(num_steps, int(np.count_nonzero(kinds)), self._engine.num_slots, seconds)

    def _tell_all(self, happened: list[tuple[Happened, dict[int, tuple[Job, Narrator]]]]) -> None:
        told = list(itertools.chain.from_iterable(self._told(*one) for one in happened))
        if told:
            self._tell(told)

    def _told(self, happened: Happened, slots: dict[int, tuple[Job, Narrator]]):
        wants = any(slots[slot][0].wants_latents for slot in happened.rows if slot in slots)
        latents = np.asarray(happened.latents) if wants else None
        for slot, row in happened.rows.items():
            if slot not in slots or slots[slot][0].is_cancelled:
                continue
            job, narrator = slots[slot]
            latents_TD = latents[row] if job.wants_latents else None
            arrays = happened.kind, happened.token, happened.log_prob, happened.stop_log_prob, happened.own_speed
            happenings = narrator.tell(*(array[row] for array in arrays), latents_TD)
            if happenings:
                yield job, self._with_words(happenings) if job.wants_latents else happenings

    def _with_words(self, happenings: list[Happening]) -> list[Happening]:
        thoughts = [happening for happening in happenings if isinstance(happening, ToldThought)]
        words = iter(self._read(np.stack([thought.vector_D for thought in thoughts])) if thoughts else ())
        return [
            dataclasses.replace(happening, words=next(words)) if isinstance(happening, ToldThought) else happening
            for happening in happenings
        ]
