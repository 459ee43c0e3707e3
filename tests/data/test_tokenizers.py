import dataclasses
import importlib.util
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import transformers
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tokenizers import models, pre_tokenizers

from colar_jax.data import arithmetic
from colar_jax.data.arithmetic import generate_problems
from colar_jax.data.embedded_tokenizers import EMBEDDED_TOKENIZERS
from colar_jax.data.prompts import SEPARATOR, answer_text, question_prompt, steps_text
from colar_jax.data.tokenizers import EMBEDDED, load_tokenizer
from colar_jax.errors import UserError
from colar_jax.weights.base_model import open_base

SHARED = Path(__file__).parents[3] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real tokenizers are not part of the project")

EMBEDDED_TOKENIZER = load_tokenizer(EMBEDDED)
EMBEDDED_NAMES = ", ".join(map(repr, EMBEDDED_TOKENIZERS))
SPEEDS = (1, 1.5, 2, 5, 12, "auto")


def pieces(text):
    """The text of each token of an embedded tokenization."""
    return EMBEDDED_TOKENIZER.hf.convert_ids_to_tokens(EMBEDDED_TOKENIZER.encode(text))


def made_up(folder, *, words, merged=(), eos="</s>", unknown=None, pad=None):
    """The name of a small tokenizer on disk: `words` are tokens, and each of `merged` is never taken apart."""
    found = tokenizers.Regex("|".join((*merged, r"\w+", r".")))
    ids = {word: token_id for token_id, word in enumerate(dict.fromkeys([*words, *filter(None, (eos, unknown, pad))]))}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(ids, unk_token=unknown or words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(found, behavior="removed", invert=True)
    hf = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=eos, unk_token=unknown, pad_token=pad
    )
    hf.save_pretrained(str(folder))
    return str(folder)


# The embedded tokenizer


def test_a_whole_example_is_pinned():
    prompt = question_prompt("Tom has 24 apples. He buys 7 more. How many apples now?", 1.5)
    assert pieces(prompt) == [
        *("Question:", "Tom", "has", "24", "apples", ".", "He", "buys", "7", "more", "."),
        *("How", "many", "apples", "now", "?"),
        *("Let's think step by step:", "(Thinking speed:", "1", ".", "5", ")"),
    ]
    steps = steps_text(("<<24+7=31>>", "<<31*3=93>>"))
    assert pieces(steps) == ["<<", "24", "+", "7", "=", "31", ">>", "\n", "<<", "31", "*", "3", "=", "93", ">>"]
    assert pieces(SEPARATOR) == ["###"]
    assert pieces(answer_text("93")) == ["Answer:", "93"]


def test_its_ids_are_pinned():
    """The rows of a checkpoint's embedding mean what these ids mean."""
    tokenizer = EMBEDDED_TOKENIZER
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.separator_id, tokenizer.num_tokens) == (1, 2, 9, 179)
    assert tokenizer.encode("<<24+7=31>>\n###Answer:99") == [7, 46, 11, 29, 15, 53, 8, 10, 9, 6, 121]
    assert tokenizer.encode("Tom has 24 apples.") == [145, 159, 46, 147, 18]


@pytest.mark.parametrize("number", [*range(100)])
def test_a_number_below_100_is_one_token_and_the_same_everywhere(number):
    [alone] = EMBEDDED_TOKENIZER.encode(str(number))
    for text, length in ((f"has {number} apples", 3), (f"<<{number}+7=31>>", 7), (f"<<1+{number}=31>>", 7)):
        ids = EMBEDDED_TOKENIZER.encode(text)
        assert len(ids) == length
        assert alone in ids
    assert EMBEDDED_TOKENIZER.encode(answer_text(str(number)))[1:] == [alone]


def test_larger_numbers_are_pairs_of_digits_from_the_left():
    assert pieces("100 1205 12345") == ["10", "0", "12", "05", "12", "34", "5"]


def test_every_word_of_the_problems_is_one_known_token():
    for word in (*arithmetic.vocabulary(), "auto"):
        assert pieces(word) == [word]
    assert pieces("Total") == ["[UNK]"]
    assert pieces("automatic") == ["[UNK]"]


def test_words_that_it_does_not_know_are_logged_and_become_unknown(caplog):
    with caplog.at_level(logging.WARNING):
        ids = EMBEDDED_TOKENIZER.encode_batch(["Tom has 3 eggs.", "Tom walks 3 miles.", "Ünï §"])
    assert [tokens.count(EMBEDDED_TOKENIZER.hf.unk_token_id) for tokens in ids] == [0, 2, 2]
    assert "2 of 3 texts have words that the tokenizer does not know" in caplog.text
    assert "'Tom walks 3 miles.'" in caplog.text


