"""Clients that go away, stand still or come in crowds: no slot is lost, and others' answers stay what they are."""

import asyncio
import contextlib
import dataclasses
import json
import logging
import random
import socket
import time

import openai
import pytest
from serving.served import PLAN, QUESTIONS, serving, tiny_thinker
from serving.straight import Client

from colar_jax.serving.connections import bind
from colar_jax.serving.server import Deployment

CROWD = 1000


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    return tiny_thinker(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def served(thinker):
    """Steps take a while, so that clients can leave between them."""
    with serving(thinker, slowly=0.004) as served:
        yield served


def request(served, body: dict, path: str = "/v1/completions") -> bytes:
    """A request as it goes over the wire."""
    content = json.dumps({"model": "tiny"} | body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def connect(served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port), timeout=30)


def is_closed(connection: socket.socket, seconds: float) -> bool:
    """Whether the server closes the connection within so long."""
    connection.settimeout(seconds)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def all_that_comes(connection: socket.socket) -> bytes:
    """What a connection has until it is closed."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(1 << 16):
            said += piece
    return said


async def leave(served, rng: random.Random) -> None:
    """A client that sends a request, all or a part of it, reads a little, and is gone."""
    body = {
        "prompt": rng.choice(QUESTIONS),
        "stream": rng.random() < 0.7,
        "n": rng.randint(1, 3),
        "temperature": rng.choice((0, 0.7)),
    }
    sent = request(served, body)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(sent if rng.random() < 0.9 else sent[: rng.randrange(1, len(sent))])
    with contextlib.suppress(TimeoutError, ConnectionError):
        await asyncio.wait_for(reader.read(rng.randint(1, 3000)), rng.uniform(0, 0.08))
    if rng.random() < 0.5:
        writer.transport.abort()  # RST
    else:
        writer.close()


@pytest.mark.slow
def test_200_clients_leave_and_the_others_do_not_notice(served, thinker):
    expected = [answer.text for answer in thinker.generate(QUESTIONS, temperature=0.7, seed=5)]

    async def stay(client) -> list[str]:
        reply = await client.completions.create(model="tiny", prompt=QUESTIONS, temperature=0.7, seed=5)
        return [choice.text for choice in reply.choices]

    async def everyone() -> list[list[str]]:
        rng, answers = random.Random(0), []
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=20, timeout=120) as client:
            for _ in range(10):
                leaving = [leave(served, rng) for _ in range(20)]
                answers += (await asyncio.gather(stay(client), stay(client), *leaving))[:2]
        return answers

    assert asyncio.run(everyone()) == [expected] * 20
    served.wait_until_idle()
    assert served.deployment.slots.num_free == served.deployment.slots.num_slots
    assert served.deployment.metrics.given_up._value.get() > 50, "they left while their answers were made"


def test_who_leaves_frees_the_slots_at_once(thinker):
    """An answer takes seconds here; its slots are free after a step or two, and so are places in the queue."""
    with serving(thinker, slowly=0.4) as served:
        scheduler = served.deployment.scheduler
        for stream in (False, True):
            with connect(served) as leaving:
                leaving.sendall(request(served, {"prompt": QUESTIONS[:2], "n": 4, "stream": stream}))
                end = time.monotonic() + 10
                while scheduler.num_active < 4 or scheduler.num_waiting < 4:
                    assert time.monotonic() < end
                    time.sleep(0.01)
            served.wait_until_idle(1.5)
        assert served.deployment.metrics.answers._value.get() == 0


@pytest.mark.parametrize("stream", [False, True])
def test_who_has_left_before_the_reply_begins_is_given_up(thinker, stream):
    deployment = Deployment(thinker, PLAN)  # whose slots do not move: what is in the queue stays there
    client = Client(deployment.app, has_left=True, prompt=QUESTIONS[0], n=3, stream=stream)
    asyncio.run(client.ask())
    assert deployment.scheduler.num_waiting == 0
    assert deployment.metrics.given_up._value.get() == 1


def test_a_connection_without_a_request_is_closed(served):
    with connect(served) as silent, connect(served) as half, connect(served) as slow:
        half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n")
        slow.sendall(request(served, {"prompt": QUESTIONS[0]})[:-5])  # a body that does not end
        start = time.monotonic()
        assert is_closed(silent, 10) and is_closed(half, 10)
        slow.settimeout(10)
        assert slow.recv(4096).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - start < 9
    assert served.complete()["choices"]


@pytest.mark.parametrize("comes_with_the_first", [True, False])
def test_a_second_request_that_does_not_end(served, comes_with_the_first):
    first, second = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /hea"
    with connect(served) as connection:
        connection.sendall(first + second if comes_with_the_first else first)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        if not comes_with_the_first:
            time.sleep(0.1)
            connection.sendall(second)
        assert is_closed(connection, 10)


def test_a_client_that_drips_is_closed(served):
    with connect(served) as dripping:
        start = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for letter in b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 100:
                dripping.sendall(bytes([letter]))
                time.sleep(0.1)
        assert time.monotonic() - start < 9


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"\0" * 100, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
)
def test_what_is_no_http(served, garbage):
    with connect(served) as connection:
        connection.sendall(garbage)
        assert is_closed(connection, 10)
    assert served.complete()["choices"]


def test_who_does_not_read_is_closed_and_its_slots_are_free(thinker, caplog, monkeypatch):
    """And nothing is logged of it: anybody could fill the log."""

    def bind_with_little_room(*address):
        bound = bind(*address)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # else the system takes all of the reply
        return bound

    monkeypatch.setattr("serving.served.bind", bind_with_little_room)
    bounds = dataclasses.replace(PLAN.bounds, seconds_to_read=0.5)
    with serving(thinker, dataclasses.replace(PLAN, bounds=bounds)) as served:
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            deaf.connect(("127.0.0.1", served.port))
            much = {"prompt": QUESTIONS[0], "n": 16, "stream": True, "stream_latents": True, "temperature": 1}
            deaf.sendall(request(served, much) * 3)  # one reply alone is kept for who reads late
            time.sleep(3.0)
            served.wait_until_idle()
            assert all_that_comes(deaf).count(b"[DONE]") < 3, "closed in the middle"
        assert served.complete()["choices"]
        assert served.deployment.slots.num_free == served.deployment.slots.num_slots
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_answer_that_takes_too_long_is_given_up(thinker):
    bounds = dataclasses.replace(PLAN.bounds, seconds_to_answer=0.3)
    with serving(thinker, dataclasses.replace(PLAN, bounds=bounds), slowly=0.3) as served:
        reply = served.post("/v1/completions", prompt=QUESTIONS[0])
        assert reply.status_code == 504 and "took longer than 0.3 s" in reply.text
        reply = served.post("/v1/completions", prompt=QUESTIONS[0], stream=True)
        assert reply.status_code == 200 and "took longer than 0.3 s" in reply.text and "[DONE]" not in reply.text
        served.wait_until_idle()


def test_a_stop_finishes_what_is_under_way(thinker):
    with serving(thinker, slowly=0.05) as served:
        with connect(served) as streaming, connect(served) as idle:
            streaming.sendall(request(served, {"prompt": QUESTIONS[0], "stream": True}))
            said = streaming.recv(200)
            served.server.should_exit = True
            while piece := streaming.recv(4096):
                said += piece
            assert b"[DONE]" in said, "to its end"
            assert is_closed(idle, 10)
        with pytest.raises(ConnectionError), connect(served):
            pass
        served.thread.join(30)


@pytest.mark.slow
def test_a_thousand_connections_at_once(thinker):
    """All of them in one process with the server: it needs its time to hear them all."""
    bounds = dataclasses.replace(PLAN.bounds, seconds_to_send=20.0)
    with serving(thinker, dataclasses.replace(PLAN, bounds=bounds)) as served:
        crowd_of_a_thousand(served)


def crowd_of_a_thousand(served) -> None:
    async def one(number: int) -> bytes:
        await asyncio.sleep(0.001 * (number % 100))
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            if number % 2:
                writer.write(request(served, {"prompt": QUESTIONS[number % len(QUESTIONS)]}))
                return await asyncio.wait_for(reader.read(12), 100)
            return await asyncio.wait_for(reader.read(12), 100)  # says nothing
        except ConnectionError:
            return b""

    async def crowd() -> list[bytes]:
        return await asyncio.gather(*(one(number) for number in range(CROWD)))

    replies = asyncio.run(crowd())
    asked = [reply for number, reply in enumerate(replies) if number % 2]
    assert set(asked) <= {b"HTTP/1.1 200", b"HTTP/1.1 429", b"HTTP/1.1 503"} and asked.count(b"HTTP/1.1 200") >= 64
    served.wait_until_idle(60)
    assert served.complete()["choices"]
