"""OpenAI's own client works against the server, and gets what `colar_jax.load(...).generate` gives."""

import base64

import numpy as np
import openai
import pytest
from serving.served import QUESTIONS, serving, tiny_thinker


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    return tiny_thinker(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def served(thinker):
    with serving(thinker) as served:
        yield served


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models(client):
    (model,) = client.models.list().data
    assert model.id == "tiny" and model.max_latents == 6
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="there is no 'other' here"):
        client.models.retrieve("other")


@pytest.mark.parametrize("speed", [None, 2, 3.5, "auto"])
def test_greedy_completions_are_what_generate_says(client, thinker, speed):
    extra = {} if speed is None else {"thinking_speed": speed}
    reply = client.completions.create(model="tiny", prompt=QUESTIONS, logprobs=0, extra_body=extra)
    expected = thinker.generate(QUESTIONS, speed)
    assert [choice.text for choice in reply.choices] == [answer.text for answer in expected]
    assert [choice.index for choice in reply.choices] == list(range(len(QUESTIONS)))
    for choice, answer in zip(reply.choices, expected, strict=True):
        assert (choice.answer, choice.num_thoughts, choice.forced_stop) == (
            answer.answer, answer.num_thoughts, answer.forced_stop,
        )  # fmt: skip
        assert choice.finish_reason == ("length" if answer.cut_answer else "stop")
        np.testing.assert_allclose(choice.logprobs.token_logprobs, answer.token_log_probs, rtol=1e-3, atol=1e-3)
    thoughts = sum(answer.num_thoughts for answer in expected)
    assert reply.usage.completion_tokens_details.reasoning_tokens == thoughts
    assert reply.usage.completion_tokens == thoughts + sum(len(answer.token_ids) for answer in expected)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_sampled_answers_go_by_seed_and_number(client, thinker):
    sampled = dict(model="tiny", temperature=0.7, seed=11)
    together = client.completions.create(prompt=QUESTIONS[:3], **sampled)
    expected = thinker.generate(QUESTIONS[:3], temperature=0.7, seed=11)
    assert [choice.text for choice in together.choices] == [answer.text for answer in expected]
    of_one = client.completions.create(prompt=QUESTIONS[0], n=3, **sampled)
    again = client.chat.completions.create(messages=[{"role": "user", "content": QUESTIONS[0]}], n=3, **sampled)
    assert [choice.text for choice in of_one.choices] == [choice.message.content for choice in again.choices]
    assert of_one.choices[0].text == together.choices[0].text
    assert len({(choice.text, choice.num_thoughts) for choice in of_one.choices}) > 1
    unseeded = [client.completions.create(model="tiny", prompt=QUESTIONS[0], temperature=5) for _ in range(5)]
    assert len({reply.choices[0].text for reply in unseeded}) > 1


def test_limits_hold(client, thinker):
    one = client.completions.create(
        model="tiny", prompt=QUESTIONS[0], max_tokens=2, extra_body={"max_latents": 3}
    ).choices[0]
    expected = thinker.generate(QUESTIONS[0], max_latents=3, max_answer_tokens=2)
    assert (one.text, one.num_thoughts, one.forced_stop) == (expected.text, expected.num_thoughts, expected.forced_stop)
    assert client.completions.create(model="tiny", prompt=QUESTIONS[0], max_tokens=10**6).usage.completion_tokens <= 11


def test_chat(client, thinker):
    reply = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": [{"type": "text", "text": QUESTIONS[1]}]}],
        logprobs=True, max_completion_tokens=3,
    )  # fmt: skip
    (choice,) = reply.choices
    expected = thinker.generate(QUESTIONS[1], max_answer_tokens=3)
    assert choice.message.content == expected.text and choice.message.role == "assistant"
    log_probs = [token.logprob for token in choice.logprobs.content]
    np.testing.assert_allclose(log_probs, expected.token_log_probs, rtol=1e-3, atol=1e-3)


def test_streams_add_up_to_the_whole(client, thinker):
    options = dict(model="tiny", temperature=0.7, seed=3, n=2, stream=True, stream_options={"include_usage": True})
    texts, ends, latents, usage = ["", ""], {}, {0: [], 1: []}, None
    with client.completions.create(prompt=QUESTIONS[2], extra_body={"stream_latents": True}, **options) as stream:
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                texts[choice.index] += choice.text
                if choice.finish_reason:
                    ends[choice.index] = choice
                if latent := getattr(choice, "latent", None):
                    assert not texts[choice.index], "thoughts come before the answer"
                    latents[choice.index].append(latent)
    for index in range(2):
        (expected,) = thinker.generate([QUESTIONS[2]], temperature=0.7, seed=3, first_index=index)
        assert texts[index] == expected.text and ends[index].answer == expected.answer
        vectors = [np.frombuffer(base64.b64decode(latent["vector"]), "<f4") for latent in latents[index]]
        np.testing.assert_allclose(np.array(vectors).reshape(expected.latents.shape), expected.latents, atol=1e-3)
        for number, (latent, reading) in enumerate(zip(latents[index], expected.readings, strict=True)):
            assert latent["number"] == number + 1
            assert [word for word, _ in latent["words"]] == [word.text for word in reading.words]
            assert latent["p_stop"] == pytest.approx(reading.p_stop, abs=1e-3)
    assert usage.completion_tokens_details.reasoning_tokens == sum(map(len, latents.values()))

    chat = client.chat.completions.create(messages=[{"role": "user", "content": QUESTIONS[2]}], **options)
    said = ["", ""]
    for chunk in chat:
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
    assert said == texts


def test_what_is_wrong_is_said_to_the_client(client):
    with pytest.raises(openai.BadRequestError, match="the tokenizer does not know 'quaternions'"):
        client.completions.create(model="tiny", prompt="How many quaternions?")
    with pytest.raises(openai.BadRequestError, match="presence_penalty: this server does not know this field"):
        client.completions.create(model="tiny", prompt=QUESTIONS[0], presence_penalty=1.0)