def test_known_words_log_nothing(caplog):
    with caplog.at_level(logging.WARNING):
        EMBEDDED_TOKENIZER.encode_batch([question_prompt(p.question, "auto") for p in generate_problems("val", 50)])
    assert caplog.text == ""


NUMBERS = st.one_of(st.integers(0, 99), st.integers(0, 10**7))
EQUATIONS = st.tuples(NUMBERS, st.sampled_from("+-*/"), NUMBERS, NUMBERS).map(lambda t: "<<{}{}{}={}>>".format(*t))


@given(st.lists(EQUATIONS, max_size=6).map("\n".join))
@example("<<24*2=48>>\n<<48-3=45>>")
def test_steps_come_back_exactly(steps):
    assert EMBEDDED_TOKENIZER.decode(EMBEDDED_TOKENIZER.encode(steps)) == steps


@given(st.one_of(NUMBERS.map(str), st.decimals(-1000, 1000, places=2).map(str)))
@example("48")
def test_answers_come_back_exactly(answer):
    assert EMBEDDED_TOKENIZER.decode(EMBEDDED_TOKENIZER.encode(answer_text(answer))) == answer_text(answer)


def test_whole_examples_come_back_exactly():
    texts = [
        question_prompt(problem.question, speed) + SEPARATOR + steps_text(problem.steps) + SEPARATOR + answer
        for speed in SPEEDS
        for problem in generate_problems("train", 300)
        for answer in [answer_text(problem.answer)]
    ]
    for text, ids in zip(texts, EMBEDDED_TOKENIZER.encode_batch(texts), strict=True):
        assert EMBEDDED_TOKENIZER.decode(ids) == text


def test_special_tokens_are_not_decoded():
    tokenizer = EMBEDDED_TOKENIZER
    ids = [tokenizer.pad_id, *tokenizer.encode("Answer:48"), tokenizer.eos_id, tokenizer.pad_id]
    assert tokenizer.decode(ids) == "Answer:48"


def test_every_id_has_one_piece():
    vocabulary = EMBEDDED_TOKENIZER.hf.get_vocab()
    assert sorted(vocabulary.values()) == list(range(EMBEDDED_TOKENIZER.num_tokens))


# Any tokenizer


def test_a_batch_is_its_texts_one_by_one():
    texts = [steps_text(problem.steps) for problem in generate_problems("test", 20)] + ["", "Tom"]
    assert EMBEDDED_TOKENIZER.encode_batch(texts) == [EMBEDDED_TOKENIZER.encode(text) for text in texts]
    assert EMBEDDED_TOKENIZER.encode_batch([]) == []


