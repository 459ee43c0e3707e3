import dataclasses
import functools
import logging
import re
import time
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers import models, pre_tokenizers

from colar_jax.data.arithmetic import generate_problems
from colar_jax.data.encoding import encode, unreadable_words
from colar_jax.data.problems import Problem
from colar_jax.data.prompts import answer_text, question_prompt, steps_text
from colar_jax.data.tokenizers import EMBEDDED, load_tokenizer
from colar_jax.settings.speeds import ASKED_PHASE

SHARED = Path(__file__).parents[3] / "shared" / "tokenizers"
SPEEDS = (1.0, 1.5, 2.0, 3.5, 5.0, 12.0, "auto")

# Ends of questions that a tokenizer could join with what follows.
WORDS = [
    Problem(question, steps, answer)
    for question, steps, answer in [
        ("How many eggs?", ("<<16-3-4=9>>", "<<9*2=18>>"), "18"),
        ("What is 1 + 1", (), "2"),
        ("She pays $5.", ("\n<<5=5>>",), "5"),
        ("Wie viele Äpfel 🍎", ("a", "b", "c"), "-3.5"),
        ("Let's think step by step:", ("#",), "1/2"),
        ("Two lines\n", ("x",), "0"),
        ("(Thinking speed: 3)", ("x",), "7"),
        (" ", ("x",), "1"),
    ]
]


@functools.cache
def tokenizer_and_problems(name):
    if name == EMBEDDED:
        return load_tokenizer(EMBEDDED), generate_problems("train", 20)
    if not (SHARED / name).is_dir():
        pytest.skip("the real tokenizers lie in ../shared/tokenizers")
    return load_tokenizer(str(SHARED / name)), WORDS


@pytest.mark.parametrize("name", [EMBEDDED, "llama3", "qwen2", "gpt2"])
def test_a_prompt_is_the_whole_prompt_tokenized(name):
    tokenizer, problems = tokenizer_and_problems(name)
    encoded = encode(problems, tokenizer, SPEEDS)
    for speed in SPEEDS:
        whole = [tokenizer.encode(question_prompt(problem.question, speed)) for problem in problems]
        assert [encoded.prompt(i, speed).tolist() for i in range(len(problems))] == whole
        assert encoded.prompt_lengths(speed).tolist() == [len(ids) for ids in whole]
        assert all(encoded.prompt(i, speed).dtype == np.int32 for i in range(len(problems)))


@pytest.mark.parametrize("name", [EMBEDDED, "llama3", "qwen2", "gpt2"])
def test_steps_and_answers(name):
    tokenizer, problems = tokenizer_and_problems(name)
    encoded = encode(problems, tokenizer, SPEEDS)
    assert [ids.tolist() for ids in encoded.steps] == [tokenizer.encode(steps_text(p.steps)) for p in problems]
    assert [ids.tolist() for ids in encoded.answers] == [
        [*tokenizer.encode(answer_text(p.answer)), tokenizer.eos_id] for p in problems
    ]
    assert encoded.step_lengths.tolist() == [len(ids) for ids in encoded.steps]
    assert encoded.answer_lengths.tolist() == [len(ids) for ids in encoded.answers]
    assert {ids.dtype for ids in (*encoded.steps, *encoded.answers)} == {np.dtype(np.int32)}
    assert (encoded.separator_id, encoded.eos_id) == (tokenizer.separator_id, tokenizer.eos_id)


@pytest.mark.parametrize("name", [EMBEDDED, "llama3", "qwen2"])
def test_where_steps_end_and_answers_have_their_first_digit(name):
    tokenizer, problems = tokenizer_and_problems(name)
    answers = ["7", "-15", "$29.00", "none", "(3, 4)"] if name != EMBEDDED else ["7", "15"]
    problems = [*problems, *(Problem("a?", ("1+6=7", "7+8=15"), answer) for answer in answers)]
    encoded = encode(problems, tokenizer, SPEEDS)
    for problem, ids, starts, ends, length in zip(
        problems,
        encoded.steps,
        encoded.step_starts,
        encoded.step_ends,
        encoded.lengths_without_last_step,
        strict=True,
    ):
        assert [tokenizer.decode(ids[a:b]).strip() for a, b in zip(starts, ends, strict=True)] == [
            step.strip() for step in problem.steps
        ]
        assert tokenizer.decode(ids[:length]).strip() == steps_text(problem.steps[:-1]).strip()
    for index, problem in enumerate(problems):
        before = tokenizer.decode(encoded.answers[index][: encoded.tokens_before_digit(index)])
        following = tokenizer.decode(encoded.answers[index][encoded.tokens_before_digit(index) :][:1])
        if any(letter.isdigit() for letter in problem.answer):
            assert any(letter.isdigit() for letter in following) and not any(letter.isdigit() for letter in before)
        else:
            assert "Answer:".startswith(before)  # some read ":none" as one token


def test_integers_and_whole_floats_are_one_speed():
    tokenizer, problems = tokenizer_and_problems(EMBEDDED)
    encoded = encode(problems, tokenizer, (2.0, "auto"))
    np.testing.assert_array_equal(encoded.prompt(3, 2), encoded.prompt(3, 2.0))
    assert sorted(encoded.tails) == ["2", "auto"]
    with pytest.raises(KeyError):
        encoded.prompt(3, 5)


@pytest.mark.parametrize("speed", [1.0, 1.5, "auto"])
def test_one_speed_alone(speed):
    tokenizer, problems = tokenizer_and_problems(EMBEDDED)
    encoded = encode(problems, tokenizer, (speed,))
    assert encoded.prompt(0, speed).tolist() == tokenizer.encode(question_prompt(problems[0].question, speed))


