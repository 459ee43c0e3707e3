"""The evaluator with a model made by hand, whose answers are known, and with random weights for what is drawn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colar_jax.config import DecodeConfig
from colar_jax.data.answers import VERIFIERS
from colar_jax.data.encoding import encode
from colar_jax.data.problems import Problem
from colar_jax.data.tokenizers import EMBEDDED, load_tokenizer
from colar_jax.decoding.thinking import Thought
from colar_jax.engine import Engine
from colar_jax.evaluation.decode_program import Programs
from colar_jax.evaluation.evaluator import Evaluator, Request, Workload
from colar_jax.evaluation.judge import Judge
from colar_jax.methods.coconut import Coconut
from colar_jax.methods.codi import Codi
from colar_jax.methods.colar import Colar
from colar_jax.methods.method import Method, Thinking
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import build
from colar_jax.parallel.mesh import make_mesh

PROBLEMS = [
    Problem("How many apples now?", (), "7"),
    Problem("How many pens now?", (), "9"),
    Problem("Tom has more. How many books now?", (), "9"),
    Problem("Tom has more. Then Ann has more. How many apples now?", (), "8"),
    Problem("How many more pens now?", (), "9"),
]
SPEEDS = (2.0, 5.0, "auto")
MAX_THOUGHTS = 3
# Dimensions of the model by hand; a token has one, or none. The answers are numbers, and so is a speed.
SEPARATOR, ANSWER, NUMBER, APPLES, BOOKS, PENS, THOUGHT, FIVE, SIZE = range(9)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(EMBEDDED)


@pytest.fixture(scope="module")
def encoded(tokenizer):
    return encode(PROBLEMS, tokenizer, SPEEDS)


@pytest.fixture(scope="module")
def by_hand(tokenizer):
    """A model that says `Answer:`, a number and eos: 7 about apples, 8 about books, 9 about pens, at speed 5 always 3.

    Its one layer averages the normalised embeddings of all tokens up to here and adds them to that of the last one.
    The last token decides what follows, its dimension being by far the largest; where that leaves a choice, what the
    question was about does.
    """

    def token(text: str) -> int:
        (token_id,) = tokenizer.encode(text)
        return token_id

    embedding = np.zeros((tokenizer.num_tokens, SIZE), np.float32)
    head = np.zeros_like(embedding)
    places = {"###": SEPARATOR, "Answer:": ANSWER, "apples": APPLES, "books": BOOKS, "pens": PENS, "5": FIVE}
    for text, place in (places | dict.fromkeys("3789", NUMBER)).items():
        embedding[token(text), place] = 1
    head[token("Answer:"), SEPARATOR] = 100
    for text, topic, weight in (("7", APPLES, 30), ("8", BOOKS, 30), ("9", PENS, 30), ("3", FIVE, 90)):
        head[token(text), [ANSWER, topic]] = 100, weight
    head[tokenizer.eos_id, NUMBER] = 100

    config = LlamaConfig(tokenizer.num_tokens, SIZE, 1, 1, 1, head_dim=SIZE, intermediate_size=SIZE, tied_head=False)
    graph, parameters = build(config, LatentHeadConfig(SIZE), seed=0)
    llama = jax.tree.map(jnp.zeros_like, parameters["llama"])
    for norm in ("attention_norm", "mlp_norm"):
        llama["blocks"][norm]["scale"] = jnp.ones((1, SIZE))
    llama["final_norm"]["scale"] = jnp.ones(SIZE)
    llama["blocks"]["value"]["kernel"] = llama["blocks"]["out"]["kernel"] = jnp.eye(SIZE)[None]
    return graph, parameters | {"llama": llama | {"embedding": jnp.array(embedding), "head": jnp.array(head)}}


def thinking_as(thinking) -> Method:
    """CoLaR, but for how it thinks."""

    class ByHand(Colar):
        def thinking(self, *how, **greedy):
            return thinking(*how, **greedy)

    return ByHand()


def method_by_hand(traced: list[bool]) -> Method:
    """Thinks not at all about apples, once about pens, and without an end about books."""

    def thinking(decode, separator_id, *, greedy):
        def think(model, hidden_BD, keys_B) -> Thought:
            traced.append(greedy)
            about_BD = hidden_BD > 0.01
            has_thought_B = hidden_BD[:, THOUGHT] > 1
            stop_B = about_BD[:, APPLES] | (about_BD[:, PENS] & has_thought_B)
            nothing_B = jnp.zeros(len(hidden_BD))
            embed_BD = jnp.zeros_like(hidden_BD).at[:, THOUGHT].set(1)
            return Thought(embed_BD, nothing_B, nothing_B, stop_B, nothing_B)

        return Thinking(think, max_thoughts=MAX_THOUGHTS)

    return thinking_as(thinking)


def evaluator(
    model, method, tokenizer, encoded, *, batch_size, speeds=SPEEDS, verifier="numeric", programs=None, **decode
) -> Evaluator:
    return Evaluator(
        Engine(model[0], make_mesh(jax.devices()[:1])),
        method,
        Judge(tokenizer, VERIFIERS[verifier]),
        DecodeConfig(**decode),
        Workload([encoded], speeds, batch_size),
        programs,
    )


def test_an_answer_without_an_end_is_counted_as_cut(by_hand, tokenizer, encoded):
    """`Answer:` and a number are two tokens: a limit of two leaves no room for eos, one of three does."""
    short, enough = (
        evaluator(by_hand, method_by_hand([]), tokenizer, encoded, batch_size=5, max_answer_tokens=limit)
        for limit in (2, 3)
    )
    cut = short.run(by_hand[1], encoded, 2.0, seed=None)
    assert cut.measured["cut_answer"].tolist() == [True] * 5 and cut.predictions == ["7", "9", "8", "7", "9"]
    assert not enough.run(by_hand[1], encoded, 2.0, seed=None).measured["cut_answer"].any()


@pytest.fixture(scope="module")
def traced():
    """Whether it was for greedy decoding, each time that the method's thinking was traced."""
    return []


