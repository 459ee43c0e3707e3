"""Tokenizers: any Hugging Face one, and an embedded one for the embedded problems."""

import dataclasses
from pathlib import Path

import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers

from colar_jax.data import arithmetic
from colar_jax.data.prompts import SEPARATOR

EMBEDDED = "embedded:arithmetic"
PAD = "[PAD]"
UNKNOWN = "[UNK]"
EOS = "<eos>"


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A Hugging Face tokenizer with what this project needs to know of it."""

    hf: transformers.PreTrainedTokenizerBase
    separator_id: int  # of `###`, one token
    eos_id: int
    pad_id: int
    num_tokens: int  # rows that an embedding matrix needs, `[PAD]` included

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without any special token added."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text. ValueError where the embedded tokenizer does not know a word."""
        ids = self.hf(texts, add_special_tokens=False)["input_ids"]
        unknown = self.hf.unk_token_id if self.hf.unk_token == UNKNOWN else None
        if unknown is not None:
            for text, encoded in zip(texts, ids, strict=True):
                if unknown in encoded:
                    raise ValueError(
                        f"the embedded tokenizer knows the words of the embedded problems only, not all of {text!r}: "
                        "name the tokenizer of your model, --config.data.tokenizer=<folder or hub id>"
                    )
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of some ids, exactly, without special tokens."""
        return self.hf.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def save(self, folder: Path) -> None:
        """Write the tokenizer where `load_tokenizer` finds it again."""
        self.hf.save_pretrained(str(folder))


def load_tokenizer(name: str) -> Tokenizer:
    """The embedded tokenizer (`embedded:arithmetic`), or that of a folder or hub id.

    Where there is no padding token of its own, `[PAD]` is added, which makes the vocabulary one larger (METHOD.md 3).

    Raises:
        ValueError: `###` is not one token, or there is no end-of-sequence token, or there is no such tokenizer.
    """
    if name == EMBEDDED:
        hf = _embedded()
    else:
        try:
            hf = transformers.AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"data.tokenizer={name!r} is neither {EMBEDDED!r} nor a folder or hub id of a tokenizer: {error}"
            ) from error
    if hf.eos_token_id is None:
        raise ValueError(f"the tokenizer {name!r} has no end-of-sequence token: set eos_token in its config")
    if hf.pad_token_id is None or hf.pad_token_id == hf.eos_token_id:
        hf.add_special_tokens({"pad_token": PAD})
    separator = hf(SEPARATOR, add_special_tokens=False)["input_ids"]
    if len(separator) != 1:
        raise ValueError(
            f"the tokenizer {name!r} splits {SEPARATOR!r} into {len(separator)} tokens, and it must be one: add it with "
            f"tokenizer.add_tokens([{SEPARATOR!r}]) and save the tokenizer, or choose another"
        )
    return Tokenizer(hf, separator[0], hf.eos_token_id, hf.pad_token_id, len(hf))


def _embedded() -> transformers.PreTrainedTokenizerFast:
    """One token for each word of the embedded problems, each phrase of the prompt, and each number below 100."""
    phrases = ["Let's think step by step:", "(Thinking speed:", "Question:", "Answer:", "auto", "<<", ">>", SEPARATOR]
    symbols = ["\n", "+", "-", "*", "/", "=", "(", ")", ".", ",", "?", ":"]
    pieces = [UNKNOWN, PAD, EOS, *phrases, *symbols, *(str(n) for n in range(100)), *arithmetic.vocabulary()]
    tokenizer = tokenizers.Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token=UNKNOWN))
    # Spaces are no token, so a number is the same token in a sentence and in an equation.
    found = "|".join([*(_escape(phrase) for phrase in phrases), r"\d{1,2}", r"\p{L}+", r"\n", r"[^\s\p{L}\d]"])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(found), behavior="removed", invert=True)
    # Written back with spaces around words only: equations and answers come back exactly, questions readably.
    before_word, after_word = tokenizers.Regex(r"^(?=\p{L}(?!nswer:))"), tokenizers.Regex(r"(?<=\p{L})(?=\d)")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(before_word, " "),
            decoders.Fuse(),
            decoders.Replace(after_word, " "),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNKNOWN, pad_token=PAD, eos_token=EOS, clean_up_tokenization_spaces=False
    )


def _escape(text: str) -> str:
    return "".join(f"\\{character}" if character in "()+*?.|[]{}^$\\" else character for character in text)
