"""What a client may not send is answered with a clear 4xx, in OpenAI's form, and the server goes on."""

import asyncio
import dataclasses
import http.client
import json
import logging
import math
import re
import threading

import pytest
import requests
from serving.served import PLAN, QUESTIONS, serving, tiny_thinker

from colar_jax import serve
from colar_jax.errors import UserError
from colar_jax.serving.guards import Bounds, Guard
from colar_jax.serving.protocol import CompletionRequest
from colar_jax.serving.refusal import Refusal
from colar_jax.serving.server import Deployment
from colar_jax.thinker import asked as what_is_asked

KEY = "sesame"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tiny_thinker(tmp_path_factory.mktemp("run"))) as served:
        yield served


@pytest.fixture(autouse=True)
def still_answers(served):
    yield
    served.wait_until_idle()
    assert served.complete()["choices"][0]["finish_reason"] in ("stop", "length")


def said(reply: requests.Response, status: int) -> str:
    """The message of a refusal of this status."""
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"} and error["code"] == status
    return error["message"]


def post(served, body: bytes, **headers) -> requests.Response:
    headers = {"Content-Type": "application/json"} | headers
    return requests.post(f"{served.url}/v1/completions", data=body, headers=headers, timeout=30)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is missing"),
        (b"{", "the body is not JSON"),
        (b'{"model": "tiny", "prompt": "\xff"}', "pars"),
        (b"[1, 2]", "dict"),
        (b"null", "the body is missing|dict"),
        (b"[" * 5000, "JSON|pars"),
        (b"1" * 5000, "pars|dict|JSON"),
        (b'{"prompt": "How many?"}', "model: this field is missing"),
        (b'{"model": "tiny"}', "prompt: this field is missing"),
    ],
)
def test_bodies_that_are_no_request(served, body, message):
    assert re.search(message, said(post(served, body), 400))


def test_a_body_of_another_type_is_told_what_to_send(served):
    body = json.dumps({"model": "tiny", "prompt": QUESTIONS[0]}).encode()
    assert "Content-Type: application/json" in said(post(served, body, **{"Content-Type": "text/plain"}), 400)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", -1),
        ("temperature", "warm"),
        ("temperature", True),
        ("top_p", 0),
        ("top_p", 1.1),
        ("n", 0),
        ("n", 1.5),
        ("n", 10**30),
        ("seed", -1),
        ("seed", 2**32),
        ("max_tokens", 0),
        ("max_latents", -1),
        ("thinking_speed", 0),
        ("thinking_speed", 0.5),
        ("thinking_speed", "fast"),
        ("thinking_speed", math.nan),
        ("thinking_speed", 2.0000001),
        ("stream", "yes"),
        ("logprobs", 5),
        ("stop", ["x"]),
        ("echo", True),
        ("best_of", 2),
        ("__class__", 1),
        ("prompt", []),
        ("prompt", [""]),
        ("prompt", 7),
        ("prompt", {"text": "How many?"}),
        ("model", None),
    ],
)
def test_a_field_that_is_wrong_is_named(served, field, value):
    body = {"model": "tiny", "prompt": QUESTIONS[0]} | {field: value}
    assert field in said(post(served, json.dumps(body).encode()), 400)


@pytest.mark.parametrize(
    ("field", "value", "status", "message"),
    [
        ("model", "gpt-4", 404, "there is no 'gpt-4' here, but 'tiny'"),
        ("n", 17, 400, "a request may have 16"),
        ("max_latents", 7, 400, "more than this server's 6"),
        ("stream_latents", True, 400, "set stream as well"),
        ("stream_options", {"include_usage": True}, 400, "set stream as well"),
        ("prompt", "   ", 400, "is empty"),
        ("prompt", "How many zebras?", 400, "does not know 'zebras'"),
        ("prompt", "apples " * 100, 400, "tokens with the words around it, and 64 fit"),
        ("prompt", "apples " * 1000, 400, "characters are more than 64 tokens"),
        ("prompt", ["How many apples?"] * 17, 400, "a request may have 16"),
    ],
)
def test_what_this_server_does_not_do_is_said(served, field, value, status, message):
    reply = served.post("/v1/completions", **{"prompt": QUESTIONS[0]} | {field: value})
    assert message in said(reply, status)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "system", "content": "Be brief."}],
        [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "5"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        "How many?",
    ],
)
def test_chats_that_are_no_question(served, messages):
    assert "messages" in said(served.post("/v1/chat/completions", messages=messages), 400)


