"""Batches that a thread makes ahead: the same ones, no more than wanted, and no thread that is left behind."""

import itertools
import threading
import time

import pytest
from data.test_loader import assert_same, loader_of

from colar_jax.data.loader import prefetch


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def wait_until(is_so):
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_threads_end():
    wait_until(lambda: not prefetch_threads())


class Counting:
    """A loader that notes what it is asked for, and fails at one step."""

    def __init__(self, failing_step=None):
        self.asked = []
        self.failing_step = failing_step

    def batch(self, step):
        self.asked.append(step)
        if step == self.failing_step:
            raise OSError(f"step {step} is on a broken disk")
        return step


def test_prefetched_batches_are_the_same():
    loader = loader_of()
    batches = list(prefetch(loader, 2, 9))
    assert len(batches) == 7
    for step, batch in enumerate(batches, start=2):
        assert_same(batch, loader_of().batch(step))
    assert_threads_end()


@pytest.mark.parametrize("num_taken", [1, 3])
def test_closing_stops_the_thread(num_taken):
    counting = Counting()
    batches = prefetch(counting, 0, 10_000, depth=2)
    assert list(itertools.islice(batches, num_taken)) == list(range(num_taken))
    assert len(prefetch_threads()) == 1
    batches.close()
    assert_threads_end()
    # What was taken, what the queue held, one waiting to enter it, and one more made while it was being emptied.
    assert len(counting.asked) <= num_taken + 2 + 1 + 2


def test_no_more_is_made_ahead_than_the_queue_holds():
    counting = Counting()
    batches = prefetch(counting, 0, 10_000, depth=3)
    assert next(batches) == 0
    wait_until(lambda: len(counting.asked) >= 5)
    time.sleep(0.05)
    assert counting.asked == list(range(5))  # one taken, three waiting, one in the thread's hands
    batches.close()
    assert_threads_end()


def test_an_exception_in_the_thread_reaches_the_consumer():
    batches = prefetch(Counting(failing_step=3), 0, 10)
    taken = []
    with pytest.raises(OSError, match="^step 3 is on a broken disk$"):
        taken.extend(batches)  # which keeps what came before the exception
    assert taken == [0, 1, 2]
    assert_threads_end()
