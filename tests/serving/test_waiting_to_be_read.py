"""Requests whose questions are still to be read: they have places in the queue, a time limit, and may be left."""

import asyncio
import contextlib
import dataclasses
import threading
import time

import pytest
from serving.served import PLAN, QUESTIONS, tiny_thinker
from serving.straight import Client

from colar_jax.serving.protocol import CompletionRequest
from colar_jax.serving.server import Deployment

MOST = 2 + PLAN.sizes.slots  # in the queue below, while no slot is at work


class Reading:
    """How questions are read: one by one, each when it may."""

    def __init__(self):
        self.asked, self.may_go_on = [], threading.Event()

    def read(self, questions, *arguments, **options) -> None:
        self.asked += questions
        assert self.may_go_on.wait(10)

    async def wait_until(self, num_asked: int) -> None:
        while len(self.asked) < num_asked:
            await asyncio.sleep(0.01)


@pytest.fixture
def reading(monkeypatch):
    reading = Reading()
    monkeypatch.setattr("colar_jax.serving.service.check_questions", reading.read)
    yield reading
    reading.may_go_on.set()


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    return tiny_thinker(tmp_path_factory.mktemp("run"))


def deployed(thinker, seconds_to_answer: float) -> Deployment:
    """Its slots do not move: what is in the queue stays there."""
    bounds = dataclasses.replace(PLAN.bounds, seconds_to_answer=seconds_to_answer)
    return Deployment(thinker, dataclasses.replace(PLAN, most_waiting=2, bounds=bounds))


@pytest.fixture
def deployment(thinker):
    return deployed(thinker, 15.0)


@contextlib.asynccontextmanager
async def asking(*clients: Client):
    """Requests under way, in turn; who has no reply at the end leaves."""
    tasks = [asyncio.create_task(client.ask()) for client in clients]
    await asyncio.sleep(0.05)
    try:
        yield tasks
    finally:
        for client in clients:
            client.leave()
        await asyncio.wait_for(asyncio.gather(*tasks), 20)


def test_where_the_queue_is_full_nothing_is_read(deployment, reading):
    async def go() -> None:
        reading.may_go_on.set()
        async with asking(Client(deployment.app, prompt=QUESTIONS[0], n=MOST)):
            await reading.wait_until(1)
            while deployment.scheduler.num_waiting < MOST:
                await asyncio.sleep(0.01)
            late = Client(deployment.app, prompt=QUESTIONS[1])
            assert await late.ask() == 429 and "the queue is full" in late.said
        assert reading.asked == QUESTIONS[:1]

    asyncio.run(go())


def test_who_waits_to_be_read_has_a_place_in_the_queue(deployment, reading):
    async def go() -> None:
        first, second = (Client(deployment.app, prompt=QUESTIONS[0], n=MOST - 1) for _ in range(2))
        async with asking(first):
            await reading.wait_until(1)
            assert deployment.scheduler.num_waiting == 0
            assert await second.ask() == 429
            async with asking(Client(deployment.app, prompt=QUESTIONS[1])) as (last,):
                assert not last.done(), "there is one place"
                reading.may_go_on.set()
                while deployment.scheduler.num_waiting < MOST:
                    await asyncio.sleep(0.01)
        assert reading.asked == QUESTIONS[:2]

    asyncio.run(go())


def test_places_are_free_again_where_a_question_cannot_be_read(deployment):
    for _ in range(2):
        client = Client(deployment.app, prompt="How many zebras?", n=MOST)
        assert asyncio.run(client.ask()) == 400 and "zebras" in client.said
    assert deployment.metrics.given_up._value.get() == 0, "a mistake of the client is told, not given up"


@pytest.mark.parametrize("stream", [False, True])
def test_the_wait_is_within_the_time_limit(thinker, reading, stream):
    deployment = deployed(thinker, 0.3)

    async def go() -> None:
        clients = [Client(deployment.app, prompt=question, stream=stream) for question in QUESTIONS[:2]]
        async with asking(*clients) as tasks:
            assert await asyncio.wait_for(asyncio.gather(*tasks), 10) == [504, 504]
        assert all("took longer than 0.3 s" in client.said for client in clients)
        reading.may_go_on.set()
        await asyncio.sleep(0.1)
        assert reading.asked == QUESTIONS[:1]

    asyncio.run(go())
    assert deployment.metrics.given_up._value.get() == 2


def test_who_leaves_is_not_read_and_one_is_read_at_a_time(deployment, reading):
    async def go() -> None:
        clients = [Client(deployment.app, prompt=question) for question in QUESTIONS[:3]]
        async with asking(*clients) as tasks:
            await reading.wait_until(1)
            clients[0].leave()
            clients[1].leave()
            await asyncio.wait(tasks[:2], timeout=10)
            await asyncio.sleep(0.1)
            assert tasks[0].done() and tasks[1].done() and reading.asked == QUESTIONS[:1]
            reading.may_go_on.set()
            await reading.wait_until(2)
            while not deployment.scheduler.num_waiting:
                await asyncio.sleep(0.01)
        assert reading.asked == [QUESTIONS[0], QUESTIONS[2]]

    asyncio.run(go())
    assert deployment.metrics.given_up._value.get() == 3 and deployment.scheduler.num_waiting == 0


def test_a_request_is_timed_from_when_it_came(deployment, reading):
    async def go() -> None:
        start = time.perf_counter()
        begun = asyncio.create_task(deployment.service.begin(CompletionRequest(model="tiny", prompt=QUESTIONS[0])))
        await reading.wait_until(1)
        is_read = time.perf_counter()
        reading.may_go_on.set()
        assert start <= (await begun).started <= is_read

    asyncio.run(go())
