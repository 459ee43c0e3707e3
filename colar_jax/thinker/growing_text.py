"""Ids that become text piece by piece."""

from colar_jax.data.tokenizers import Tokenizer


class GrowingText:
    """A text that grows by a token at a time; what a tokenizer says of a token depends on those before it.

    Not on all of them: a token is read with those of the piece before it, which say whether a space stands between
    them. To read the whole text anew at every token would take time with the square of its length.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self._ids, self.text = tokenizer, [], ""
        # Ids from `_start` to `_end` are the last piece; those from `_end` on are not told yet.
        self._start = self._end = self._next_look = 0

    def add(self, token_id: int) -> str:
        """The text that this token adds; "" where a character is not complete yet."""
        self._ids.append(token_id)
        if len(self._ids) < self._next_look:
            return ""
        piece = self._untold()
        if not piece or piece.endswith("\N{REPLACEMENT CHARACTER}"):
            # A character has four bytes at most, but a model may go on with halves of them: look ever more seldom.
            self._next_look = len(self._ids) + max(1, (len(self._ids) - self._end) // 8)
            return ""
        self._start, self._end = self._end, len(self._ids)
        self.text += piece
        return piece

    def finish(self) -> str:
        """What is left when no token comes any more: a character that never became complete.

        `text` is now what the tokenizer says of all ids together. With one that takes back what it has said, as a byte
        that fits no character does to the whole ones before it, pieces may have said otherwise.
        """
        whole = self._tokenizer.decode(self._ids) if self._ids else ""
        piece = whole[len(self.text) :] if whole.startswith(self.text) else self._untold()
        self.text = whole
        return piece

    def _untold(self) -> str:
        before = self._tokenizer.decode(self._ids[self._start : self._end])
        return self._tokenizer.decode(self._ids[self._start :])[len(before) :]
