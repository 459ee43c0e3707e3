import dataclasses
import functools
import json
import time
from pathlib import Path

import pytest
import tokenizers
import transformers
from cases import fast
from tokenizers import models, normalizers, pre_tokenizers

from colar_jax.data import math_equivalence
from colar_jax.data.arithmetic import generate_problems
from colar_jax.data.encoding import encode
from colar_jax.data.json_lines import read_problems
from colar_jax.data.problems import Problem
from colar_jax.data.readable import DecodeRoom, encode_readable, refuse_unreadable, warn_of_lengths
from colar_jax.data.sources import load_problems
from colar_jax.data.tokenizers import EMBEDDED, Tokenizer, load_tokenizer
from colar_jax.errors import UserError
from colar_jax.settings import DataConfig

SHARED = Path(__file__).parents[3] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real tokenizers lie in ../shared/tokenizers")
ROOM = DecodeRoom(answer_tokens=8, words=64)


@functools.cache
def real(name) -> Tokenizer:
    if not SHARED.is_dir():
        pytest.skip("the real tokenizers lie in ../shared/tokenizers")
    return load_tokenizer(str(SHARED / "tokenizers" / name))


def of(steps=("1",), answer="1", question="How many?"):
    return Problem(question, tuple(steps), answer)


def refusal(problems, tokenizer, **settings) -> str:
    """What is said of a set; "" where it is taken."""
    encoded = encode(problems, tokenizer, (1.0,))
    try:
        refuse_unreadable("train", encoded, tokenizer, DataConfig(**settings))
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["llama3", "qwen2", "gpt2"])
@pytest.mark.parametrize(
    ("problem", "fault"),
    [
        (of(["### Step 1: 3 + 4 = 7"]), "'###' in its steps ends the reasoning there"),
        (of(["first", "then", "###"]), "'###' in its steps ends the reasoning there"),
        (of(["a ###\nb"]), None),
        (of(answer="Answer: 5"), "its answer 'Answer: 5' is read back as ''"),
        (of(answer="The Answer: 5"), "its answer 'The Answer: 5' is read back as 'The '"),
        (of(answer="Answer:"), "its answer 'Answer:' is read back as ''"),
        (of(answer="nan"), "data.verifier=numeric never takes the answer 'nan' for right"),
        (of(["#### Step"], "5"), ""),
        (of(["# Step", "## 3"], "-3.5"), ""),
        (of(["Answer: 5"], "the answer: 5"), ""),
        (of(answer="½ of 数学 🍎"), ""),
        (of(answer=" 5\n"), ""),
        (of(answer="### 5"), ""),
    ],
)
def test_what_collides_with_the_control_text(name, problem, fault):
    tokenizer = real(name)
    if fault is None:  # read as one token by some, as others by others
        fault = "'###' in its steps" if tokenizer.separator_id in tokenizer.encode(problem.steps[0]) else ""
    said = refusal([of(), problem], tokenizer)
    assert fault in said
    assert bool(said) is bool(fault)


@pytest.mark.parametrize("name", ["llama3", "qwen2", "gpt2"])
def test_the_text_of_eos_in_an_answer_ends_it(name):
    tokenizer = real(name)
    assert f"'5{tokenizer.hf.eos_token}7' is read back as '5'" in refusal(
        [of(answer=f"5{tokenizer.hf.eos_token}7")], tokenizer
    )


def lowercasing() -> Tokenizer:
    """One that reads every text in lower case, as the uncased ones do."""
    words = ["[UNK]", "</s>", "[PAD]", "###", *"abcdefghijklmnopqrstuvwxyz0123456789:.?'() "]
    tokenizer = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex("###|."), behavior="removed", invert=True)
    tokenizer.decoder = tokenizers.decoders.Fuse()
    hf = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="[PAD]")
    return Tokenizer(hf, separator_id=3, eos_id=1, pad_id=2, num_tokens=len(words))


def test_a_tokenizer_that_changes_every_text():
    said = refusal([of(answer=str(n)) for n in range(20)], lowercasing())
    assert said.startswith("train: 20 of 20 problems would be judged wrong")
    assert (
        "problem 1: its answer '0' is read back as 'answer:0'; problem 2: its" in said and said.count("read back") == 3
    )
    assert said.endswith("or set data.max_unreadable=20 to go on with them")


def test_words_that_the_embedded_tokenizer_does_not_know():
    said = refusal([of(answer="12"), of(answer="12 euros"), of(answer="1234")], load_tokenizer(EMBEDDED))
    assert said.startswith("train: 1 of 3 problems") and "problem 2: its answer '12 euros' is read back as '12'" in said


