"""The pieces of a growing text are its whole, and none of them costs a decoding of the whole."""

import dataclasses
import functools
import json
import random
from pathlib import Path

import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from colar_jax.data.embedded_tokenizers import EMBEDDED_TOKENIZERS
from colar_jax.data.tokenizers import EMBEDDED, Tokenizer, load_tokenizer
from colar_jax.thinker.growing_text import GrowingText

SHARED = Path(__file__).parents[3] / "shared"
REAL = ("tokenizers/gpt2", "tokenizers/llama3", "tokenizers/qwen2", "golden/tokenizer")
TEXTS = (
    "Tom has 24 apples . He's 7 more, don't?\n<<24+7=31>>\n###Answer:31",
    " naïve 数学 🙂👩‍👩‍👧\n\n x  y   z ",
    "  two spaces",
    "数学数学",
)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPACES = decoders.Replace("▁", " ")


def trained(model, trainer, **parts) -> Tokenizer:
    """A small tokenizer with these parts, which has learned the first of the texts."""
    tokenizer = tokenizers.Tokenizer(model)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    special = ["<unk>", "</s>", *(BYTES if getattr(model, "byte_fallback", False) else [])]
    tokenizer.train_from_iterator(TEXTS[:1] * 3, trainer(vocab_size=500, special_tokens=special, show_progress=False))
    content = json.loads(tokenizer.to_str())  # bytes were special for the training alone
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in BYTES]
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    hf = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")
    return Tokenizer(hf, -1, hf.eos_token_id, hf.eos_token_id, len(hf))


def with_bytes(decoder, normalizer) -> Tokenizer:
    """As sentencepiece makes them: what is no token is told by its bytes."""
    model = models.BPE(unk_token="<unk>", byte_fallback=True)
    return trained(model, trainers.BpeTrainer, normalizer=normalizer, decoder=decoder)


def llama2() -> Tokenizer:
    """A space before all, which decoding takes away again."""
    decoder = decoders.Sequence([SPACES, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return with_bytes(decoder, normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]))


def gemma() -> Tokenizer:
    return with_bytes(
        decoders.Sequence([SPACES, decoders.ByteFallback(), decoders.Fuse()]), normalizers.Replace(" ", "▁")
    )


def metaspace() -> Tokenizer:
    parts = dict(pre_tokenizer=pre_tokenizers.Metaspace(), decoder=decoders.Metaspace())
    return trained(models.Unigram(), functools.partial(trainers.UnigramTrainer, unk_token="<unk>"), **parts)


def word_pieces() -> Tokenizer:
    """Which says where a word goes on, and cleans spaces away."""
    parts = dict(pre_tokenizer=pre_tokenizers.BertPreTokenizer(), decoder=decoders.WordPiece())
    return trained(models.WordPiece(unk_token="<unk>"), trainers.WordPieceTrainer, **parts)


def word_ends() -> Tokenizer:
    """Which says where a word ends: the last one of a text has no space after it."""
    model = models.BPE(unk_token="<unk>", end_of_word_suffix="</w>")
    trainer = functools.partial(trainers.BpeTrainer, end_of_word_suffix="</w>")
    return trained(model, trainer, pre_tokenizer=pre_tokenizers.Whitespace(), decoder=decoders.BPEDecoder())


needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real tokenizers are not part of the project")
MADE_UP = {make.__name__: make for make in (llama2, gemma, metaspace, word_pieces, word_ends)}
LOADED = {name: functools.partial(load_tokenizer, name) for name in EMBEDDED_TOKENIZERS}
SHARED_ONES = [
    pytest.param(functools.partial(load_tokenizer, str(SHARED / name)), marks=needs_shared, id=name) for name in REAL
]
ALL = [pytest.param(make, id=name) for name, make in (MADE_UP | LOADED).items()] + SHARED_ONES


def grown(tokenizer, ids: list[int]) -> tuple[str, str]:
    """The pieces in a row, and the text at the end."""
    growing = GrowingText(tokenizer)
    pieces = [growing.add(token_id) for token_id in ids]
    assert growing.text == "".join(pieces)
    pieces.append(growing.finish())
    return "".join(pieces), growing.text


@pytest.mark.parametrize("make", ALL)
def test_the_pieces_of_a_text_are_the_text(make):
    tokenizer = make()
    for text in TEXTS:
        ids = tokenizer.ids_of([text])[0]
        assert grown(tokenizer, ids) == (tokenizer.decode(ids),) * 2


@pytest.mark.parametrize("make", ALL)
def test_the_pieces_of_any_ids_are_their_text(make):
    """Ids that no text has: special ones, halves of characters, parts of words without their beginning."""
    tokenizer, rng = make(), random.Random(0)
    for _ in range(200):
        ids = [rng.randrange(tokenizer.num_tokens) for _ in range(rng.randint(1, 30))]
        pieces, text = grown(tokenizer, ids)
        assert text == tokenizer.decode(ids)
        # There a byte that fits no character takes back the whole characters before it.
        assert pieces == text or make in (llama2, gemma)


def test_a_byte_that_fits_no_character_does_not_stop_the_text():
    tokenizer = llama2()
    ids = [tokenizer.hf.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "数".encode()]
    growing = GrowingText(tokenizer)
    assert [growing.add(token_id) for token_id in ids] == ["", "", "数"]
    assert growing.add(ids[0]) == ""
    assert growing.add(tokenizer.ids_of(["24"])[0][-1]).endswith("4")


@dataclasses.dataclass
class Counting:
    """A tokenizer that counts what it decodes."""

    tokenizer: Tokenizer
    num_ids: int = 0

    def decode(self, ids: list[int]) -> str:
        self.num_ids += len(ids)
        return self.tokenizer.decode(ids)


@pytest.mark.parametrize("is_text", [True, False])
def test_the_work_goes_with_the_length(is_text):
    """Also of a model that says the first byte of a character again and again, which is never complete."""
    if is_text:
        tokenizer = load_tokenizer(EMBEDDED)
        ids = tokenizer.ids_of([TEXTS[0]])[0] * 50
    else:
        tokenizer = gemma()
        ids = [tokenizer.hf.convert_tokens_to_ids("<0xE6>")] * 1000
    counting = Counting(tokenizer)
    pieces, text = grown(counting, ids)
    assert pieces == text == tokenizer.decode(ids)
    assert counting.num_ids < 15 * len(ids)