@pytest.fixture(scope="module")
def batches_of_two(by_hand, tokenizer, encoded, traced):
    return evaluator(by_hand, method_by_hand(traced), tokenizer, encoded, batch_size=2)  # the last batch has one


def test_every_question_is_judged_once_in_its_place(by_hand, encoded, batches_of_two, traced):
    outcome = batches_of_two.run(by_hand[1], encoded, 2.0, seed=None)
    assert outcome.predictions == ["7", "9", "8", "7", "9"]
    assert outcome.texts == ["Answer:7", "Answer:9", "Answer:8", "Answer:7", "Answer:9"]
    assert outcome.right_N.tolist() == [True, True, False, False, True]
    assert outcome.lengths_N.tolist() == [0, 1, MAX_THOUGHTS, 0, 1]
    assert outcome.forced_stop_N.tolist() == [False, False, True, False, False]
    assert outcome.accuracy == 3 / 5

    num_traces = len(traced)
    fast = batches_of_two.run(by_hand[1], encoded, 5.0, seed=None)
    assert fast.predictions == ["3"] * 5 and fast.accuracy == 0
    assert batches_of_two.run(by_hand[1], encoded, "auto", seed=None).predictions == outcome.predictions
    assert len(traced) == num_traces and all(traced), "one program serves every speed"
    assert batches_of_two.run(by_hand[1], encoded, 2.0, seed=0).lengths_N.tolist() == [0, 1, MAX_THOUGHTS, 0, 1]
    assert not traced[-1], "a seed asks for sampled thoughts"


def test_an_answer_that_is_cut_loses_no_token_and_answers_compare_as_the_verifier_says(
    by_hand, tokenizer, encoded, batches_of_two, caplog
):
    caplog.set_level("INFO")
    with_decimals = encode([dataclasses.replace(p, answer=f"{p.answer}.0") for p in PROBLEMS], tokenizer, SPEEDS)
    exact = evaluator(
        by_hand, method_by_hand([]), tokenizer, encoded, batch_size=2, verifier="exact", max_answer_tokens=2
    )
    right = [True, True, False, False, True]
    for judge, of_integers, of_decimals in ((batches_of_two, right, right), (exact, right, [False] * 5)):
        for problems, expected in ((encoded, of_integers), (with_decimals, of_decimals)):
            outcome = judge.run(by_hand[1], problems, 2.0, seed=None)
            assert outcome.texts[:3] == ["Answer:7", "Answer:9", "Answer:8"]
            assert outcome.right_N.tolist() == expected
            assert outcome.measured["cut_answer"].tolist() == [judge is exact] * 5
            assert "cut" not in caplog.text  # the sweep says it, once


def test_a_prompt_that_does_not_fit_is_an_error_with_both_lengths(by_hand, tokenizer, encoded):
    longer = Problem("Tom has more. " * 20 + PROBLEMS[0].question, (), "7")
    short = evaluator(by_hand, method_by_hand([]), tokenizer, encoded, batch_size=2)
    with pytest.raises(ValueError, match=r"a prompt of 9\d tokens does not fit the decoder's 32"):
        short.run(by_hand[1], encode([longer], tokenizer, SPEEDS), 2.0, seed=None)


