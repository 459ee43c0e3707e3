"""What a loaded model says: the evaluation's answers, each its own whatever it is asked with, whole and as a stream."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import fast
from exchange.tiny_run import HIDDEN, MAX_ANSWER_TOKENS, MAX_LATENTS
from thinker.conftest import STAGES

import colar_jax
from colar_jax.data.example_questions import EXAMPLES
from colar_jax.thinker.growing_text import GrowingText
from colar_jax.thinker.thinker import Thinker

QUESTIONS = [example.question for example in EXAMPLES]  # of different lengths
IN_LATENTS = ("colar", "coconut", "codi")


def assert_same_answer(ours, theirs, tolerance=1e-5):
    """All that is said, tokens exactly and numbers to rounding."""
    for name in ("question", "stage", "speed", "text", "reasoning", "num_thoughts", "forced_stop", "cut_answer"):
        assert getattr(ours, name) == getattr(theirs, name), name
    np.testing.assert_array_equal(ours.token_ids, theirs.token_ids)
    for name in ("latents", "thought_log_probs", "stop_log_probs", "token_log_probs"):
        one, other = getattr(ours, name), getattr(theirs, name)
        largest = max(np.abs(other).max(initial=0.0), 1.0)
        several = 1 if name == "latents" else 20  # each logit is a sum of many rounded products
        np.testing.assert_allclose(one, other, atol=several * tolerance * largest, err_msg=name)
    for reading, other in zip(ours.readings, theirs.readings, strict=True):
        assert [word.token_id for word in reading.words] == [word.token_id for word in other.words]
        assert reading.p_stop == pytest.approx(other.p_stop, abs=1e-4)


@pytest.mark.parametrize("stage", fast(list(STAGES), "colar"))
def test_greedy_answers_are_those_of_the_evaluation(loaded, asked_run, stage):
    model, encoded = loaded(stage), asked_run.tests["arithmetic"]
    speed = asked_run.trained_speeds(stage)[0]
    outcome = asked_run.evaluator(stage, [encoded], (speed,)).run(model.parameters, encoded, speed, seed=None)
    answers = model.generate([problem.question for problem in encoded.problems])
    assert [answer.text for answer in answers] == outcome.texts
    assert [answer.answer for answer in answers] == [prediction.strip() for prediction in outcome.predictions]
    assert [answer.num_thoughts for answer in answers] == outcome.lengths_N.tolist()
    assert [answer.forced_stop for answer in answers] == outcome.forced_stop_N.tolist()
    assert [answer.cut_answer for answer in answers] == outcome.measured["cut_answer"].tolist()
    assert [len(answer.token_ids) for answer in answers] == outcome.answer_tokens_N.tolist()


def test_latents_are_what_the_model_fed_itself(loaded, asked_run):
    encoded, model = asked_run.tests["arithmetic"], loaded("colar")
    fed = asked_run.inspector("colar").thoughts(model.parameters, encoded, 2.0)
    for index, answer in enumerate(model.generate([problem.question for problem in encoded.problems])):
        count = fed.num_thoughts_B[index]
        assert answer.latents.shape == (count, HIDDEN) and answer.latents.dtype == np.float32 and count > 0
        np.testing.assert_allclose(answer.latents, fed.embeds_BLD[index, :count], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stage", fast(list(STAGES), "colar"))
@pytest.mark.parametrize("temperature", fast([0.0, 1.0], 1.0))
def test_an_answer_does_not_depend_on_what_is_asked_with_it(loaded, stage, temperature):
    model, options = loaded(stage), {"temperature": temperature, "seed": 3}
    together = model.generate(QUESTIONS, **options)
    for index, answer in enumerate(together):
        (alone,) = model.generate([QUESTIONS[index]], first_index=index, **options)
        assert_same_answer(alone, answer)
    *others, last = model.generate([*reversed(QUESTIONS), QUESTIONS[0]], first_index=5, temperature=0)
    assert others[0].question == QUESTIONS[-1] and last.question == QUESTIONS[0]
    if not temperature:
        assert_same_answer(last, together[0])
        assert_same_answer(others[0], together[-1])


@pytest.mark.slow
def test_batches_of_any_size_say_the_same(loaded, asked_run):
    asked = QUESTIONS * 3
    # Each latent is fed on, and with it how it was rounded: some CPUs sum a product of other rows in another order.
    few = dict(temperature=0.7, seed=1, max_latents=4)
    whole = loaded("colar").generate(asked, **few)
    in_parts = colar_jax.load(asked_run.workdir, "colar", settings={"eval.batch_size": 3})
    for ours, theirs in zip(in_parts.generate(asked, **few), whole, strict=True):
        assert_same_answer(ours, theirs)
    first, again = whole[0], whole[3]
    assert first.question == again.question and not np.array_equal(first.latents, again.latents), "each its own draws"
    other_draws = loaded("colar").generate(asked[0], **few | {"seed": 2})
    assert not np.array_equal(other_draws.latents, first.latents)


@pytest.mark.parametrize(
    ("stage", "temperature"),
    fast([("colar", 1.0), *((stage, 0.0) for stage in STAGES)], ("colar", 0.0)),
)
def test_a_stream_says_the_same_piece_by_piece(loaded, stage, temperature):
    model = loaded(stage)
    answer = model.generate(QUESTIONS, temperature=temperature, seed=4)[1]
    *pieces, done = model.stream(QUESTIONS[1], temperature=temperature, seed=4, index=1)
    assert isinstance(done, colar_jax.Done)
    assert_same_answer(done.answer, answer, tolerance=1e-4)
    latents = [piece for piece in pieces if isinstance(piece, colar_jax.Latent)]
    assert [latent.index for latent in latents] == list(range(answer.num_latents))
    if latents:
        np.testing.assert_array_equal(np.stack([latent.vector for latent in latents]), done.answer.latents)
        assert [latent.p_stop for latent in latents] == [latent.p_stop for latent in done.answer.readings]
        assert [latent.log_prob for latent in latents] == pytest.approx(answer.thought_log_probs.tolist(), abs=1e-4)
    tokens = [piece for piece in pieces if isinstance(piece, colar_jax.Token)]
    assert "".join(token.text for token in tokens if token.is_answer) == answer.text
    assert "".join(token.text for token in tokens if not token.is_answer) == answer.reasoning
    assert latents + tokens == pieces, "thoughts first"


def test_a_chain_that_ends_within_a_character_is_told_whole(loaded, monkeypatch):
    """As if every token were a part of one: nothing is told before it is complete, or will not be."""
    monkeypatch.setattr(GrowingText, "add", lambda text, token_id: text._ids.append(token_id) or "")
    *pieces, done = loaded("cot").stream(QUESTIONS[1])
    told = {is_answer: "".join(piece.text for piece in pieces if piece.is_answer == is_answer) for is_answer in (0, 1)}
    assert told == {0: done.answer.reasoning, 1: done.answer.text} and told[0]


def test_a_stream_may_be_left(loaded):
    events = loaded("colar").stream(QUESTIONS[0])
    assert isinstance(next(events), colar_jax.Latent)
    events.close()


@pytest.mark.parametrize("stage", fast(list(STAGES), "colar"))
def test_what_an_answer_holds(loaded, stage):
    model = loaded(stage)
    answer = model.generate(QUESTIONS[0], temperature=1.0, seed=2, num_words=5)
    count = answer.num_thoughts
    assert answer.num_latents == len(answer.readings) == len(answer.words) == (count if stage in IN_LATENTS else 0)
    assert answer.latents.shape == (answer.num_latents, HIDDEN)
    assert answer.thought_log_probs.shape == (count,) and answer.stop_log_probs.shape == (count + 1,)
    assert answer.token_ids.shape == answer.token_log_probs.shape and 1 <= len(answer.token_ids) <= MAX_ANSWER_TOKENS
    assert all(len(words) == 5 and words[0].score >= words[-1].score for words in answer.words)
    assert (answer.token_log_probs < 0).all() and (answer.stop_log_probs <= 0).all()
    assert bool(answer.reasoning) == (stage == "cot")
    as_json = answer.as_json()
    assert as_json["prediction"] == answer.answer and as_json["length"] == count
    assert len(as_json["latents"]) == answer.num_latents


@pytest.mark.slow
def test_words_may_be_left_out(loaded):
    model = loaded("colar")
    with_words, without = (model.generate(QUESTIONS[0], num_words=number) for number in (3, 0))
    assert without.words == ((),) * without.num_latents
    # Two programs, which may round differently: of EXAMPLES of before the two were equal to the last bit.
    np.testing.assert_allclose(with_words.latents, without.latents, atol=1e-6)
    assert with_words.answer == without.answer


def with_loud(parameters, token, factor):
    """The model, whose language head says this token, or (with the other sign of `factor`) never does."""
    embedding_VD = jnp.asarray(parameters["llama"]["embedding"]) * 1e-3
    embedding_VD = embedding_VD.at[token].multiply(1e3 * factor)
    return parameters | {"llama": parameters["llama"] | {"embedding": embedding_VD}}


@pytest.mark.parametrize("stage", fast(list(STAGES), "colar"))
def test_an_answer_says_what_was_cut(loaded, stage):
    model = loaded(stage)
    tokenizer, answers = model.tokenizer, []
    for token, sign in itertools.product((tokenizer.separator_id, tokenizer.eos_id), (1, -1)):
        changed = Thinker(model.run, stage, with_loud(model.parameters, token, sign))
        vars(changed).update({name: value for name, value in vars(model).items() if name.startswith("_")})  # compiled
        answer = changed.generate(QUESTIONS[0])
        *_, done = changed.stream(QUESTIONS[0])
        assert (done.answer.forced_stop, done.answer.cut_answer) == (answer.forced_stop, answer.cut_answer)
        answers.append(answer)
    assert {answer.cut_answer for answer in answers} == {True, False}
    fixed = stage in ("no_cot", "icot", "coconut", "codi")
    assert {answer.forced_stop for answer in answers} == ({False} if fixed else {True, False})


@pytest.mark.slow
@pytest.mark.parametrize("asks", ["generate", "stream"])
def test_limits_cut_what_would_be_said_without_them(loaded, asks):
    model = loaded("colar")

    def ask(**limits):
        if asks == "generate":
            return model.generate(QUESTIONS[2], **limits)
        return list(model.stream(QUESTIONS[2], **limits))[-1].answer

    whole = ask()
    assert whole.num_latents == MAX_LATENTS and len(whole.token_ids) == MAX_ANSWER_TOKENS, "it learned no end"
    few = ask(max_latents=2)
    assert few.num_latents == 2 and few.forced_stop
    np.testing.assert_allclose(few.latents, whole.latents[:2], atol=1e-5)
    short = ask(max_answer_tokens=2)
    np.testing.assert_array_equal(short.token_ids, whole.token_ids[:2])
    assert short.cut_answer and whole.text.startswith(short.text)
    more = ask(max_latents=MAX_LATENTS + 3, max_answer_tokens=MAX_ANSWER_TOKENS + 4)
    assert more.num_latents > MAX_LATENTS
    np.testing.assert_allclose(more.latents[:MAX_LATENTS], whole.latents, atol=1e-4)


@pytest.mark.slow
def test_few_programs_for_many_questions(asked_run):
    """One for a shape, which is a power of two of rows and of positions; speeds, seeds and limits are data."""
    model = colar_jax.load(asked_run.workdir, "colar")
    with jax.log_compiles(False):
        for count, speed, options in (
            (3, 2, {}),
            (4, 1.5, {"max_latents": 2}),
            (3, "auto", {"max_answer_tokens": 1}),
        ):
            model.generate([QUESTIONS[0]] * count, speed, **options)
        for seed, temperature in ((0, 0.5), (9, 1.0)):
            model.generate([QUESTIONS[0]] * 3, seed=seed, temperature=temperature)
    sizes = [program._cache_size() for program in programs_of(model)]
    assert sizes == [1, 1], "one greedy and one sampled"
    model.generate([QUESTIONS[0]] * 5)
    model.generate([QUESTIONS[0]] * 7)
    assert [program._cache_size() for program in programs_of(model)] == [2, 1]


def programs_of(model):
    """The compiled batches of a thinker: greedy, then sampled."""
    programs, specs = model._programs, []
    for temperature in (0.0, 1.0):
        options = dataclasses.replace(model._options(None, temperature=temperature, seed=0))
        specs.append(programs._batch(programs._spec(options), options.num_words))
    return specs


def test_questions_may_be_any_sequence(loaded):
    model = loaded("no_cot")
    assert model.generate([]) == []
    (answer,) = model.generate((QUESTIONS[0],))
    assert_same_answer(model.generate(QUESTIONS[0]), answer)
    assert_same_answer(model.generate(question for question in QUESTIONS[:1])[0], answer)
    assert_same_answer(model.generate(np.array(QUESTIONS[:1]))[0], answer)