def test_a_tokenizer_whose_tail_depends_on_the_question():
    """One that joins the speed to the word `dogs` far before it, as no real one does."""
    words = ["[UNK]", "</s>", "###", "Answer:1", "How many", "cats", "dogs", *"0123456789:()."]
    words += ["dogs? Let's think step by step:(Thinking speed: 2)"]
    found = tokenizers.Regex("|".join((r"dogs\? Let's think step by step:\(Thinking speed: 2\)", "###", r"\w+", ".")))
    tokenizer = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(found, behavior="removed", invert=True)
    hf = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    embedded = load_tokenizer(EMBEDDED)
    joining = dataclasses.replace(embedded, hf=hf, separator_id=2, eos_id=1)

    cats, dogs = Problem("How many cats?", (), "1"), Problem("How many dogs?", (), "1")
    encode([cats, dogs], joining, (1.0, 5.0))  # its other speeds are like anybody's
    with pytest.raises(ValueError, match=r"^the tokenizer splits the end of the prompt of problem 1 \(speed 2\.0\)"):
        encode([cats, dogs], joining, (1.0, 2.0))


def test_words_that_the_tokenizer_does_not_know(caplog):
    known, unknown = generate_problems("train", 2), Problem("Quantum flux?", (), "1")
    tokenizer = load_tokenizer(EMBEDDED)
    with caplog.at_level(logging.WARNING):
        encode([*known, unknown], tokenizer, (1.0,))
    assert "1 of 3 texts have words that the tokenizer does not know" in caplog.text
    with pytest.raises(ValueError, match=r"^2 of 3 questions have words .* --config\.data\.tokenizer="):
        encode([known[0], unknown, unknown], tokenizer, (1.0,))


@pytest.mark.parametrize(
    ("question", "unreadable"),
    [
        ("Tom has 24 apples. He buys 7 more. How many apples now?", ()),
        ("Tom has 150 apples.", ("150",)),
        ("Tom walks 3 miles and 1205 miles and 3 miles.", ("walks", "miles", "and", "1205")),
        ("Tom has 1,200 apples.", ("200",)),
        ("tom has 3 apples!", ("tom", "!")),
        ("Tom's apples cost $5.", ("'", "s", "cost", "$")),
        ("He buys 007 more, ٣ more, 数 more.", ("007", "٣", "数")),
        ("3x apples_now", ("x", "_")),
        ("Tom has 1.5 apples: 99", ()),
        ("", ()),
    ],
)
def test_words_and_numbers_that_the_embedded_tokenizer_cannot_read(question, unreadable):
    assert unreadable_words(question, load_tokenizer(EMBEDDED)) == unreadable


@pytest.mark.parametrize("name", ["llama3", "qwen2", "gpt2"])
def test_pieces_of_words_read_everything(name):
    tokenizer, _ = tokenizer_and_problems(name)
    assert unreadable_words("Tom's 150 apples, $1,234.50 and 数学 🍎!", tokenizer) == ()


@pytest.mark.parametrize("name", [EMBEDDED, "llama3", "qwen2", "gpt2"])
def test_words_are_read_by_the_tokens_that_they_overlap(name):
    tokenizer, _ = tokenizer_and_problems(name)
    rng, signs = np.random.default_rng(0), [*"ab3 10'$,.?_\n#数🍎é٣", " apples", "Eva", "\u0301", "\x00", " 15"]
    for _ in range(200):
        question = "".join(rng.choice(signs, 12))
        pieces = tokenizer.hf(question, add_special_tokens=False, return_offsets_mapping=True)
        pieces = list(zip(pieces["input_ids"], pieces["offset_mapping"], strict=True))
        expected = {}
        for word in re.finditer(r"\d+|[^\W\d_]+|[^\w\s]|_", question):
            ids = [token_id for token_id, (start, end) in pieces if start < word.end() and end > word.start()]
            is_cut = name == EMBEDDED and word[0].isdigit() and len(ids) > 1
            if is_cut or not ids or tokenizer.hf.unk_token_id in ids:
                expected[word[0]] = None
        assert unreadable_words(question, tokenizer) == tuple(expected)


def test_reading_a_long_question_takes_time_with_its_length_alone():
    """A server reads what a client sends: 8,000 tokens in 0.2 s, and where each word goes through all of them in 17."""
    start = time.process_time()
    assert unreadable_words("Eva has 10 apples. " * 1600, load_tokenizer(EMBEDDED)) == ()
    assert time.process_time() - start < 4


def test_the_first_problems_alone_are_those_problems_encoded():
    tokenizer = load_tokenizer(EMBEDDED)
    problems = generate_problems("train", 8, max_repeats=2)
    few, alone = encode(problems, tokenizer, SPEEDS).head(3), encode(problems[:3], tokenizer, SPEEDS)
    for field in dataclasses.fields(few):
        if isinstance(getattr(few, field.name), tuple):
            assert len(getattr(few, field.name)) == 3, field.name
    assert few.needed_latents(2.0) == alone.needed_latents(2.0) is not None


def test_latents_that_are_needed_are_those_of_the_groups_that_are_made():
    """A model that is told numbers groups a fraction from another phase on: chains of 7 tokens at 2.3 are 3, not 4."""
    problems = generate_problems("train", 8, max_repeats=2)
    encoded = encode(problems, load_tokenizer(EMBEDDED), (1.0,))
    of_7 = dataclasses.replace(encoded, needed_lengths=np.full(8, 7))
    assert of_7.needed_latents(2.3) == 4 and of_7.needed_latents(2.3, ASKED_PHASE) == 3
