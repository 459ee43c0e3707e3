"""Load on the server: requests a second, and how long clients wait, beside one request at a time and static batches.

    pip install -e '.[serve]' openai
    python benchmarks/serve.py [--clients 1,8,32,128] [--requests 256] [--work mixed] [--rounds 1]
    python benchmarks/serve.py --clients 32 --modes continuous --requests 20000 --memory      # RSS every 1,000 requests

Three servers, each a process of its own, of the same program: `one` has one slot, `static` has 32 and fills them only
when all are free, `continuous` refills each at once. Clients are OpenAI's own, coroutines of this process, on the
loopback and on the same cores; each sends its next request when it has the whole answer before (streamed, so that the
first token is seen). All servers get the same requests, one server after the other in each round.

The model is the size `micro` (hidden 384, 6 layers, vocabulary 4096) with random weights. It never stops by itself, so
a request's `max_latents` and `max_tokens` are what it takes:

    mixed   questions of the embedded problems (about 35 tokens), 4 to 64 latents and 4 to 16 answer tokens, uniform
    gsm8k   lengths of GSM8K's training set under the Llama-3 tokenizer: a question of as many words, its steps in
            groups of a speed drawn from 1, 1.5, 2, 3, 4, 5, its answer

Slot use is the share of the slots' steps that did something. Times are of this machine: report ratios.
"""

import argparse
import asyncio
import dataclasses
import functools
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import types
import urllib.request
from pathlib import Path

import openai
from given_lists import known_names

HERE = Path(__file__).parent
MODES = {"one": (1, True), "static": (32, False), "continuous": (32, True)}  # slots, refills
SPEEDS = (1, 1.5, 2, 3, 4, 5)
MOST_LATENTS, MOST_TOKENS, MOST_PROMPT = 64, 16, 256

HEAD = """\
{work}: {requests} requests in each of {rounds} rounds; times in milliseconds

| clients | server | req/s | latents/s | first token | p99 | answer | p99 | p99/median | slot use | x one | x static |
| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


def requests_of(work: str, count: int) -> list[dict]:
    """The bodies of requests."""
    from colar_jax.data.arithmetic import generate_problems

    rng = random.Random(0)
    problems = [problem.question for problem in generate_problems("train", 512)]
    lengths = json.loads((HERE / "gsm8k_lengths.json").read_text())

    def mixed() -> dict:
        return {
            "prompt": rng.choice(problems),
            "max_tokens": rng.randint(4, MOST_TOKENS),
            "extra_body": {"thinking_speed": rng.choice(SPEEDS), "max_latents": rng.randint(4, MOST_LATENTS)},
        }

    def gsm8k() -> dict:
        (question, steps, answer), speed = rng.choice(lengths), rng.choice(SPEEDS)
        words = [word for text in rng.sample(problems, 8) for word in text.split()]
        return {
            "prompt": " ".join(words[: max(question - 12, 4)]),
            "max_tokens": answer,
            "extra_body": {"thinking_speed": speed, "max_latents": min(MOST_LATENTS, math.ceil(steps / speed))},
        }

    make = {"mixed": mixed, "gsm8k": gsm8k}[work]
    return [make() for _ in range(count)]


def serve(mode: str) -> None:
    """The server's side: prints its port when all is compiled, and serves until SIGTERM."""
    import jax

    from colar_jax.data.tokenizers import EMBEDDED, load_tokenizer
    from colar_jax.engine import Engine
    from colar_jax.methods.colar import Colar
    from colar_jax.model.latent_head import LatentHeadConfig
    from colar_jax.model.presets import PRESETS
    from colar_jax.model.reasoner import build
    from colar_jax.parallel.mesh import make_mesh
    from colar_jax.serving.connections import bind
    from colar_jax.serving.server import Deployment, Plan
    from colar_jax.serving.sizes import SlotSizes
    from colar_jax.settings import DecodeConfig

    llama = PRESETS["micro"]
    graph, parameters = build(llama, LatentHeadConfig(llama.hidden_size), seed=0)
    method = Colar(speeds=",".join(f"{speed:g}" for speed in SPEEDS))
    engine, tokenizer = Engine(graph, make_mesh(jax.devices()[:1])), load_tokenizer(EMBEDDED)
    decode = DecodeConfig(max_latents=MOST_LATENTS, max_answer_tokens=MOST_TOKENS)
    run = types.SimpleNamespace(
        trained_recipes=lambda stage: (method.recipe,),
        trained_speeds=lambda stage: SPEEDS,
        thinking=lambda stage: method.thinking(decode, tokenizer.separator_id, greedy=True),
    )
    thinker = types.SimpleNamespace(
        engine=engine, method=method, decode=decode, tokenizer=tokenizer, parameters=parameters, stage="colar", run=run
    )
    slots, refills = MODES[mode]
    sizes = SlotSizes(slots=slots, max_prompt=MOST_PROMPT, max_thoughts=MOST_LATENTS, max_tokens=MOST_TOKENS)
    deployment = Deployment(thinker, Plan("micro", sizes, refills=refills))
    with bind("127.0.0.1", 0) as bound:
        server = deployment.server()
        server.on_start = lambda: print(bound.getsockname()[1], flush=True)
        server.run(sockets=[bound])