def test_saved_and_loaded_it_is_the_same(tmp_path):
    EMBEDDED_TOKENIZER.save(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    numbers = [dataclasses.replace(tokenizer, hf=None) for tokenizer in (loaded, EMBEDDED_TOKENIZER)]
    assert numbers[0] == numbers[1]
    problems = generate_problems("test", 50)
    texts = [question_prompt(p.question, 1.5) + steps_text(p.steps) + answer_text(p.answer) for p in problems]
    ids = EMBEDDED_TOKENIZER.encode_batch(texts)
    assert loaded.encode_batch(texts) == ids
    assert [loaded.decode(tokens) for tokens in ids] == texts


def test_a_folder_may_be_below_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    made_up(tmp_path / "mine", words=["?", "###"], merged=["###"])
    assert load_tokenizer("~/mine").encode("###") == [1]


def test_pad_is_added_where_there_is_none(tmp_path):
    loaded = load_tokenizer(made_up(tmp_path / "none", words=["?", "###"], merged=["###"]))
    assert (loaded.separator_id, loaded.eos_id, loaded.pad_id, loaded.num_tokens) == (1, 2, 3, 4)
    loaded.save(tmp_path / "saved")
    assert load_tokenizer(str(tmp_path / "saved")).num_tokens == 4  # not added a second time


def test_a_pad_that_is_eos_is_no_pad(tmp_path):
    """Were it one, a model would not be told where an answer ends."""
    loaded = load_tokenizer(made_up(tmp_path, words=["?", "###"], merged=["###"], pad="</s>"))
    assert (loaded.eos_id, loaded.pad_id, loaded.num_tokens) == (2, 3, 4)


def test_a_pad_of_its_own_is_kept(tmp_path):
    loaded = load_tokenizer(made_up(tmp_path, words=["?", "###"], merged=["###"], pad="<pad>"))
    assert (loaded.eos_id, loaded.pad_id, loaded.num_tokens) == (2, 3, 4)
    assert loaded.hf.pad_token == "<pad>"


def test_ids_with_gaps_need_rows_for_the_gaps(tmp_path):
    name = made_up(tmp_path, words=["?", "###"], merged=["###"], pad="<pad>")
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["far"] = 9
    path.write_text(json.dumps(content))
    loaded = load_tokenizer(name)
    assert (len(loaded.hf), loaded.num_tokens) == (5, 10)


@pytest.mark.parametrize(
    "settings",
    [
        {"words": ["?", "#"]},  # three tokens
        {"words": ["?", "##", "#"], "merged": ["##"]},  # two tokens
        {"words": ["?"], "unknown": "[UNK]", "merged": ["###"]},  # one, but that of every unknown word
        {"words": ["?", "###", "###Answer"], "merged": ["###Answer", "###"]},  # joined with what follows
        {"words": ["?", "###", ")###"], "merged": [r"\)###", "###"]},  # joined with what stands before
    ],
)
def test_a_separator_that_is_not_one_token_is_an_error(tmp_path, settings):
    name = made_up(tmp_path, **settings)
    with pytest.raises(
        UserError, match=r"'###' as .* must be one token\. .*add it with tokenizer.add_tokens\(\['###'\]\)"
    ):
        load_tokenizer(name)


def test_the_error_says_how_to_repair_the_tokenizer(tmp_path):
    name = made_up(tmp_path, words=["?", "#"])
    hf = transformers.AutoTokenizer.from_pretrained(name)
    hf.add_tokens([SEPARATOR])
    hf.save_pretrained(name)
    assert load_tokenizer(name).encode("?###?") == [0, 3, 0]


def test_that_repair_gives_a_base_model_a_row(tmp_path):
    """Without it the model is refused, with the same advice; with it the model is taken."""
    name = made_up(tmp_path, words=["?", "#"])
    hf = transformers.AutoTokenizer.from_pretrained(name)
    rows = len(hf)
    hf.add_tokens([SEPARATOR])
    hf.save_pretrained(name)
    tokenizer = load_tokenizer(name)
    llama = transformers.LlamaConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8)
    save_file({"lm_head.weight": np.zeros((1, 8), np.float32)}, tmp_path / "model.safetensors")  # its size is not asked
    for vocab_size in (rows, len(hf)):
        llama.vocab_size = vocab_size
        llama.save_pretrained(name)
        if vocab_size == rows:
            with pytest.raises(
                UserError, match=r"vocabulary mismatch.*model\.resize_token_embeddings\(len\(tokenizer\)\)"
            ):
                open_base(tmp_path, num_tokens=tokenizer.num_tokens, spare_ids=tokenizer.spare_ids)
        else:
            base = open_base(tmp_path, num_tokens=tokenizer.num_tokens, spare_ids=tokenizer.spare_ids)
            assert base.config.vocab_size == tokenizer.num_tokens


def test_no_end_of_sequence_token_is_an_error(tmp_path):
    name = made_up(tmp_path, words=["?", "###"], merged=["###"], eos=None)
    with pytest.raises(ValueError, match=r"has no end-of-sequence token: set eos_token in its config"):
        load_tokenizer(name)


def test_a_name_of_nothing_is_an_error(tmp_path):
    name = str(tmp_path / "no-such-folder")
    with pytest.raises(ValueError, match=f"no-such-folder' is neither {EMBEDDED_NAMES} nor a folder or hub id"):
        load_tokenizer(name)


def test_a_name_that_is_not_there_is_said_with_its_place_and_its_flag(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"looked for in {tmp_path}\. .* --config.data.tokenizer$"):
        load_tokenizer("./words")


