"""Who gets a slot and when: the queue, cancelled jobs, a stop, a fault; on the slots of the small model."""

import threading

import jax
import pytest
from cases import fast
from serving.pico_slots import SIZES, ask, assert_same, decoded, slot_engine
from serving.test_slot_engine import EMBED_STD

from colar_jax.serving.jobs import FailedError, Job, QueueFullError, StoppingError
from colar_jax.serving.narration import EndOfThinking, Failed, ToldThought, ToldToken
from colar_jax.serving.scheduler import Scheduler


class Listener:
    """Keeps what is told of each job, and knows when jobs are over."""

    def __init__(self):
        self.told, self._changed = {}, threading.Condition()

    def tell(self, told) -> None:
        with self._changed:
            for job, happenings in told:
                self.told.setdefault(job, []).extend(happenings)
            self._changed.notify_all()

    def is_over(self, job) -> bool:
        last = self.told.get(job, [None])[-1]
        return isinstance(last, Failed) or (isinstance(last, ToldToken) and last.is_last)

    def wait(self, condition, seconds: float = 60) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, seconds)

    def wait_for(self, jobs) -> None:
        self.wait(lambda: all(map(self.is_over, jobs)))


class Scheduled:
    """A scheduler with its listener; `gate` holds up the steps."""

    def __init__(self, **options):
        self.listener, self.engine, self.gate = Listener(), slot_engine(), threading.Event()
        self.gate.set()
        advance = self.engine.advance
        self.engine.advance = lambda limit: (self.gate.wait(), advance(limit))[1]
        self.scheduler = Scheduler(self.engine, self.listener.tell, **{"max_waiting": 8} | options)
        self.scheduler.start()


@pytest.fixture
def scheduled():
    made = []

    def make(**options) -> Scheduled:
        made.append(Scheduled(**options))
        return made[-1]

    yield make
    for one in made:
        one.gate.set()
        assert one.scheduler.stop(timeout=60)


def job(number: int, **wishes) -> Job:
    return Job(ask(number, **wishes), wants_latents=True)


def said_of(happenings):
    """As the slots' own tests write it."""
    from serving.pico_slots import Said

    thoughts = [happening.vector_D for happening in happenings if isinstance(happening, ToldThought)]
    tokens = [happening for happening in happenings if isinstance(happening, ToldToken)]
    (end,) = [happening for happening in happenings if isinstance(happening, EndOfThinking)]
    return Said(thoughts, [token.token_id for token in tokens], end.forced, [token.log_prob for token in tokens])


@pytest.mark.parametrize("refills", fast([True, False], False))
def test_all_jobs_are_done_in_turn(scheduled, refills):
    one = scheduled(refills=refills)
    jobs = [job(number) for number in range(8)]
    one.scheduler.submit(jobs)
    one.listener.wait_for(jobs)
    for number, of_job in enumerate(jobs):
        assert_same(said_of(one.listener.told[of_job]), decoded(number), scale=EMBED_STD)


def test_a_full_queue_takes_nothing_and_says_when_it_may(scheduled):
    one = scheduled(max_waiting=2)
    one.gate.clear()
    first = [job(number) for number in range(SIZES.slots)]
    one.scheduler.submit(first)
    one.scheduler.submit([job(4), job(5)])
    with pytest.raises(QueueFullError) as full:
        one.scheduler.submit([job(6)])
    assert 1 <= full.value.retry_after <= 60
    with pytest.raises(QueueFullError):  # all or none
        one.scheduler.submit([job(6), job(7), job(0)])
    assert one.scheduler.num_waiting + one.scheduler.num_active == SIZES.slots + 2


def test_cancelled_jobs_leave_and_nobody_notices(scheduled):
    one = scheduled()
    one.gate.clear()
    jobs = [job(number) for number in range(8)]
    one.scheduler.submit(jobs)
    one.scheduler.cancel([jobs[1], jobs[6]])  # one in a slot, or about to be; one in the queue
    one.gate.set()
    others = [of_job for of_job in jobs if of_job not in (jobs[1], jobs[6])]
    one.listener.wait_for(others)
    for number, of_job in enumerate(jobs):
        if of_job in others:
            assert_same(said_of(one.listener.told[of_job]), decoded(number), scale=EMBED_STD)
        else:
            assert not one.listener.is_over(of_job)
    assert one.scheduler.stop(timeout=60)
    assert one.engine.num_active == 0 and one.engine.num_free == SIZES.slots


def test_a_stop_finishes_what_is_there_and_takes_nothing_new(scheduled):
    one = scheduled()
    one.gate.clear()
    jobs = [job(number) for number in range(6)]
    one.scheduler.submit(jobs)
    assert not one.scheduler.stop(timeout=0.05)
    with pytest.raises(StoppingError):
        one.scheduler.submit([job(7)])
    one.gate.set()
    assert one.scheduler.stop(timeout=60)
    assert all(map(one.listener.is_over, jobs)) and not one.scheduler.is_alive


def test_a_fault_is_told_to_all_and_nothing_hangs(scheduled):
    one = scheduled()
    one.gate.clear()
    jobs = [job(number) for number in range(6)]
    one.scheduler.submit(jobs)

    def broken(limit):
        raise RuntimeError("the device is gone")

    one.engine.advance = broken
    one.gate.set()
    one.listener.wait_for(jobs)
    assert all(isinstance(one.listener.told[of_job][-1], Failed) for of_job in jobs)
    with pytest.raises(FailedError):
        one.scheduler.submit([job(7)])
    assert "the device is gone" in str(one.scheduler.failure)


def test_a_device_without_memory_is_one_sentence_of_the_log(scheduled, caplog):
    one = scheduled()

    def broken(asks):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17 bytes.")

    one.engine.fill = broken
    jobs = [job(0)]
    one.scheduler.submit(jobs)
    one.listener.wait_for(jobs)
    (record,) = [record for record in caplog.records if record.name.startswith("colar_jax")]
    assert "the device has too little memory" in record.getMessage() and not record.exc_info


def test_a_fault_in_reading_a_question_is_told_to_those_who_asked_it(scheduled):
    one = scheduled()

    def broken(asks):
        raise RuntimeError("no memory for a question")

    one.engine.fill = broken
    jobs = [job(number) for number in range(6)]
    one.scheduler.submit(jobs)
    one.listener.wait_for(jobs)
    assert all(isinstance(one.listener.told[of_job][-1], Failed) for of_job in jobs)


def test_a_fault_is_told_to_who_was_done_and_had_not_heard_of_it(scheduled):
    one = scheduled()
    one.gate.clear()
    advance = one.engine.advance

    def broken_when_one_is_done(limit):
        if one.engine.num_active < SIZES.slots:
            raise RuntimeError("the device is gone")
        return advance(limit)

    one.engine.advance = broken_when_one_is_done
    jobs = [job(number) for number in range(SIZES.slots)]
    one.scheduler.submit(jobs)
    one.gate.set()
    one.listener.wait_for(jobs)
