"""Many questions decoded together get the replies that each gets alone, and every reply says what was cut."""

import functools
import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from exchange.tiny_run import larger

from colar_jax.config import defaults, resolve, stage_defaults
from colar_jax.data.example_questions import EXAMPLES
from colar_jax.evaluation.asking import Reply
from colar_jax.runs.run import prepare

QUESTIONS = [example.question for example in EXAMPLES]  # of different lengths
MAX_LATENTS, MAX_STEP_TOKENS, MAX_ANSWER_TOKENS = 6, 5, 3


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A run of three stages, and weights that make a difference."""
    config = defaults()
    config.update(workdir=str(tmp_path_factory.mktemp("run")), run="cot,colar,no_cot")
    config.model.preset = "pico"
    config.model.latent_head.intermediate_size = 24
    config.decode.update(max_latents=MAX_LATENTS, max_step_tokens=MAX_STEP_TOKENS, max_answer_tokens=MAX_ANSWER_TOKENS)
    config.decode.greedy_stop = "argmax"  # random weights are never as sure of ### as one half
    for name in ("cot", "colar", "no_cot"):
        config.stages[name] = stage_defaults(method=name, steps=1, rows=1, row_positions=128)
    run = prepare(resolve(config), sets="none")
    return run, larger(jax.device_get(run.initial_parameters()))


@pytest.fixture(scope="module")
def asker_of(asked):
    """One asker for all tests of a stage: its programs are compiled once."""
    return functools.cache(lambda stage, temperature: asked[0].asker(stage, temperature=temperature))


def with_loud(parameters, token, factor):
    """The model, whose language head says this token, or (with the other sign of `factor`) never does."""
    embedding_VD = jnp.asarray(parameters["llama"]["embedding"]) * 1e-3
    embedding_VD = embedding_VD.at[token].multiply(1e3 * factor)
    return parameters | {"llama": parameters["llama"] | {"embedding": embedding_VD}}


@pytest.mark.parametrize(
    ("stage", "speed", "temperature"),
    [
        ("colar", 2.0, 0.0),
        pytest.param("colar", 2.0, 1.0, marks=pytest.mark.slow),
        pytest.param("cot", 1.0, 0.0, marks=pytest.mark.slow),
        pytest.param("no_cot", "auto", 1.0, marks=pytest.mark.slow),
    ],
)
def test_together_as_alone(asked, asker_of, stage, speed, temperature):
    run, parameters = asked
    asker = asker_of(stage, temperature)
    keys_N = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(len(QUESTIONS)))
    together = asker.answer(parameters, QUESTIONS, speed, keys_N)
    assert len(together) == len(QUESTIONS)
    for question, key, reply in zip(QUESTIONS, keys_N, together, strict=True):
        *_, alone = asker.ask(parameters, question, speed, key)
        assert isinstance(alone, Reply)
        assert (reply.reasoning, reply.text, reply.num_thoughts) == (alone.reasoning, alone.text, alone.num_thoughts)
        assert (reply.forced_stop, reply.cut_answer) == (alone.forced_stop, alone.cut_answer)
        assert len(reply.latents) == len(alone.latents) == (reply.num_thoughts if stage == "colar" else 0)
        for latent, other in zip(reply.latents, alone.latents, strict=True):
            assert [word.token_id for word in latent.words] == [word.token_id for word in other.words]
            assert latent.p_stop == pytest.approx(other.p_stop, abs=1e-4)


@pytest.mark.parametrize(
    ("stage", "limit"),
    [
        ("colar", MAX_LATENTS),
        pytest.param("cot", MAX_STEP_TOKENS, marks=pytest.mark.slow),
        pytest.param("no_cot", 0, marks=pytest.mark.slow),
    ],
)
def test_a_reply_says_what_was_cut(asked, asker_of, stage, limit):
    run, parameters = asked
    asker, tokenizer, key = asker_of(stage, 0.0), run.tokenizer, jax.random.key(0)
    replies = []
    for token, sign in itertools.product((tokenizer.separator_id, tokenizer.eos_id), (1, -1)):
        changed = with_loud(parameters, token, sign)
        together = asker.answer(changed, [QUESTIONS[0]] * len(QUESTIONS), 2.0, jax.random.split(key, len(QUESTIONS)))
        *_, alone = asker.ask(changed, QUESTIONS[0], 2.0, key)
        assert (together[0].forced_stop, together[0].cut_answer) == (alone.forced_stop, alone.cut_answer)
        assert alone.forced_stop <= (alone.num_thoughts == limit)
        replies.append(alone)
    assert {reply.cut_answer for reply in replies} == {True, False}
    assert {reply.forced_stop for reply in replies} == ({True, False} if limit else {False})


@pytest.mark.slow
def test_asking_loads_nothing_that_only_training_needs():
    program = (
        "import sys, colar_jax.generate; print([m for m in ('torch', 'tensorboardX', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