@dataclasses.dataclass
class Seen:
    """What the clients of one cell saw; times in seconds."""

    seconds: float = 0.0
    latents: int = 0
    first_token: list[float] = dataclasses.field(default_factory=list)
    answer: list[float] = dataclasses.field(default_factory=list)
    useful: float = 0.0
    slot_steps: float = 0.0

    def add(self, other: "Seen") -> None:
        """Another round of the same cell."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


class Worker:
    """A server in a process of its own; `cache` keeps programs for the servers that are started after it."""

    def __init__(self, mode: str, cache: str):
        command = [sys.executable, __file__, "--side", mode]
        environment = {"JAX_COMPILATION_CACHE_DIR": cache} | os.environ | {"JAX_PLATFORMS": "cpu"}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        self.port = self.port or int(self.process.stdout.readline())
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> str:
        """A page for who watches a server."""
        with urllib.request.urlopen(self.url + path, timeout=60) as reply:
            return reply.read().decode()

    def wait_until_compiled(self) -> None:
        """Until all its programs are."""
        while (programs := json.loads(self.get("/healthz"))["programs"])["compiled"] < programs["of"]:
            time.sleep(1)

    def counters(self) -> dict[str, float]:
        """Its own count of what it did."""
        lines = (line.rsplit(" ", 1) for line in self.get("/metrics").splitlines() if line[0] != "#")
        return {name: float(value) for name, value in lines}

    def stop(self) -> None:
        """As whoever runs a server does."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


async def ask(client: openai.AsyncOpenAI, body: dict, seen: Seen) -> None:
    """One request, to its last piece."""
    start, first = time.perf_counter(), None
    # With log-probabilities a piece comes for every token, also of those that the small tokenizer has no text for.
    options = dict(model="micro", logprobs=0, stream=True, stream_options={"include_usage": True})
    stream = await client.completions.create(**options, **body)
    async for piece in stream:
        if first is None:
            first = time.perf_counter() - start
        if piece.usage is not None:
            seen.latents += piece.usage.completion_tokens_details.reasoning_tokens
    seen.answer.append(time.perf_counter() - start)
    seen.first_token.append(first)


async def load(worker: Worker, bodies: list[dict], num_clients: int, every: int = 0) -> Seen:
    """All the requests, from so many clients, each with one under way; `every` so many the memory is printed."""
    seen, waiting, before = Seen(), iter(bodies), worker.counters()

    async def user() -> None:
        options = dict(base_url=f"{worker.url}/v1", api_key="none", max_retries=0, timeout=600)
        async with openai.AsyncOpenAI(**options) as client:
            for body in waiting:
                await ask(client, body, seen)
                if every and len(seen.answer) % every == 0:
                    memory = worker.counters()["process_resident_memory_bytes"]
                    print(f"{len(seen.answer):7,} requests   {memory / 2**20:8.1f} MiB", flush=True)

    start = time.perf_counter()
    await asyncio.gather(*(user() for _ in range(num_clients)))
    seen.seconds, after = time.perf_counter() - start, worker.counters()
    seen.useful, seen.slot_steps = (
        after[name] - before[name] for name in ("colar_useful_slot_steps_total", "colar_slot_steps_total")
    )
    return seen


def percentile(values: list[float], share: float) -> float:
    """In milliseconds."""
    return 1000 * sorted(values)[min(len(values) - 1, int(share * len(values)))]


def row(num_clients: int, mode: str, seen: Seen, base: dict[str, float]) -> str:
    """A line of the table; `base` are requests a second of the modes before."""
    rate = len(seen.answer) / seen.seconds
    base[mode] = rate
    ratios = [f"{rate / base[other]:.2f}" if other in base and other != mode else "" for other in ("one", "static")]
    times = [f"{percentile(values, share):,.0f}" for values in (seen.first_token, seen.answer) for share in (0.5, 0.99)]
    p99 = percentile(seen.answer, 0.99) / (1000 * statistics.median(seen.answer))
    cells = [num_clients, mode, f"{rate:.1f}", f"{seen.latents / seen.seconds:,.0f}", *times, f"{p99:.1f}"]
    return f"| {' | '.join(map(str, [*cells, f'{seen.useful / seen.slot_steps:.0%}', *ratios]))} |"


async def measure(arguments) -> None:
    """All cells, as a Markdown table."""
    bodies, workers = requests_of(arguments.work, arguments.requests), {}
    cache = tempfile.TemporaryDirectory()
    try:
        for mode in arguments.modes:
            workers[mode] = worker = Worker(mode, cache.name)
            worker.wait_until_compiled()  # one after the other: what two have in common is compiled once
            await load(worker, bodies[:64], 32)  # what is compiled when it is met
        print(HEAD.format(**vars(arguments)), flush=True)
        for num_clients in map(int, arguments.clients.split(",")):
            cells = {mode: Seen() for mode in workers}
            for _ in range(arguments.rounds):
                for mode, worker in workers.items():
                    every = 1000 if arguments.memory else 0
                    cells[mode].add(await load(worker, bodies, num_clients, every))
            base: dict[str, float] = {}
            for mode, seen in cells.items():
                print(row(num_clients, mode, seen, base), flush=True)
    finally:
        for worker in workers.values():
            worker.stop()
        cache.cleanup()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", default="1,8,32,128")
    parser.add_argument("--requests", type=int, default=256, help="in each cell and round")
    parser.add_argument("--rounds", type=int, default=1)
    modes = functools.partial(known_names, known=tuple(MODES))
    parser.add_argument("--modes", type=modes, default=",".join(MODES))
    parser.add_argument("--work", choices=("mixed", "gsm8k"), default="mixed")
    parser.add_argument("--memory", action="store_true", help="print the server's memory every 1,000 requests")
    parser.add_argument("--side", choices=tuple(MODES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    serve(arguments.side) if arguments.side else asyncio.run(measure(arguments))


if __name__ == "__main__":
    main()