CONFIG = json.dumps({"eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"})


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer.json": ""}, r"tokenizer\.json: not JSON \(Expecting value.*\): copy it again$"),
        ({"tokenizer.json": '{"version": "1.0", "trunc'}, r"tokenizer\.json: not JSON"),
        ({"tokenizer.json": "[" * 10**5}, r"tokenizer\.json: not JSON"),
        ({"tokenizer.json": "[]"}, r"tokenizer\.json: \[\] is not an object"),
        ({"tokenizer.json": "{}"}, r"^the tokenizer in .* cannot be read: "),
        ({"tokenizer_config.json": "null"}, r"tokenizer_config\.json: None is not an object"),
        ({"tokenizer_config.json": CONFIG[:9]}, r"tokenizer_config\.json: not JSON"),
        ({"tokenizer_config.json": CONFIG}, r"^the tokenizer in .* cannot be read: "),
        ({"vocab.json": "{}"}, r"^the tokenizer in .* cannot be read: "),
        (
            {"other.txt": ""},
            r"has no tokenizer in it \(tokenizer\.json, .*\): it is no Hugging Face folder of a tokenizer",
        ),
        ({"config.json": "{}"}, r"has no tokenizer in it \(tokenizer\.json, .*\): set data.tokenizer$"),
    ],
)
def test_a_damaged_folder_is_one_line(tmp_path, files, message):
    for file, content in files.items():
        (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load_tokenizer(str(tmp_path))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("content", "package"),
    [(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02", "sentencepiece"), (b"IQ== 0\n", "tiktoken")],
)
def test_a_model_that_needs_a_package_names_that_one(tmp_path, monkeypatch, content, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(UserError, match=rf"needs the package {package}: pip install {package} protobuf, or copy"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("name", ["a\x00b", "a b\n###", "\ud800", "embedded:x", "x" * 5000])
def test_a_name_that_nothing_can_have(name):
    with pytest.raises(UserError, match=f"^data.tokenizer=.* is neither {EMBEDDED_NAMES} nor") as caught:
        load_tokenizer(name)
    assert str(caught.value).isprintable()


def test_an_empty_name_and_a_file(tmp_path):
    with pytest.raises(UserError, match="^data.tokenizer is empty"):
        load_tokenizer("")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="tokenizer.json' is a file: name the folder that it is in"):
        load_tokenizer(str(tmp_path / "tokenizer.json"))


# Real tokenizers: (separator, eos, pad, number of tokens), by their README


@needs_shared
@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("tokenizers/llama3", (14711, 128009, 128256, 128257)),
        ("tokenizers/qwen2", (14374, 151645, 151643, 151665)),
        ("tokenizers/gpt2", (21017, 50256, 50257, 50258)),
        ("golden/tokenizer", (297, 639, 640, 641)),
        ("golden/qwen2_tiny", (297, 639, 640, 641)),  # a model beside it: no settings of Qwen2's own tokenizer
    ],
)
def test_real_tokenizers(name, numbers):
    loaded = load_tokenizer(str(SHARED / name))
    assert (loaded.separator_id, loaded.eos_id, loaded.pad_id, loaded.num_tokens) == numbers
    assert loaded.encode("Answer:18") == loaded.hf.backend_tokenizer.encode("Answer:18", add_special_tokens=False).ids
    texts = ["<<24*2=48>>\n<<48-3=45>>", "It cost 3 . 50 , or so ?", "Don't  do  that .", "naïve 数学 🙂\n\n x"]
    assert [loaded.decode(ids) for ids in loaded.encode_batch(texts)] == texts


@needs_shared
def test_ids_are_those_of_the_published_code():
    """Every prompt of the published implementation, its padding left out; it appends the text of eos to answers."""
    golden = json.loads((SHARED / "golden" / "i_prompts.json").read_text(encoding="utf-8"))
    loaded = load_tokenizer(str(SHARED / "golden" / "tokenizer"))
    num_texts = 0
    for case in golden["cases"].values():
        for batch in case:
            for text, ids in zip(batch["texts"], batch["ids"], strict=True):
                assert loaded.encode(text) == [token_id for token_id in ids if token_id != golden["pad_id"]]
                num_texts += 1
    assert num_texts == 108


def test_how_it_reads_is_in_its_hash(tmp_path):
    """Not where its files lie, nor how they are written; another id, another end or another splitting is."""
    ours = load_tokenizer(EMBEDDED)
    ours.save(tmp_path / "copy")
    assert load_tokenizer(str(tmp_path / "copy")).reading == ours.reading
    file = tmp_path / "copy" / "tokenizer.json"
    written = file.read_text()
    file.write_text(json.dumps(json.loads(written)))
    assert load_tokenizer(str(tmp_path / "copy")).reading == ours.reading
    changed = json.loads(written) | {"normalizer": {"type": "Lowercase"}}
    file.write_text(json.dumps(changed))
    assert load_tokenizer(str(tmp_path / "copy")).reading != ours.reading
    file.write_text(written.replace('"apples"', '"@"').replace('"nuts"', '"apples"').replace('"@"', '"nuts"'))
    assert load_tokenizer(str(tmp_path / "copy")).reading != ours.reading
    assert dataclasses.replace(ours, eos_id=ours.eos_id + 1).reading != ours.reading
