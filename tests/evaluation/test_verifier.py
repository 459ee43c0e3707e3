"""The verifier: log-odds of yes by prefill, the same alone and among others, with what all share read once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rl.pico_policy import VOCABULARY, engine_of, policy

from colar_jax.data.tokenizers import load_tokenizer
from colar_jax.errors import UserError
from colar_jax.evaluation.trimming.verifier import YesNoModel
from colar_jax.evaluation.trimming.wording import Asked, Inquiry, JudgeWording, PlainWording
from colar_jax.model.visibility import packed

YES, NO = 3, 11


class Words:
    """Any ids; a question's text says which."""

    yes_id, no_id = YES, NO

    def shared(self, asked):
        return np.arange(7 if asked is Asked.STATES else 12, dtype=np.int32)

    def rest(self, inquiry):
        seed, length = map(int, inquiry.endings[0].split())
        return np.random.default_rng(seed).integers(0, VOCABULARY, length).astype(np.int32)


INQUIRIES = [
    Inquiry(asked, "", (f"{seed} {length}",))
    for seed, (asked, length) in enumerate(
        [(Asked.STATES, 5), (Asked.AGREES, 40), (Asked.STATES, 31), (Asked.AGREES, 2)]
    )
]


@functools.cache
def verifier():
    return YesNoModel(engine_of(), policy()[1], Words())


def odds_of(inquiries):
    return verifier().finish(verifier().start(inquiries))


def test_it_is_a_whole_pass_over_the_question():
    """Shared part and rest, as if they had been read together."""

    @jax.jit
    def whole(parameters, ids):
        model, compute = (
            nnx.merge(policy()[0], parameters),
            engine_of().execution(engine_of().parameter_specs(parameters)),
        )
        embeds = model.llama.embed(ids[None], jnp.float32)
        hidden, _ = model.llama.run(
            embeds, jnp.arange(len(ids))[None], packed(jnp.ones_like(ids)[None], compute), compute
        )
        logits = model.llama.logits(hidden[0, -1])
        return logits[YES] - logits[NO]

    for inquiry, odds in zip(INQUIRIES, odds_of(INQUIRIES), strict=True):
        ids = np.concatenate([Words().shared(inquiry.asked), Words().rest(inquiry)])
        np.testing.assert_allclose(odds, whole(policy()[1], ids), rtol=1e-5, atol=1e-5)
    assert np.ptp(odds_of(INQUIRIES)) > 0.1


def test_a_verdict_does_not_depend_on_what_is_asked_besides():
    alone = np.concatenate([odds_of([inquiry]) for inquiry in INQUIRIES])
    many = [Inquiry(Asked.STATES, "", (f"{seed} 9",)) for seed in range(100, 190)]  # more than one pass has room for
    together = odds_of([*many, *INQUIRIES])
    np.testing.assert_allclose(together[len(many) :], alone, rtol=1e-5, atol=1e-5)
    assert verifier().verdicts(INQUIRIES) == [bool(odds > 0) for odds in alone]


def test_each_of_its_programs_is_run_by_who_measures_and_compiled_once():
    of_its_own, compiled_in = YesNoModel(engine_of(), policy()[1], Words()), []

    def run(program, *arguments):
        before = of_its_own.num_compiled
        given = program(*arguments)
        compiled_in.append(of_its_own.num_compiled - before)
        return given

    first = of_its_own.verdicts(INQUIRIES, run)
    # Of each kind what is shared, the rests, and waiting for them.
    assert sorted(compiled_in) == [0, 0, 1, 1, 1, 1]
    assert of_its_own.verdicts(INQUIRIES, run) == first and compiled_in[6:] == [0, 0, 0, 0]


def test_what_it_reads_is_counted():
    assert [verifier().num_tokens(inquiry) for inquiry in INQUIRIES] == [5, 40, 31, 2]


def test_a_trained_judge_is_asked_as_it_was_trained():
    tokenizer = load_tokenizer("embedded:reflections")
    wording = JudgeWording(tokenizer)
    inquiry = Inquiry(Asked.AGREES, "How many?", ("So 12.", "So 14."))
    ids = [*wording.shared(Asked.AGREES), *wording.rest(inquiry)]
    text = "Question: Same answer?\nSo 12.\n\nSo 14. Let's think step by step:(Thinking speed: auto)"
    separator = [tokenizer.separator_id]
    assert ids == tokenizer.encode(text) + 2 * separator + tokenizer.encode("Answer:")
    assert tokenizer.token_text(wording.yes_id) == "Yes" and tokenizer.token_text(wording.no_id) == "No"


def test_a_tokenizer_that_cannot_say_yes_is_refused():
    with pytest.raises(UserError, match="reads Yes and No alike"):
        PlainWording(load_tokenizer("embedded:arithmetic"))
