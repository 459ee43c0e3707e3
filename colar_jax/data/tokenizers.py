"""Tokenizers: any Hugging Face one, and the embedded ones."""

import dataclasses
import functools
import hashlib
import importlib.util
import json
import logging
import os
import reprlib
from pathlib import Path

import numpy as np
import transformers

from colar_jax.data.embedded_tokenizers import EMBEDDED_TOKENIZERS
from colar_jax.data.gguf_tokenizer import gguf_tokenizer
from colar_jax.data.prompts import SEPARATOR, answer_text, question_prompt
from colar_jax.errors import UserError
from colar_jax.gguf_header import is_gguf

logger = logging.getLogger(__name__)

EMBEDDED = "embedded:arithmetic"
PAD = "[PAD]"
# One of these is in every tokenizer's folder; AutoTokenizer makes an empty tokenizer of a folder without any.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
# Its files are protocol buffers; tiktoken's are lines of text.
_SENTENCEPIECE_START = b"\n"
# Two tokenizers of one vocabulary may split these otherwise: white space, numbers, case, accents, signs of formulas.
_PROBE = (
    "Tom's  2 boxes hold 1,234.50 kg;\n\n\tHE said: \"caf\u00e9 cafe\u0301, don't!\" <<12*3.5=42>>###Answer:-7/8 "
    "\\frac{x_1}{2}^2 \u2264 \u00bd \u5341\u4e8c \U0001f642"
)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A Hugging Face tokenizer with what this project needs to know of it."""

    hf: transformers.PreTrainedTokenizerBase
    separator_id: int  # of `###`, one token
    eos_id: int
    pad_id: int
    num_tokens: int  # rows that an embedding matrix needs, `[PAD]` included

    @functools.cached_property
    def reading(self) -> str:
        """A hash of how it reads, whatever its files say: every token's id, the special ids, the ids of a text."""
        special = [self.separator_id, self.eos_id, self.pad_id, self.hf.unk_token_id]
        what = [sorted(self.hf.get_vocab().items()), special, self.ids_of([_PROBE])]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]

    @property
    def spare_ids(self) -> set[int]:
        """Special tokens that no text of ours has: a model may lack their rows. Padding among them."""
        special = {token_id for token_id, token in self.hf.added_tokens_decoder.items() if token.special}
        return (special | {self.pad_id}) - {self.separator_id, self.eos_id, self.hf.unk_token_id}

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without any special token added."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text. Logs when there are words that the tokenizer does not know."""
        if not texts:
            return []
        ids_of_texts = self.ids_of(texts)
        unknown = [text for text, ids in zip(texts, ids_of_texts, strict=True) if self.hf.unk_token_id in ids]
        if unknown:
            logger.warning(
                "%d of %d texts have words that the tokenizer does not know and reads as %s, the first: %r",
                len(unknown),
                len(texts),
                self.hf.unk_token,
                unknown[0],
            )
        return ids_of_texts

    def ids_of(self, texts: list[str]) -> list[list[int]]:
        """As `encode_batch`, and logs nothing: for one or more texts that their author is told of in another way."""
        return self.hf(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]

    def token_starts(self, texts: list[str]) -> list[list[int]]:
        """Where in each text each of its tokens begins, in characters."""
        if not texts:
            return []
        options = dict(add_special_tokens=False, return_attention_mask=False, verbose=False)
        offsets = self.hf(texts, return_offsets_mapping=True, **options)["offset_mapping"]
        return [[start for start, _ in of_text] for of_text in offsets]

    def decode(self, ids: list[int]) -> str:
        """The text of some ids, exactly (no space is cleaned away), special tokens left out."""
        return self.hf.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def token_text(self, token_id: int) -> str:
        """What one token says, special tokens included, such as " the" or "###"."""
        return self.hf.decode([token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer where `load_tokenizer` finds it again."""
        self.hf.save_pretrained(str(folder))

    def answer_texts(self, ids_BA: np.ndarray, num_tokens_B: np.ndarray) -> list[str]:
        """The text of each answer: its first `num_tokens_B` ids, without the eos that may end them."""
        kept = [ids[:count].tolist() for ids, count in zip(ids_BA, num_tokens_B, strict=True)]
        return [self.decode(ids[:-1] if ids and ids[-1] == self.eos_id else ids) for ids in kept]


NO_SEPARATOR = -1  # instead of its id


def load_tokenizer(name: str, *, adds_padding: bool = True, needs_separator: bool = True) -> Tokenizer:
    """An embedded tokenizer (`embedded:arithmetic`, `embedded:graphs`), or that of a folder or hub id.

    Where there is no padding token apart from eos, `[PAD]` is added, which makes the vocabulary one larger. Without
    `adds_padding` such a tokenizer pads with eos instead, and keeps its size. A model that is never asked in the form
    of this project (a verifier of `evaluation.trimming`) does without `###`: then `needs_separator` is False.

    Raises:
        UserError: there is no such tokenizer, it has no end-of-sequence token, or `###` is not one token of it.
    """
    hf = EMBEDDED_TOKENIZERS[name]() if name in EMBEDDED_TOKENIZERS else _from_folder_or_hub(name)
    if hf.eos_token_id is None:
        raise UserError(f"the tokenizer {name!r} has no end-of-sequence token: set eos_token in its config")
    if hf.pad_token_id is None or hf.pad_token_id == hf.eos_token_id:
        hf.add_special_tokens({"pad_token": PAD if adds_padding else hf.eos_token})
    num_tokens = max(hf.get_vocab().values()) + 1  # not len(hf), which is less where ids have gaps
    separator_id = _separator_id(hf, name) if needs_separator else NO_SEPARATOR
    return Tokenizer(hf, separator_id, hf.eos_token_id, hf.pad_token_id, num_tokens)


def _from_folder_or_hub(name: str) -> transformers.PreTrainedTokenizerBase:
    if not name:
        raise UserError("data.tokenizer is empty: name a folder or a hub id (empty means model.base's own, with one)")
    place = os.path.expanduser(name)
    if os.path.isfile(place) and is_gguf(place):
        return gguf_tokenizer(Path(place))
    if os.path.isfile(place):
        raise UserError(f"data.tokenizer={name!r} is a file: name the folder that it is in")
    # A folder's tokenizer.json says everything. AutoTokenizer goes by the model_type in config.json beside it, and
    # puts Qwen2's special tokens and splitting of digits over any other tokenizer that a Qwen2 was given.
    has_file = os.path.isfile(os.path.join(place, "tokenizer.json"))
    if os.path.isdir(place) and not any(os.path.isfile(os.path.join(place, file)) for file in _TOKENIZER_FILES):
        is_model = os.path.isfile(os.path.join(place, "config.json"))
        advice = "set data.tokenizer" if is_model else "it is no Hugging Face folder of a tokenizer, nor of a model"
        raise UserError(f"{name!r} has no tokenizer in it ({', '.join(_TOKENIZER_FILES)}): {advice}")
    kind = transformers.PreTrainedTokenizerFast if has_file else transformers.AutoTokenizer
    try:
        hf = kind.from_pretrained(place)
    except Exception as error:  # of any kind: what a library raises for a file that it did not expect
        raise UserError(_why_not_read(name, place, error)) from error
    if not hf.is_fast:
        raise UserError(
            f"the tokenizer {name!r} has no tokenizer.json: save it once with transformers, from a fast one"
        )
    return hf


def _why_not_read(name: str, folder: str, error: Exception) -> str:
    """What is wrong with a tokenizer's folder that transformers does not read, and what to do."""
    for path in (os.path.join(folder, file) for file in ("tokenizer.json", "tokenizer_config.json")):
        try:
            content = json.loads(Path(path).read_bytes()) if os.path.isfile(path) else {}
        except (ValueError, RecursionError) as fault:
            return f"{path}: not JSON ({fault}): copy it again"
        if not isinstance(content, dict):
            return f"{path}: {reprlib.repr(content)} is not an object: copy it again"
    model = os.path.join(folder, "tokenizer.model")
    if os.path.isfile(model) and not os.path.isfile(os.path.join(folder, "tokenizer.json")):
        package = "sentencepiece" if Path(model).read_bytes().startswith(_SENTENCEPIECE_START) else "tiktoken"
        if importlib.util.find_spec(package) is None:
            return (
                f"{folder} has a tokenizer.model and no tokenizer.json, and reading that needs the package {package}: "
                f"pip install {package} protobuf, or copy the model's tokenizer.json into the folder"
            )
    said = " ".join(f"{type(error).__name__}: {error}".split())
    said = "".join(char if char.isprintable() else repr(char)[1:-1] for char in said)
    if os.path.isdir(folder):
        return f"the tokenizer in {folder} cannot be read: {said}"
    embedded = ", ".join(map(repr, EMBEDDED_TOKENIZERS))
    seen_from = "" if os.path.isabs(folder) else f"A folder was looked for in {os.getcwd()}. "
    return (
        f"data.tokenizer={name!r} is neither {embedded} nor a folder or hub id of a tokenizer: "
        f"{said.rstrip('.')}. {seen_from}"
        "Name another one with --config.data.tokenizer"
    )


def _separator_id(hf: transformers.PreTrainedTokenizerBase, name: str) -> int:
    """The id of `###`, which must be one token of its own, alone and between the texts that stand around it."""
    before, after = question_prompt("How many?", 1), answer_text("1")
    alone, ids_before, ids_after, together = hf(
        [SEPARATOR, before, after, before + SEPARATOR + after], add_special_tokens=False
    )["input_ids"]
    if len(alone) != 1 or alone[0] == hf.unk_token_id or together != ids_before + alone + ids_after:
        read = hf.convert_ids_to_tokens(alone), hf.convert_ids_to_tokens(together[len(ids_before) :])
        raise UserError(
            f"the tokenizer {name!r} reads {SEPARATOR!r} as {read[0]} and, between a prompt and {after!r}, as "
            f"{read[1]}: it must be one token. Choose another tokenizer, or add it with tokenizer.add_tokens("
            f"[{SEPARATOR!r}]) and save it; a base model needs its row too: model.resize_token_embeddings("
            "len(tokenizer)), save both into one folder and name that in model.base"
        )
    return alone[0]
