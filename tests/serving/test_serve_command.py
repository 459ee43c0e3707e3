"""`python -m colar_jax.serve`: what goes wrong is one line, and SIGTERM lets it finish."""

import dataclasses
import gc
import itertools
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jax
import pytest
import requests
from cases import fast
from exchange.tiny_run import LORA, given_run
from fastapi.testclient import TestClient

from colar_jax import serve
from colar_jax.config import resolve
from colar_jax.errors import UserError, no_memory
from colar_jax.serving.slot_engine import SlotEngine
from colar_jax.thinker.opening import config_of

ROOT = Path(__file__).parents[2]
A_RUN = ROOT / "tests" / "runs_of_before" / "arithmetic"
QUESTION = "Eva has 10 apples. Each becomes 2. She gives away 6. She buys 3 more. How many apples now?"


def started(*arguments: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "colar_jax.serve", *arguments]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | environment
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def error_of(*arguments: str) -> str:
    """The one line of a command that ends at once."""
    process = started(*arguments)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 2 and error.startswith("error: ") and error.count("\n") == 1, (out, error)
    return error


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return shutil.copytree(A_RUN, tmp_path_factory.mktemp("runs") / "arithmetic")


@pytest.mark.slow
def test_a_port_that_is_in_use_is_said_before_anything_is_loaded(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert re.search(rf"--port={port}: .*in use", error_of(f"--model={run}", f"--port={port}"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    fast(  # some seconds each, most of them imports
        [
            ((), "--model is missing"),
            (("--model=nowhere",), "nowhere"),
            (("--model={run}", "--stage=colr"), "did you mean colar|Did you mean"),
            (("--model={run}", "--slots=0"), "--slots=0 must be positive"),
            (("--model={run}", "--port=70000"), "--port=70000 is no port"),
            (("--model={run}", "--host=999.1.1.1", "--port=0"), "--host=999.1.1.1"),
        ],
        (("--model={run}", "--stage=colr"), "did you mean colar|Did you mean"),
    ),
)
def test_what_is_wrong_is_one_line(run, arguments, message):
    assert re.search(message, error_of(*(argument.format(run=run) for argument in arguments)))


def test_a_model_of_the_hub_is_called_by_its_repository():
    cached = Path("/cache/hub/models--owner--colar-demo/snapshots/3f2a9c0de1")
    assert serve._name_of(cached) == "colar-demo"
    assert serve._name_of(Path("/runs/arithmetic")) == "arithmetic" and serve._name_of(Path("/run")) == "run"


@pytest.mark.parametrize("model", [{}, {"lora": LORA}])
def test_weights_are_held_once(model, tmp_path):
    """Layer by layer, and not in the stacks besides that they were loaded in; of a run with adapters its base, too."""
    run, _ = given_run(tmp_path / "run", **model)
    shape = run.shapes["llama"]["blocks"]["gate"]["kernel"].shape

    def stacks() -> int:
        gc.collect()
        return sum(array.shape == shape for array in jax.live_arrays())

    before, config = stacks(), resolve(config_of(run.workdir))
    deployment = serve._deployment(config, serve.Flags(slots=1, max_prompt=16))
    assert deployment.slots.num_slots == 1 and stacks() == before


@pytest.mark.parametrize(("num_fitting", "is_served"), [(0, False), (1, False), (2, True)])
def test_too_little_memory_is_one_sentence(num_fitting, is_served, run, monkeypatch, caplog):
    """At the two programs that serve everything nothing is served; at a smaller one they go on."""
    compilations, has_failed = SlotEngine.compilations, threading.Event()

    def too_large(engine):
        yield from itertools.islice(compilations(engine), num_fitting)
        has_failed.set()
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17 bytes.")

    monkeypatch.setattr(SlotEngine, "compilations", too_large)
    deployment = serve._deployment(resolve(config_of(run)), serve.Flags(slots=1, max_prompt=64))
    if not is_served:
        with pytest.raises(jax.errors.JaxRuntimeError) as raised:  # which a command says in one sentence
            deployment.server()
        assert "the device has too little memory" in no_memory(raised.value) and "--slots" in no_memory(raised.value)
        return
    deployment.server()
    with TestClient(deployment.app) as client:
        assert has_failed.wait(60)
        body = {"model": "arithmetic", "prompt": QUESTION}
        assert client.post("/v1/completions", json=body).status_code == 200
    (line,) = [record.getMessage() for record in caplog.records if "programs are compiled" in record.getMessage()]
    assert line.startswith("2 of ") and "the device has too little memory" in line


def test_sizes_without_memory_are_one_sentence(run):
    flags = serve.Flags(slots=serve._MOST_SLOTS, max_prompt=serve._LARGEST_COUNT)
    with pytest.raises(UserError, match=r"--slots=65536 --max_prompt=536870912 .*: no memory for so many pos"):
        serve._deployment(resolve(config_of(run)), flags)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(serve.Flags) if field.type is not str])
def test_no_number_is_without_a_bound(name):
    """One that no clock waits for, or that no array holds, was found when the model was loaded, or at the end."""
    for value in (math.inf, math.nan, 1e300) if isinstance(getattr(serve.Flags, name), float) else (2**29 + 1, -1):
        with pytest.raises(UserError, match=f"--{name}="):
            serve.Flags(**{name: value})


def test_help():
    process = started("--help")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert all(f"--{name}" in out for name in ("model", "port", "slots", "queue", "api_key", "max_prompt", "grace"))


@pytest.mark.slow
def test_sigterm_in_the_middle_of_a_stream(run):
    process = started(f"--model={run}", "--port=0", "--slots=2", "--max_prompt=64", COLAR_JAX_API_KEY="sesame")
    try:
        for line in process.stdout:
            if found := re.search(r"serving 'arithmetic', with an API key: (http://127.0.0.1:\d+)/v1", line):
                url = found[1]
                break
        headers = {"Authorization": "Bearer sesame"}
        assert requests.get(f"{url}/v1/models", timeout=30).status_code == 401
        body = {"model": "arithmetic", "prompt": [QUESTION] * 4, "n": 4, "stream": True, "temperature": 0.5}
        with requests.post(f"{url}/v1/completions", json=body, headers=headers, stream=True, timeout=60) as reply:
            lines = reply.iter_lines()
            first = next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert first.startswith(b"data: {") and rest[-1] == b"data: [DONE]"
        assert sum(b'"finish_reason": "' in line for line in rest) == 16
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
