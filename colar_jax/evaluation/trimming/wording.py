"""How a verifier is asked: its questions as token ids, and which tokens say yes and no.

A question is a part that is the same for all of its kind, which is read once, and a rest.
"""

import dataclasses
import enum
import itertools
from typing import Protocol

import numpy as np

from colar_jax.data.prompts import ANSWER_PREFIX, AUTO_SPEED, answer_text, question_prompt
from colar_jax.data.segment_judging import NO, YES, agreement_text, statement_text
from colar_jax.data.tokenizers import Tokenizer
from colar_jax.errors import UserError


class Asked(enum.Enum):
    """What a verifier is asked."""

    STATES = "states"  # does the end of a segment state an answer?
    AGREES = "agrees"  # do the ends of two segments state the same one?


@dataclasses.dataclass(frozen=True)
class Inquiry:
    """A question to a verifier."""

    asked: Asked
    question: str  # of the problem
    endings: tuple[str, ...]  # of one segment, or of two


class Wording(Protocol):
    """The questions of one verifier as ids."""

    yes_id: int
    no_id: int

    def shared(self, asked: Asked) -> np.ndarray:
        """What all questions of a kind begin with, int32; at least one token."""

    def rest(self, inquiry: Inquiry) -> np.ndarray:
        """What comes after it, int32; the next token is the verdict."""


class JudgeWording:
    """As `methods.segment_judge` was trained: a question of its own, answered at once."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._start = len(tokenizer.encode("Question:"))
        prefix = tokenizer.encode(ANSWER_PREFIX)
        self.yes_id, self.no_id = (tokenizer.encode(answer_text(word))[len(prefix)] for word in (YES, NO))
        self._end = [tokenizer.separator_id, tokenizer.separator_id, *prefix]

    def shared(self, asked: Asked) -> np.ndarray:
        return np.array(self._tokenizer.encode("Question:"), np.int32)

    def rest(self, inquiry: Inquiry) -> np.ndarray:
        text = statement_text if inquiry.asked is Asked.STATES else agreement_text
        ids = self._tokenizer.encode(question_prompt(text(*inquiry.endings), AUTO_SPEED))
        return np.array([*ids[self._start :], *self._end], np.int32)


# Written for this project. Few examples, short ones: they are read once.
_EXAMPLES = {
    Asked.STATES: """\
A student works on a problem. You see the end of a part of the work. Does it state a final answer to the problem?

Part: First I add the two sides. That gives 3x + 4 = 19, which I still have to solve for x.
Final answer stated (Yes or No): No

Part: So x = 5. Let me put it back: 3 * 5 + 4 = 19, which is right. The answer is 5.
Final answer stated (Yes or No): Yes

Part: The area is a half of base times height. I do not know the height yet.
Final answer stated (Yes or No): No

Part: Adding the four cases, there are 12 ways in all, so the result is 12.
Final answer stated (Yes or No): Yes
""",
    Asked.AGREES: """\
You see a problem and two parts of the work on it. Do both parts state the same final answer?

Problem: What is half of 18, plus 1?
Part 1: Half of 18 is 9, and one more is 10. So the answer is 10.
Part 2: 18 / 2 + 1 = 10.0, as before.
Same final answer (Yes or No): Yes

Problem: A train goes 60 km in 40 minutes. How fast is it?
Part 1: 40 minutes are 2/3 of an hour, so it goes 90 km/h.
Part 2: 60 km divided by 40 is 1.5, so the answer is 1.5 km/h.
Same final answer (Yes or No): No

Problem: Which fraction of the cake is left?
Part 1: The rest is 1 - 3/4, so one quarter of it is left.
Part 2: Together they ate 75 %. The answer is 1/4.
Same final answer (Yes or No): Yes
""",
}
_QUESTION = {
    Asked.STATES: "\nPart: {endings[0]}\nFinal answer stated (Yes or No):",
    Asked.AGREES: ("\nProblem: {question}\nPart 1: {endings[0]}\nPart 2: {endings[1]}\nSame final answer (Yes or No):"),
}


class PlainWording:
    """Plain English with examples, for any language model that was trained on text."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        before = len(tokenizer.encode("(Yes or No):"))
        yes, no = (tokenizer.encode(f"(Yes or No): {word}")[before:] for word in (YES, NO))
        if yes == no:
            raise UserError(
                "eval.trim.verifier: its tokenizer reads Yes and No alike, so it can say neither: name another"
            )
        # Where a space is a token of its own, it is part of the question.
        num_common = next(
            place for place, (of_yes, of_no) in enumerate(itertools.zip_longest(yes, no)) if of_yes != of_no
        )
        self._common = yes[:num_common]
        self.yes_id, self.no_id = yes[num_common], no[num_common]

    def shared(self, asked: Asked) -> np.ndarray:
        bos = self._tokenizer.hf.bos_token_id
        adds_bos = bos is not None and self._tokenizer.hf("x")["input_ids"][:1] == [bos]
        return np.array([*([bos] if adds_bos else []), *self._tokenizer.encode(_EXAMPLES[asked])], np.int32)

    def rest(self, inquiry: Inquiry) -> np.ndarray:
        endings = tuple(" ".join(ending.split()) for ending in inquiry.endings)
        text = _QUESTION[inquiry.asked].format(question=inquiry.question, endings=endings)
        return np.array([*self._tokenizer.encode(text), *self._common], np.int32)
