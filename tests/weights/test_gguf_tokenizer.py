"""The tokenizer in a GGUF file, against the one that it was made of."""

import json

import pytest
import tokenizers
from weights.gguf_files import SHARED, random_arrays, real_texts, tiny, write_gguf

from colar_jax.data.tokenizers import load_tokenizer
from colar_jax.errors import UserError

pytest.importorskip("gguf")


def of_tokenizer(name: str, pre: str):
    """What a GGUF file of a model with this tokenizer says."""
    found = json.loads((SHARED / "tokenizers" / name / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = dict(found["model"]["vocab"])
    kinds = dict.fromkeys(vocabulary, 1)
    for added in found["added_tokens"]:
        vocabulary[added["content"]] = added["id"]
        kinds[added["content"]] = 3 if added["special"] else 4
    tokens = [f"[PAD{number}]" for number in range(max(vocabulary.values()) + 1)]
    for token, number in vocabulary.items():
        tokens[number] = token
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in found["model"]["merges"]]

    def write(writer):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types([kinds.get(token, 5) for token in tokens])
        writer.add_token_merges(merges)
        writer.add_eos_token_id(len(vocabulary) - 1)

    return write


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "tokenizers").is_dir(), reason="needs shared/tokenizers")
@pytest.mark.parametrize(("name", "pre"), [("qwen2", "qwen2"), ("llama3", "llama-bpe"), ("gpt2", "gpt-2")])
def test_the_tokenizer_reads_real_text_as_the_models_own(name, pre, tmp_path):
    config = tiny("llama")
    path = write_gguf(tmp_path / "model.gguf", config, random_arrays(config), tokenizer=of_tokenizer(name, pre))
    own = tokenizers.Tokenizer.from_file(str(SHARED / "tokenizers" / name / "tokenizer.json"))
    ours, texts = load_tokenizer(str(path)), real_texts()
    assert len(texts) > 100
    expected = [encoding.ids for encoding in own.encode_batch(texts, add_special_tokens=False)]
    assert ours.encode_batch(texts) == expected
    if name != "qwen2":  # which composes accents, and so does not bring them back
        assert [ours.hf.decode(ids, skip_special_tokens=False) for ids in expected] == texts
    ours.save(tmp_path / "saved")
    assert load_tokenizer(str(tmp_path / "saved")).encode_batch(texts) == expected


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda writer: None, "has a tokenizer of kind None: only byte-level BPE"),
        (lambda writer: writer.add_tokenizer_model("llama"), "has a tokenizer of kind 'llama': only byte-level BPE"),
        (lambda writer: (writer.add_tokenizer_model("gpt2"), writer.add_tokenizer_pre("tekken")), "pre-tokenizer 'tek"),
        (lambda writer: writer.add_tokenizer_model("gpt2"), "does not say how its tokenizer splits text"),
        (
            lambda writer: (writer.add_tokenizer_model("gpt2"), writer.add_tokenizer_pre("gpt-2")),
            "has no lists of tokens and merges",
        ),
    ],
)
def test_a_tokenizer_that_is_not_read(change, told, tmp_path):
    config = tiny("llama")
    path = write_gguf(tmp_path / "model.gguf", config, random_arrays(config), tokenizer=change)
    with pytest.raises(UserError, match=rf"model\.gguf .*{told}.*data\.tokenizer"):
        load_tokenizer(str(path))