def test_large_bodies_are_not_read(served):
    assert "may have 20000" in said(post(served, b" " * 10_000_000), 413)

    def piece_by_piece():  # chunked: nothing says how much there is
        for _ in range(1000):
            yield b" " * 1000

    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    try:
        connection.request(
            "POST", "/v1/completions", piece_by_piece(), {"Content-Type": "application/json"}, encode_chunked=True
        )
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server has closed it before all was sent
    finally:
        connection.close()


def test_heads_that_are_too_long(served):
    reply = requests.get(f"{served.url}/healthz", headers={"X": "x" * 100_000}, timeout=30)
    assert "may have 32768" in said(reply, 431)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/v1/completions", 405), ("POST", "/healthz", 405), ("GET", "/v1/models/../x", 404)],
)
def test_other_routes(served, method, path, status):
    said(requests.request(method, served.url + path, timeout=30), status)


def test_a_full_queue(served):
    scheduler = served.deployment.scheduler
    most, scheduler._max_waiting = scheduler._max_waiting, -100
    try:
        reply = served.post("/v1/completions", prompt=QUESTIONS[0])
    finally:
        scheduler._max_waiting = most
    assert "the queue is full" in said(reply, 429)
    assert 1 <= int(reply.headers["Retry-After"]) <= 60


@pytest.mark.parametrize("key", [KEY, "clé", "пароль"])
def test_a_key_is_what_its_bytes_are(key):
    guard = Guard(None, Bounds(api_key=key), None)
    scope = {"path": "/v1/models", "headers": [(b"authorization", f"Bearer {key}".encode())]}
    guard._check_key(scope)
    with pytest.raises(Refusal):
        guard._check_key(scope | {"headers": [(b"authorization", b"Bearer cl\xe9")]})


def test_a_key_may_come_from_a_file_with_a_line_break(monkeypatch):
    monkeypatch.setenv(serve.API_KEY, f"{KEY}\n")
    assert serve._api_key("") == KEY and serve._api_key("other") == "other"
    monkeypatch.setenv(serve.API_KEY, " \n")
    with pytest.raises(UserError, match="COLAR_JAX_API_KEY is blank"):
        serve._api_key("")


def test_a_request_that_never_fits_is_not_told_to_try_again(tmp_path):
    deployment = Deployment(tiny_thinker(tmp_path), dataclasses.replace(PLAN, most_waiting=1))
    request = CompletionRequest(model="tiny", prompt=QUESTIONS[0], n=PLAN.sizes.slots + 2)
    with pytest.raises(Refusal, match="6 answers are asked for, and a request may have 5"):
        asyncio.run(deployment.service.begin(request))


def test_more_latents_than_the_run_has_may_be_offered(tmp_path):
    """As `--max_latents` says; who asks for nothing gets the run's own limit."""
    sizes = dataclasses.replace(PLAN.sizes, max_thoughts=20)
    service = Deployment(tiny_thinker(tmp_path), dataclasses.replace(PLAN, sizes=sizes)).service
    for asked, expected in ((None, 6), (3, 3), (20, 20)):
        call = asyncio.run(service.begin(CompletionRequest(model="tiny", prompt=QUESTIONS[0], max_latents=asked)))
        assert call.jobs[0].ask.max_thoughts == expected


def test_a_speed_that_was_not_trained_is_said_once(tmp_path, caplog):
    service = Deployment(tiny_thinker(tmp_path), PLAN).service
    for speed in (service.served.speeds[0], 77, 78):
        asyncio.run(service.begin(CompletionRequest(model="tiny", prompt=QUESTIONS[0], thinking_speed=speed)))
    (line,) = [record.getMessage() for record in caplog.records if "asks for speed" in record.getMessage()]
    assert "speed 77, and tiny was trained at" in line