def test_problems_are_named_by_their_lines(tmp_path):
    path = tmp_path / "own.jsonl"
    rows = [{"question": "How many?", "steps": ["1"], "answer": answer} for answer in ("1", "2", "Answer: 5", "nan")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = refusal(read_problems(path)[1:], load_tokenizer(EMBEDDED))
    assert f"2 of 3 problems would be judged wrong if a model said them perfectly: {path}:3: its answer" in said
    assert f"; {path}:4: " in said


@pytest.mark.parametrize(
    ("most", "is_refused"), [(0, True), (1, True), (2, False), (3, False), (0.1, True), (0.2, False), (0.5, False)]
)
def test_so_many_may_be_unreadable(most, is_refused, caplog):
    problems = [of(), *[of(answer="Answer: 5")] * 2, *[of()] * 7]
    assert bool(refusal(problems, load_tokenizer(EMBEDDED), max_unreadable=most)) is is_refused
    assert ("(allowed by data.max_unreadable)" in caplog.text) is not is_refused


def test_embedded_problems_and_an_empty_set_are_readable(caplog):
    tokenizer = load_tokenizer(EMBEDDED)
    assert not refusal(generate_problems("train", 500), tokenizer)
    assert not refusal([], tokenizer)
    assert len(encode_readable("train", generate_problems("val", 50), tokenizer, (1.0,), DataConfig(), ROOM)) == 50
    assert not [record for record in caplog.records if record.name.endswith("readable")]


def test_lengths_are_warned_of_with_their_counts(caplog):
    encoded = encode(
        [of(["1 2 3 4 5"] * 20, "123456"), of(["1 2 3"]), of(["1"] * 20)], load_tokenizer(EMBEDDED), (1.0,)
    )
    warn_of_lengths("val", encoded, DecodeRoom(answer_tokens=4, words=64, latents=30, slowest=2.0))
    assert [record.getMessage() for record in caplog.records if record.name.endswith("readable")] == [
        f"val: 1 of 3 {what}, which cuts them"
        for what in (
            "answers are longer than decode.max_answer_tokens=4 (the longest: 5)",
            "chains of thought are longer than decode.max_step_tokens=64 (the longest: 119)",
            "chains at speed 2 are longer than decode.max_latents=30 (the longest: 60)",
        )
    ]
    caplog.clear()
    warn_of_lengths("val", encoded, DecodeRoom(answer_tokens=5))
    assert not caplog.records


def test_the_library_for_mathematics_is_asked_seldom(monkeypatch):
    """Where a tokenizer changes every answer, a thousand would take minutes: the others are taken to be as those."""
    asked, is_right = [], [True] * 50 + [True] * 49 + [False]
    monkeypatch.setattr(math_equivalence, "is_equivalent", lambda *pair: asked.append(pair) or is_right[len(asked) - 1])
    problems = [of(answer=f"\\frac{{{n}}}{{7}}") for n in range(1000)]
    tokenizer = real("llama3")
    assert not refusal(problems, tokenizer, verifier="math") and not asked
    hf = lowercasing()
    assert not refusal(problems, hf, verifier="math") and len(asked) == 50
    assert "951 of 1000 problems" in refusal(problems, hf, verifier="math") and len(asked) == 100


@needs_shared
@pytest.mark.parametrize("name", fast(["llama3", "qwen2", "gpt2"], "llama3"))
@pytest.mark.parametrize(
    ("source", "split", "verifier"),
    [
        ("gsm8k_aug", "train", "numeric"),
        ("gsmhard", "test", "numeric"),
        ("prosqa", "val", "exact"),
        ("math", "val", "math"),
    ],
)
def test_real_sets_are_readable(name, source, split, verifier):
    assert not refusal(load_problems(str(SHARED / "data" / source), split), real(name), verifier=verifier)


def test_it_is_quick():
    """60,000 problems in less than a few seconds, beside what encoding them takes."""
    tokenizer, problems = load_tokenizer(EMBEDDED), generate_problems("train", 2000)
    encoded = encode(problems, tokenizer, (1.0,))
    many = dataclasses.replace(
        encoded, **{name: getattr(encoded, name) * 30 for name in ("problems", "steps", "answers")}
    )
    start = time.process_time()
    refuse_unreadable("train", many, tokenizer, DataConfig())
    assert time.process_time() - start < 3
