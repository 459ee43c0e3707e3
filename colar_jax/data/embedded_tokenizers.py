"""The tokenizers of the embedded problems: a token for each word, and nothing to download.

A model is bound to its tokenizer's ids: words may be added to a new tokenizer only, never to one that there is.
"""

import re
from collections.abc import Callable, Sequence

import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers

from colar_jax.data import arithmetic, graphs
from colar_jax.data.prompts import SEPARATOR
from colar_jax.data.reflections import REFLECTION_WORDS
from colar_jax.data.segment_judging import JUDGE_WORDS

_UNKNOWN, _PAD, _EOS = "[UNK]", "[PAD]", "<eos>"


def _of_words(words: Sequence[str], *, says_sentences: bool = False) -> transformers.PreTrainedTokenizerFast:
    """One token for each of the words, each phrase of the prompt, and each number below 100.

    Spaces are no tokens, so that a number is the same token in a sentence and in an equation; larger numbers are read
    in pairs of digits from the left (1205 is 12 and 05). When ids become text again, spaces stand before words and
    between a word and a number. Equations, answers and whole prompts of embedded problems come back exactly.
    Where models say sentences, none stands before a word that begins a line or an answer.
    """
    phrases = ("Let's think step by step:", "(Thinking speed:", "Question:", "Answer:", "<<", ">>", SEPARATOR)
    symbols = ("\n", "+", "-", "*", "/", "=", "(", ")", ".", ",", "?", ":")
    numbers = (*(str(n) for n in range(100)), *(f"{n:02}" for n in range(10)))
    pieces = (_UNKNOWN, _PAD, _EOS, *phrases, *symbols, *numbers, "auto", *words)
    ids = {piece: token_id for token_id, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(ids, unk_token=_UNKNOWN))
    found = "|".join((*map(re.escape, phrases), r"\d{1,2}", r"\p{L}+", r"\n", r"[^\s\p{L}\d]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(found), behavior="removed", invert=True)
    before_word, before_number = r"^(?=\p{L})(?!Answer:)", r"(?<=\p{L}|speed:)(?=\d)"
    begins = r"(?<=\n|Answer:) (?=\p{L})"
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(tokenizers.Regex(before_word), " "),
            decoders.Fuse(),
            decoders.Replace(tokenizers.Regex(before_number), " "),
            *([decoders.Replace(tokenizers.Regex(begins), "")] if says_sentences else []),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=_UNKNOWN,
        pad_token=_PAD,
        eos_token=_EOS,
        clean_up_tokenization_spaces=False,
    )


# name -> what makes it.
EMBEDDED_TOKENIZERS: dict[str, Callable[[], transformers.PreTrainedTokenizerFast]] = {
    "embedded:arithmetic": lambda: _of_words(arithmetic.vocabulary()),
    "embedded:reflections": lambda: _of_words(
        (*arithmetic.vocabulary(), *REFLECTION_WORDS, *JUDGE_WORDS), says_sentences=True
    ),
    "embedded:graphs": lambda: _of_words(graphs.graph_vocabulary(), says_sentences=True),
}
