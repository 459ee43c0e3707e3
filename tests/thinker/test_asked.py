"""What cannot be asked is one line that says what to do; odd things that can be asked are answered."""

import dataclasses
import itertools
import logging
import math

import numpy as np
import pytest
from thinker.test_generate import QUESTIONS

from colar_jax.data.tokenizers import EMBEDDED, load_tokenizer
from colar_jax.errors import UserError
from colar_jax.model.llama_config import FULL, SLIDING
from colar_jax.model.presets import PRESETS
from colar_jax.thinker import asked
from colar_jax.thinker.question_batches import batches_of, power_of_two, prompt_shape, rounding_of

REFUSED = {
    "speed=0 is no thinking speed: a number of at least 1": {"speed": 0},
    "speed=0.5 is no thinking speed": {"speed": 0.5},
    "speed=nan is no": {"speed": math.nan},
    "speed=2.0000001 is no thinking speed: a number of at least 1 (tokens per latent) with": {"speed": 2.0000001},
    "speed=inf is no": {"speed": math.inf},
    "speed=-2 is no": {"speed": -2},
    "speed=True is no": {"speed": True},
    "'fast' is no thinking speed": {"speed": "fast"},
    "'nan' is no thinking speed": {"speed": "nan"},
    "speed=2,5: one speed at a time, such as speed=2": {"speed": "2,5"},
    "speed=[2, 5] is no": {"speed": [2, 5]},
    "temperature=nan is no number of at least 0": {"temperature": math.nan},
    "temperature=-1 is no": {"temperature": -1},
    "temperature=inf is no": {"temperature": math.inf},
    "temperature=1e+39 is no": {"temperature": 1e39},
    "temperature='hot' is no": {"temperature": "hot"},
    "seed=-1 is no whole number from 0": {"seed": -1},
    "seed=1.5 is no": {"seed": 1.5},
    "seed=4294967296 is no": {"seed": 2**32},
    "seed=None is no": {"seed": None},
    "max_latents=0 is no whole number from 1 to 32768": {"max_latents": 0},
    "max_latents=1000000000 is no": {"max_latents": 10**9},
    "max_latents=2.5 is no": {"max_latents": 2.5},
    "max_answer_tokens=0 is no whole number from 1": {"max_answer_tokens": 0},
    "num_words=-1 is no whole number from 0": {"num_words": -1},
}


@pytest.mark.parametrize("said", list(REFUSED))
def test_an_option_that_is_wrong(loaded, said):
    model = loaded("colar")
    for ask in (model.generate, model.stream):
        with pytest.raises(UserError) as raised:
            ask(QUESTIONS[0], **REFUSED[said])
        assert str(raised.value).startswith(said)


@pytest.mark.parametrize("index", [-1, 1.5, 2**32, True, None, "3", math.nan])
def test_an_index_that_is_none(loaded, index):
    model = loaded("colar")
    for name, ask in (("first_index", model.generate), ("index", model.stream)):
        with pytest.raises(UserError, match=f"^{name}=.* is no whole number from 0 to 4294967295"):
            ask(QUESTIONS[0], **{name: index})
    with pytest.raises(UserError, match="first_index=4294967295 is no whole number from 0 to 4294967294"):
        model.generate(QUESTIONS[:2], first_index=2**32 - 1)


@pytest.mark.slow
def test_the_last_index_is_one(loaded):
    model, asked = loaded("colar"), {"temperature": 1.0, "seed": 1}
    *_, done = model.stream(QUESTIONS[0], index=2**32 - 1, **asked)
    answer = model.generate(QUESTIONS[0], first_index=np.int64(2**32 - 1), **asked)
    assert answer.token_ids.tolist() == done.answer.token_ids.tolist()


def test_a_temperature_that_float32_cannot_divide_by_is_greedy(loaded):
    greedy, coldest = (loaded("colar").generate(QUESTIONS[0], temperature=heat) for heat in (0, 1e-50))
    np.testing.assert_array_equal(coldest.latents, greedy.latents)
    assert coldest.token_ids.tolist() == greedy.token_ids.tolist() and np.isfinite(coldest.token_log_probs).all()


def test_an_option_that_does_not_exist_is_pythons_own_error(loaded):
    with pytest.raises(TypeError, match="max_tokens"):
        loaded("colar").generate(QUESTIONS[0], max_tokens=3)