def test_a_speed_that_has_no_place_on_the_timeline_is_refused(tmp_path):
    latent = {"conditioning": "number", "timeline": "tokens"}
    service = Deployment(tiny_thinker(tmp_path, latent=latent), PLAN).service
    with pytest.raises(Refusal, match=r"^thinking_speed: speed=2\.344: .* at most 2 decimals") as refused:
        asyncio.run(service.begin(CompletionRequest(model="tiny", prompt=QUESTIONS[0], thinking_speed=2.344)))
    assert refused.value.status == 400


def test_what_clients_send_does_not_fill_the_log(served, caplog):
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert "does not know 'zebras'" in said(served.post("/v1/completions", prompt="How many zebras?"), 400)
        assert len(said(served.post("/v1/completions", prompt="How many " + "zebras" * 200), 400)) < 1000
    assert not [record for record in caplog.records if record.name.startswith("colar_jax")]


def test_signs_that_pieces_of_words_lack_are_told_once(tmp_path, caplog, monkeypatch):
    service = Deployment(tiny_thinker(tmp_path), PLAN).service
    monkeypatch.setattr(what_is_asked.models, "WordLevel", type(None))  # so it is taken for a tokenizer of pieces
    with caplog.at_level(logging.INFO):
        for prompt in ("How many zebras?", "How many lions?"):
            asyncio.run(service.begin(CompletionRequest(model="tiny", prompt=prompt)))
    (record,) = [record for record in caplog.records if "has no token for" in record.getMessage()]
    assert record.getMessage().startswith("How many zebras?: the tokenizer has no token for 'zebras'")


def test_the_others_go_on_while_a_long_question_is_read(served, monkeypatch):
    """Reading is Python's work, and takes seconds where `--max_prompt` is large."""
    is_reading, has_answered = threading.Event(), threading.Event()

    def reads_slowly(*arguments, **options):
        is_reading.set()
        assert has_answered.wait(20)

    with monkeypatch.context() as patched:
        patched.setattr("colar_jax.serving.service.check_questions", reads_slowly)
        asking = threading.Thread(target=served.complete)
        asking.start()
        try:
            assert is_reading.wait(20)
            assert requests.get(f"{served.url}/healthz", timeout=5).status_code == 200
        finally:
            has_answered.set()
            asking.join(60)


def test_a_server_whose_devices_have_failed_says_so(tmp_path):
    service = Deployment(tiny_thinker(tmp_path), PLAN).service
    service.scheduler.failure = RuntimeError("gone")
    with pytest.raises(Refusal, match="has failed, and has to be started again") as refused:
        asyncio.run(service.begin(CompletionRequest(model="tiny", prompt=QUESTIONS[0])))
    assert (refused.value.status, refused.value.retry_after) == (503, None)


def test_as_many_connections_as_are_allowed_are_served(tmp_path):
    with serving(tiny_thinker(tmp_path), dataclasses.replace(PLAN, most_connections=1)) as alone:
        assert requests.get(f"{alone.url}/healthz", timeout=30).status_code == 200


def test_a_key_is_asked_for(served, tmp_path):
    bounds = dataclasses.replace(PLAN.bounds, api_key=KEY)
    with serving(tiny_thinker(tmp_path), dataclasses.replace(PLAN, bounds=bounds)) as locked:
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": "Bearer "}):
            reply = requests.get(f"{locked.url}/v1/models", headers=header, timeout=30)
            assert "API key" in said(reply, 401) and reply.headers["WWW-Authenticate"] == "Bearer"
        right = {"Authorization": f"Bearer {KEY}"}
        assert requests.get(f"{locked.url}/v1/models", headers=right, timeout=30).status_code == 200
        assert requests.get(f"{locked.url}/healthz", timeout=30).status_code == 200
        assert requests.get(f"{locked.url}/openapi.json", timeout=30).status_code == 401


def test_counters(served):
    lines = requests.get(f"{served.url}/metrics", timeout=30).text.splitlines()
    counted = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(counted["colar_answers_total"]) >= 1
    assert 0 < float(counted["colar_useful_slot_steps_total"]) <= float(counted["colar_slot_steps_total"])
    assert float(counted["colar_active_slots"]) == 0
    assert counted['colar_replies_total{route="/v1/completions",status="200"}']