@pytest.mark.slow
def test_what_a_question_draws_does_not_depend_on_the_batch_size(tokenizer, encoded):
    def thinking(decode, separator_id, *, greedy):
        def think(model, hidden_BD, keys_B) -> Thought:
            """Each thought is a draw, and the last one with a chance of 1 in 5."""
            embed_BD = jax.vmap(lambda key: jax.random.normal(key, hidden_BD.shape[1:]))(keys_B)
            stop_B = jax.vmap(jax.random.uniform)(keys_B) < 0.2
            return Thought(embed_BD, embed_BD[:, 0], embed_BD[:, 0], stop_B, embed_BD[:, 0])

        return Thinking(think, max_thoughts=20)

    config = dataclasses.replace(PRESETS["pico"], vocab_size=tokenizer.num_tokens)
    model = build(config, LatentHeadConfig(config.hidden_size), seed=0)
    method = thinking_as(thinking)
    of_size = {size: evaluator(model, method, tokenizer, encoded, batch_size=size) for size in (2, 5)}
    outcome = of_size[2].run(model[1], encoded, 2.0, seed=3)
    assert len(set(outcome.lengths_N.tolist())) >= 3 and len(set(outcome.texts)) == len(PROBLEMS)
    for batch_size, seed, is_same in ((5, 3, True), (2, 3, True), (2, 4, False)):
        other = of_size[batch_size].run(model[1], encoded, 2.0, seed=seed)
        assert (other.texts == outcome.texts) == is_same, (batch_size, seed)
        assert (other.lengths_N.tolist() == outcome.lengths_N.tolist()) == is_same


def random_model(tokenizer):
    """The pico preset, with weights so large that it says different things."""
    config = dataclasses.replace(PRESETS["pico"], vocab_size=tokenizer.num_tokens)
    graph, parameters = build(config, LatentHeadConfig(config.hidden_size), seed=0)
    return graph, jax.tree.map(lambda leaf: 4 * leaf if leaf.ndim else leaf, parameters)


@pytest.mark.slow
def test_a_limit_and_temperatures_of_a_request_are_those_of_a_program_made_for_them(tokenizer, encoded):
    model, programs = random_model(tokenizer), Programs()
    wide = dict(max_latents=6, max_answer_tokens=3)
    asked = DecodeConfig(
        max_latents=2, max_answer_tokens=3, latent_temperature=0.5, stop_temperature=2.0, answer_temperature=1.5
    )
    with_room = evaluator(model, Colar(), tokenizer, encoded, batch_size=5, programs=programs, **wide)
    made_for_it = evaluator(model, Colar(), tokenizer, encoded, batch_size=5, **vars(asked))
    requests = [Request(encoded, 2.0, 3, decode) for decode in (None, asked)]
    (_, as_made), (_, outcome) = with_room.run_all(model[1], requests)
    expected = made_for_it.run(model[1], encoded, 2.0, seed=3)
    assert programs.num_compiled == 1, "both were one program"
    assert outcome.texts == expected.texts != as_made.texts
    assert outcome.lengths_N.tolist() == expected.lengths_N.tolist() and outcome.lengths_N.max() <= 2
    assert outcome.forced_stop_N.tolist() == expected.forced_stop_N.tolist()
    assert as_made.lengths_N.max() > 2

    for fixed, message in (({"max_latents": 7}, "max_latents=7 > 6"), ({"top_p": 0.5}, "decode.top_p: fixed")):
        other = Request(encoded, 2.0, 3, dataclasses.replace(DecodeConfig(**wide), **fixed))
        with pytest.raises(ValueError, match=message):
            list(with_room.run_all(model[1], [other]))


def test_evaluators_of_equal_models_share_programs_and_the_host_works_while_the_device_does(tokenizer, encoded):
    model, programs = random_model(tokenizer), Programs()
    decode = dict(max_latents=2, max_answer_tokens=2)
    first, second = (
        evaluator(random_model(tokenizer), Colar(), tokenizer, encoded, batch_size=2, programs=programs, **decode)
        for _ in range(2)
    )
    events = []
    programs.start = lambda *arguments: events.append("start") or Programs.start(programs, *arguments)
    programs.finish = lambda decoded: events.append("finish") or Programs.finish(programs, decoded)
    requests = [Request(encoded, speed, None) for speed in SPEEDS]
    for request, outcome in first.run_all(model[1], requests):
        events.append(request.speed)
        assert len(outcome.texts) == len(PROBLEMS) and outcome.seconds > 0
        assert outcome.prompt_tokens_N.tolist() == [
            len(encoded.prompt(i, request.speed)) + 1 for i in range(len(PROBLEMS))
        ]
    # Three batches a request; a request is judged when the next one's first batch is on the device.
    assert events == ["start", "finish"] * 3 + ["start", 2.0] + ["finish", "start"] * 2 + ["finish", "start", 5.0] + [
        "finish", "start", "finish", "start", "finish", "auto",
    ]  # fmt: skip
    second.run(model[1], encoded, 2.0, seed=None)
    assert programs.num_compiled == 1 and programs.compile_seconds > 0 and programs.device_seconds > 0


@pytest.mark.parametrize("method", [Coconut(num_stages=1), Codi(num_latents=2)], ids=["coconut", "codi"])
def test_stages_with_equal_settings_share_a_program_whatever_made_them(method, tokenizer, encoded):
    model, programs = random_model(tokenizer), Programs()

    def texts(method):
        one = evaluator(model, method, tokenizer, encoded, batch_size=5, programs=programs, max_answer_tokens=2)
        return one.run(model[1], encoded, "auto", seed=None).texts

    again = type(method)(**vars(method))
    assert again is not method and texts(again) == texts(method) and programs.num_compiled == 1
