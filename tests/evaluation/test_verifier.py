"""The verifier: log-odds of yes by prefill, the same alone and among others, with what all share read once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import transformers
from flax import nnx
from rl.pico_policy import VOCABULARY, engine_of, policy
from tokenizers import decoders, models, pre_tokenizers, processors

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


def text_tokenizer(folder, *, bos: bool, merges=()):
    """Reads any text, a byte a token but for what is merged; with `bos` it puts one before what it reads."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {sign: number for number, sign in enumerate([*alphabet, *map("".join, merges), "<bos>", "<eos>"])}
    made = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if bos:
        before = [("<bos>", vocabulary["<bos>"])]
        made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=before)
    hf = transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<bos>", eos_token="<eos>")
    hf.save_pretrained(str(folder))
    return load_tokenizer(str(folder), needs_separator=False)


PLAIN = [  # what is asked, the question and what goes before the verdict, and the verdicts of the examples
    (
        Inquiry(Asked.STATES, "How many?", ("So\n 12. ",)),
        "\nPart: So 12.\nFinal answer stated (Yes or No):",
        ["No", "Yes", "No", "Yes"],
    ),
    (
        Inquiry(Asked.AGREES, "How many?", ("So 12.", "So\n14.")),
        "\nProblem: How many?\nPart 1: So 12.\nPart 2: So 14.\nSame final answer (Yes or No):",
        ["Yes", "No", "Yes"],
    ),
]


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize(("inquiry", "text", "verdicts"), PLAIN, ids=["states", "agrees"])
def test_a_language_model_is_asked_in_plain_english(tmp_path, inquiry, text, verdicts, bos):
    tokenizer = text_tokenizer(tmp_path, bos=bos)
    wording = PlainWording(tokenizer)
    # A space is a token of its own, and so a part of the question; what comes next is a letter.
    assert wording.rest(inquiry).tolist() == tokenizer.encode(f"{text} ")
    assert tokenizer.token_text(wording.yes_id) == "Y" and tokenizer.token_text(wording.no_id) == "N"
    shared = wording.shared(inquiry.asked).tolist()
    before = [tokenizer.hf.bos_token_id] if bos else []
    assert shared[: len(before)] == before and shared[len(before) :] == tokenizer.encode(tokenizer.decode(shared))
    # What is asked for is said first; then come examples in the very form of the question.
    instruction, *examples = f"{tokenizer.decode(shared)}{text}".split("\n\n")
    assert instruction.endswith("?") and ("Do both parts" in instruction) == (inquiry.asked is Asked.AGREES)

    def form(example: str) -> list[str]:
        return [line.partition(":")[0] for line in example.strip().split("\n")]

    *answered, question = examples
    assert question == text.strip() and [form(example) for example in answered] == [form(text)] * len(verdicts)
    assert [example.strip().rpartition("(Yes or No): ")[2] for example in answered] == verdicts


def test_where_a_space_belongs_to_its_word_it_is_no_part_of_the_question(tmp_path):
    merges = [("Ġ", "Y"), ("ĠY", "e"), ("ĠYe", "s"), ("Ġ", "N"), ("ĠN", "o")]
    tokenizer = text_tokenizer(tmp_path, bos=False, merges=merges)
    wording, (inquiry, text, _) = PlainWording(tokenizer), PLAIN[0]
    assert wording.rest(inquiry).tolist() == tokenizer.encode(text)
    assert tokenizer.token_text(wording.yes_id) == " Yes" and tokenizer.token_text(wording.no_id) == " No"


def test_a_tokenizer_that_cannot_say_yes_is_refused():
    with pytest.raises(UserError, match="reads Yes and No alike"):
        PlainWording(load_tokenizer("embedded:arithmetic"))
