"""Ids that become text piece by piece."""

from colar_jax.data.tokenizers import Tokenizer


class GrowingText:
    """A text that grows by a token at a time; what a tokenizer says of a token depends on those before it."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self._ids, self.text = tokenizer, [], ""

    def add(self, token_id: int) -> str:
        """The text that this token adds; "" where a character is not complete yet."""
        self._ids.append(token_id)
        text = self._tokenizer.decode(self._ids)
        if text.endswith("\N{REPLACEMENT CHARACTER}") or not text.startswith(self.text):
            return ""
        piece, self.text = text[len(self.text) :], text
        return piece

    def finish(self) -> str:
        """What is left when no token comes any more: a character that never became complete."""
        text = self._tokenizer.decode(self._ids) if self._ids else ""
        piece = text[len(self.text) :] if text.startswith(self.text) else ""
        self.text += piece
        return piece
