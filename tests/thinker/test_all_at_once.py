"""A stage that makes all its latents at once, asked: its answers, its stream, its exported folder."""

import jax
import numpy as np
import pytest
from exchange.tiny_run import given_run

import colar_jax
from colar_jax.data.example_questions import EXAMPLES
from colar_jax.exchange.folder import export_stage

QUESTIONS = [example.question for example in EXAMPLES][:3]


@pytest.fixture(scope="module")
def thinkers(tmp_path_factory):
    """Of the run, and of its exported folder."""
    workdir = tmp_path_factory.mktemp("at_once") / "run"
    with jax.numpy_rank_promotion("raise"):
        run, _ = given_run(workdir, stages=("kava",), projection=20)
        folder = export_stage(run, "kava", workdir.parent / "exported")
    return colar_jax.load(workdir), colar_jax.load(folder)


@pytest.mark.slow
def test_a_run_and_its_exported_folder_say_the_same(thinkers):
    of_run, of_folder = (thinker.generate(QUESTIONS) for thinker in thinkers)
    assert len({answer.text for answer in of_run}) > 1
    for ours, theirs in zip(of_run, of_folder, strict=True):
        assert (ours.num_thoughts, ours.forced_stop, ours.text) == (24, False, theirs.text)
        np.testing.assert_allclose(ours.latents, theirs.latents, atol=1e-4)


@pytest.mark.slow
def test_a_stream_ends_in_the_answer_of_generate(thinkers):
    thinker = thinkers[0]
    (expected,) = thinker.generate(QUESTIONS[:1])
    *events, last = thinker.stream(QUESTIONS[0])
    assert (last.answer.text, last.answer.num_thoughts) == (expected.text, 24)
    np.testing.assert_allclose(last.answer.latents, expected.latents, atol=1e-4)
    assert sum(type(event).__name__ == "Latent" for event in events) == 24


@pytest.mark.slow
def test_sampled_answers_have_the_same_latents(thinkers):
    greedy = thinkers[0].generate(QUESTIONS[:1])[0]
    sampled = thinkers[0].generate(QUESTIONS[:1], temperature=1.0, seed=3)[0]
    np.testing.assert_allclose(sampled.latents, greedy.latents, atol=1e-4)