@pytest.mark.parametrize(
    ("stage", "options", "said"),
    [
        ("cot", {"speed": 2}, "speed=2: stage cot has none to choose; leave it out"),
        ("cot", {"max_latents": 2}, "max_latents=2: the stage thinks in no latents"),
        ("codi", {"speed": "auto"}, "speed=auto: stage codi has none"),
        ("codi", {"max_latents": 2}, "max_latents=2: the stage thinks 6 latents, whatever is asked; leave it out"),
        ("no_cot", {"max_latents": 2}, "max_latents=2: the stage thinks in no latents"),
    ],
)
def test_what_a_stage_does_not_read(loaded, stage, options, said):
    with pytest.raises(UserError) as raised:
        loaded(stage).generate(QUESTIONS[0], **options)
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize(
    ("questions", "said"),
    [
        ("", "the question is empty: ask something"),
        (" \n", "the question is empty"),
        ([QUESTIONS[0], ""], "question 1 is empty"),
        ([QUESTIONS[0], 5], "question 1 is 5, of type int: a text is wanted"),
        ([b"Tom"], "the question is b'Tom', of type bytes"),
        (b"Tom", "questions is of type bytes: a text is wanted, or a list of texts"),
        (None, "questions is of type NoneType"),
        (7, "questions is of type int"),
        ("Tom has \ud800 apples.", r"the question has '\ud800', half of a character"),
        ("Tomas has 7 apples.", "the question, 'Tomas has 7 apples.': the tokenizer does not know 'Tomas'. Did you me"),
        (["Tom has 7 apples.", "Tom has 150 apples."], "question 1, 'Tom has 150 apples.': the tokenizer does not kno"),
        (
            "Wie viele Äpfel hat Zoë? 🍎",
            "the question, 'Wie viele Äpfel hat Zoë? 🍎': the tokenizer does not know 'Wie'",
        ),
        ("Tom has 7 ### apples.", "the question has '###' in it, which tells the model that something ends"),
        ("Tom has 7 apples.<eos>", "the question has '<eos>' in it"),
        ("西瓜", "the question, '西瓜': the tokenizer does not know '西瓜'"),
        ("Bob " * 2500, "the question, 'Bob Bob"),
    ],
)
def test_a_question_that_is_none(loaded, questions, said):
    for ask in (loaded("colar").generate, *([loaded("colar").stream] if isinstance(questions, str) else [])):
        with pytest.raises(UserError) as raised:
            ask(questions)
        assert str(raised.value).startswith(said)
        assert len(str(raised.value)) < 1000 and "\n" not in str(raised.value)


def test_the_words_that_are_known_are_said(loaded):
    with pytest.raises(UserError) as raised:
        loaded("colar").generate("Bob has 150 apples.")
    text = str(raised.value)
    assert "does not know 'Bob', '150'." in text and "It knows the whole numbers up to 99 and these words: Ann" in text
    assert {"apples", "How", "shrink", "Zoe"} <= set(text.split())


def test_unknown_words_may_be_allowed(loaded, caplog):
    with caplog.at_level(logging.WARNING):
        answer = loaded("colar").generate("Bob has 150 apples.", allow_unknown_words=True)
    assert answer.num_latents > 0
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("Bob has 150 apples.: the tokenizer has no token for 'Bob', '150'")


@pytest.mark.slow
def test_a_question_of_10_000_characters_is_answered(loaded):
    question = " ".join(["Tom has 7 apples. She buys 9 more."] * 300)[:10_000].rsplit(".", 1)[0] + "."
    answer = loaded("colar").generate(question)
    assert len(question) > 9_900 and answer.num_latents > 0 and np.isfinite(answer.latents).all()


def test_an_untrained_speed_is_said_once(loaded, caplog):
    asked.tell_untrained.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            loaded("colar").generate(QUESTIONS[:2], 3)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == "stage colar was trained at speed 2, not at 3: its answers will be poor"


def test_a_speed_may_be_a_text(loaded):
    as_text, as_number = (loaded("colar").generate(QUESTIONS[0], speed) for speed in ("2", np.float32(2)))
    assert as_text.speed == as_number.speed == 2.0
    np.testing.assert_array_equal(as_text.latents, as_number.latents)


def test_all_embedded_words_are_known():
    known = asked.known_words(load_tokenizer(EMBEDDED))
    assert known == sorted(known, key=str.lower) and {"Eva", "apples", "How"} <= set(known)
    assert not {"PAD", "eos", "[UNK]"} & set(known)


@pytest.mark.parametrize(("count", "most_rows", "num_shards"), [*itertools.product((1, 3, 8, 21), (1, 5, 8), (1, 4))])
def test_every_question_is_in_one_batch_of_a_shape_of_powers_of_two(count, most_rows, num_shards):
    rng = np.random.default_rng(count)
    prompts = [rng.integers(1, 99, rng.integers(5, 200)).astype(np.int32) for _ in range(count)]
    batches = list(batches_of(prompts, most_rows, num_shards, power_of_two))
    assert sorted(number for batch in batches for number in batch.numbers) == list(range(count))
    for batch in batches:
        rows = len(batch.row_numbers_B)
        shard, width = rows // num_shards, batch.prompts.slots_CP.shape[1]
        assert rows <= max(most_rows, num_shards) and shard & (shard - 1) == 0 and width & (width - 1) == 0
        assert batch.row_numbers_B[: len(batch.numbers)].tolist() == batch.numbers.tolist()
        for row, number in enumerate(batch.row_numbers_B):
            assert batch.prompts.lengths_C[row] == len(prompts[number])
    longest = [max(len(prompts[number]) for number in batch.numbers) for batch in batches]
    assert longest == sorted(longest)


def test_a_shape_has_room_for_any_questions_of_its_width():
    """The longest of them, and the worst lengths for packing: each a little more than a whole part of a row."""
    from colar_jax.decoding.prompt_rows import pack_prompts

    for width, count in itertools.product((32, 64, 128), (1, 2, 16, 64)):
        for length in range(1, width + 1, 3):
            shape = prompt_shape(count, width, power_of_two)
            pack_prompts([np.ones(length, np.int32)] * (count - 1) + [np.ones(width, np.int32)], shape)


def test_padding_does_not_take_a_question_beyond_a_window():
    """300 tokens and 64 latents and 16 tokens of an answer are within 512, and a width of 512 with them is not."""
    windowed = dataclasses.replace(PRESETS["pico"], layers=(SLIDING, FULL), window=512)
    assert prompt_shape(1, 300, rounding_of(windowed)).width == 304
    assert prompt_shape(1, 300, rounding_of(PRESETS["pico"])).width == 512
