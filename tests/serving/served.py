"""A server of a tiny model in a thread of the test's process, on a port of its own."""

import contextlib
import dataclasses
import threading
import time

import jax
import requests
from exchange.tiny_run import larger, tiny_config

from colar_jax.data.example_questions import EXAMPLES
from colar_jax.runs.run import prepare
from colar_jax.serving.connections import bind
from colar_jax.serving.guards import Bounds
from colar_jax.serving.server import Deployment, Plan
from colar_jax.serving.sizes import SlotSizes
from colar_jax.thinker.thinker import Thinker

QUESTIONS = [example.question for example in EXAMPLES]
SIZES = SlotSizes(slots=4, max_prompt=64, max_thoughts=6, max_tokens=5, steps=4)
PLAN = Plan("tiny", SIZES, Bounds(body=20_000, seconds_to_send=2.0), most_waiting=64, seconds_to_finish=20)


def tiny_thinker(folder, stage: str = "colar", **model) -> Thinker:
    """A stage with random weights that make a difference."""
    run = prepare(tiny_config(folder, stages=(stage,), **model), sets="none")
    return Thinker(run, stage, larger(jax.device_get(run.initial_parameters())))


@dataclasses.dataclass
class Served:
    """A running server."""

    deployment: Deployment
    port: int
    thread: threading.Thread
    server: object

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str, **body) -> requests.Response:
        """A request."""
        return requests.post(f"{self.url}{path}", json={"model": "tiny"} | body, timeout=60)

    def complete(self, prompt=QUESTIONS[0], **body) -> dict:
        """A completion, or an AssertionError."""
        reply = self.post("/v1/completions", prompt=prompt, **body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def wait_until_idle(self, seconds: float = 20.0) -> None:
        """Until no slot is at work, or an AssertionError."""
        end = time.monotonic() + seconds
        scheduler = self.deployment.scheduler
        while scheduler.num_active or scheduler.num_waiting:
            assert time.monotonic() < end, (scheduler.num_active, scheduler.num_waiting)
            time.sleep(0.02)

    def stop(self) -> None:
        """As SIGTERM does."""
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def serving(thinker: Thinker, plan: Plan = PLAN, *, slowly: float = 0.0):
    """A server of this stage; each run of steps takes `slowly` longer."""
    deployment = Deployment(thinker, plan)
    # The first two programs serve everything; the others would be compiled beside the tests.
    compilations = deployment.slots.compilations
    deployment.slots.compilations = lambda: (turn for turn, _ in zip(compilations(), range(2), strict=False))
    if slowly:
        advance = deployment.slots.advance
        deployment.slots.advance = lambda limit: (time.sleep(slowly), advance(1))[1]
    with bind("127.0.0.1", 0) as bound:
        server, is_up = deployment.server(), threading.Event()
        server.on_start = is_up.set
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        served = Served(deployment, bound.getsockname()[1], thread, server)
        try:
            assert is_up.wait(120), "the server did not start"
            yield served
        finally:
            served.stop()
