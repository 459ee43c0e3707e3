"""Serve a trained stage behind an address: `python -m colar_jax.serve --model=runs/arithmetic --port=8000`.

The API is OpenAI's: /v1/completions, /v1/chat/completions, /v1/models; docs/serving.md says what is its own. A request
thinks in a slot beside others; a slot is refilled as soon as it is free. /healthz and /metrics are for who watches.
"""

import dataclasses
import logging
import math
import os
import sys
import threading
from pathlib import Path

from colar_jax.command_line import MODEL, flag, run_main
from colar_jax.config import Config
from colar_jax.errors import UserError

API_KEY = "COLAR_JAX_API_KEY"  # of the environment: what is on a command line, all users of a machine can see
_LARGEST_COUNT = 2**29  # three of them together are positions, int32 on the devices
_MOST_SLOTS = 2**16


@dataclasses.dataclass(frozen=True)
class Flags:
    """What `serve` takes besides --model and the settings."""

    stage: str = flag("", "default: the last stage of the run that thinks in latents, else the last")
    host: str = flag("127.0.0.1", "address to listen at; 0.0.0.0: all of this machine")
    port: int = flag(8000, "port to listen at; 0: any")
    name: str = flag("", "what clients call the model; default: the name of its folder, or of its repository")
    api_key: str = flag("", f"what clients must send; default: the environment's {API_KEY}; empty: nothing")
    slots: int = flag(32, "answers that are made at the same time, on each device")
    queue: int = flag(256, "answers that may wait for a slot; more are refused with status 429")
    max_prompt: int = flag(256, "tokens of a question, with the words around it")
    max_latents: int = flag(0, "that a request may ask for; 0: decode.max_latents of the run")
    max_tokens: int = flag(0, "of an answer; 0: decode.max_answer_tokens of the run")
    max_answers: int = flag(16, "of one request: its questions times n")
    max_body: int = flag(1 << 20, "bytes of a request")
    max_connections: int = flag(1024, "at the same time; more are refused with status 503")
    timeout: float = flag(120.0, "seconds after which a request is given up")
    grace: float = flag(60.0, "seconds that what is under way may take after SIGTERM")

    def __post_init__(self):
        for name in ("max_latents", "max_tokens", "queue"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name}={getattr(self, name)} is negative")
        for name in ("slots", "max_prompt", "max_answers", "max_body", "max_connections", "timeout", "grace"):
            if not getattr(self, name) > 0:
                raise UserError(f"--{name}={getattr(self, name)} must be positive")
        for field in dataclasses.fields(self):
            most = {int: _LARGEST_COUNT, float: threading.TIMEOUT_MAX}.get(field.type, math.inf)
            most = _MOST_SLOTS if field.name == "slots" else most
            if most < math.inf and getattr(self, field.name) > most:
                raise UserError(f"--{field.name}={getattr(self, field.name)} is more than {most:.0f}")
        if not 0 <= self.port < 65536:
            raise UserError(f"--port={self.port} is no port: a number from 0 to 65535")


def serve(config: Config, flags: Flags) -> None:
    """Load the model, and answer until SIGTERM or Ctrl-C."""
    _require_extra()
    from colar_jax.serving.connections import bind

    bound = bind(flags.host, flags.port)  # before the model is loaded, which takes longer
    with bound:
        deployment = _deployment(config, flags)
        server, plan = deployment.server(), deployment.plan
        host, port = bound.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        key = "with an API key" if plan.bounds.api_key else "without an API key"
        server.on_start = lambda: logging.info("serving %r, %s: %s/v1", plan.name, key, address)
        server.run(sockets=[bound])
    if deployment.scheduler.failure is not None:
        sys.exit(1)


def _deployment(config: Config, flags: Flags):
    """What is served. The model as it was loaded is let go: its layers in one stack, which are held one by one now."""
    from colar_jax import load
    from colar_jax.serving.server import Deployment

    thinker = load(config, flags.stage or None)
    return Deployment(thinker, _plan(config, flags, thinker))


def _plan(config: Config, flags: Flags, thinker):
    from colar_jax.serving.guards import Bounds
    from colar_jax.serving.server import Plan
    from colar_jax.serving.sizes import SlotSizes

    sizes = SlotSizes(
        slots=flags.slots,
        max_prompt=flags.max_prompt,
        max_thoughts=flags.max_latents or thinker.run.thinking(thinker.stage).max_thoughts,
        max_tokens=flags.max_tokens or thinker.decode.max_answer_tokens,
    )
    bounds = Bounds(body=flags.max_body, seconds_to_answer=flags.timeout, api_key=_api_key(flags.api_key))
    return Plan(
        name=flags.name or _name_of(Path(config.workdir).expanduser().resolve()),
        sizes=sizes,
        bounds=bounds,
        most_waiting=flags.queue,
        most_answers=flags.max_answers,
        most_connections=flags.max_connections,
        seconds_to_finish=flags.grace,
    )


def _name_of(folder: Path) -> str:
    """The name of a folder; of one in the hub's cache, which is called by a hash, that of its repository."""
    repository = folder.parent.parent.name  # of models--<owner>--<name>/snapshots/<hash>
    return repository.rpartition("--")[2] if repository.startswith("models--") else folder.name


def _api_key(given: str) -> str:
    """The key that clients must send, without the line break of the file that it came from."""
    name, key = ("--api_key", given) if given else (API_KEY, os.environ.get(API_KEY, ""))
    if key and not key.strip():
        raise UserError(f"{name} is blank: name a key, or leave it empty to ask for none")
    return key.strip()


def _require_extra() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install -e '.[serve]'") from None


if __name__ == "__main__":
    run_main(serve, Flags, MODEL)
