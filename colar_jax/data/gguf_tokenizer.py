"""The tokenizer that is in a GGUF file: byte-level BPE, with the pre-tokenizer that its vocabulary was learned with.

The file has tokens, merges and the name of a pre-tokenizer. What a name means is llama.cpp's: the regular expressions
here are those of the models' own tokenizers.
"""

import dataclasses
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from colar_jax.errors import UserError
from colar_jax.gguf_header import read_gguf_header

_CONTROL, _USER_DEFINED = 3, 4  # kinds of tokens that are found whole in a text; the first are special

# Contractions, words with the sign before them, numbers, signs, line ends, spaces.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3, _QWEN2 = _WORDS + r"\p{N}{1,3}" + _REST, _WORDS + r"\p{N}" + _REST


@dataclasses.dataclass(frozen=True)
class _Reading:
    """How a text is cut up before merges: by a pattern, or as GPT-2 does; digits one by one before that."""

    pattern: str | None = None
    splits_digits: bool = False
    composes: bool = False  # letters and their accents, by Unicode's NFC
    takes_whole_words: bool = False  # a piece that is a token is one, whatever the merges say

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        """As the tokenizers library has it."""
        digits = [pre_tokenizers.Digits(individual_digits=True)] if self.splits_digits else []
        if self.pattern is None:
            return pre_tokenizers.Sequence([*digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        split = pre_tokenizers.Split(Regex(self.pattern), behavior="isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


_GPT2 = _Reading()
_READINGS = {  # by `tokenizer.ggml.pre`
    "default": _GPT2,
    "gpt-2": _GPT2,
    "smollm": _Reading(splits_digits=True),
    "llama-bpe": _Reading(_LLAMA3, takes_whole_words=True),
    "llama3": _Reading(_LLAMA3, takes_whole_words=True),
    "llama-v3": _Reading(_LLAMA3, takes_whole_words=True),
    "qwen2": _Reading(_QWEN2, composes=True),
    "deepseek-r1-qwen": _Reading(_QWEN2, composes=True),
}


def gguf_tokenizer(path: Path) -> transformers.PreTrainedTokenizerFast:
    """The tokenizer of a GGUF file.

    Raises:
        UserError: the file is damaged, has none, or one of another kind than byte-level BPE.
    """
    metadata = read_gguf_header(path).metadata
    said = {name: metadata.get(f"tokenizer.ggml.{name}") for name in ("model", "pre", "tokens", "merges", "token_type")}
    hint = "set data.tokenizer to the folder of the model's own tokenizer"
    if said["model"] != "gpt2":
        raise UserError(f"{path} has a tokenizer of kind {said['model']!r}: only byte-level BPE (gpt2) is read; {hint}")
    pre = said["pre"]
    if pre is None:  # of before May 2024: llama.cpp guesses, and warns of what that may cost
        raise UserError(f"{path} does not say how its tokenizer splits text (tokenizer.ggml.pre): {hint}")
    reading = _READINGS.get(pre) if isinstance(pre, str) else None
    if reading is None:
        raise UserError(f"{path} has the pre-tokenizer {pre!r}, which is none of {', '.join(_READINGS)}: {hint}")
    tokens, merges = said["tokens"], said["merges"]
    if not _are_texts(tokens) or not _are_texts(merges) or not all(merge.count(" ") == 1 for merge in merges):
        raise UserError(f"{path} has no lists of tokens and merges: {hint}")
    ids = {token: number for number, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    try:
        bpe = models.BPE(ids, pairs, ignore_merges=reading.takes_whole_words)
    except Exception as error:  # the library's errors are of no class of their own
        raise UserError(f"the tokenizer in {path} cannot be read: {error}; {hint}") from None
    tokenizer = tokenizers.Tokenizer(bpe)
    tokenizer.pre_tokenizer, tokenizer.decoder = reading.pre_tokenizer(), decoders.ByteLevel()
    if reading.composes:
        tokenizer.normalizer = normalizers.NFC()
    kinds = said["token_type"] if isinstance(said["token_type"], list) else []
    of_kind = {
        kind: [
            AddedToken(token, normalized=False, special=kind == _CONTROL)
            for token, of in zip(tokens, kinds, strict=False)
            if of == kind
        ]
        for kind in (_CONTROL, _USER_DEFINED)
    }
    tokenizer.add_special_tokens(of_kind[_CONTROL])
    tokenizer.add_tokens(of_kind[_USER_DEFINED])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **_special(metadata, tokens)
    )


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(value, str) for value in values)


def _special(metadata: dict[str, Any], tokens: list[str]) -> dict[str, str]:
    """The texts of the special tokens that the file names by their ids."""
    names = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    ids = {ours: metadata.get(f"tokenizer.ggml.{theirs}_token_id") for ours, theirs in names.items()}
    found = {name: tokens[number] for name, number in ids.items() if type(number) is int and 0 <= number < len(tokens)}
    template = metadata.get("tokenizer.chat_template")
    return found | ({"chat_template": template} if isinstance(template, str) else {})
