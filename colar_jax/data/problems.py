"""A problem, as text."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Problem:
    """A question, its reasoning steps in order (possibly none) and its answer, all as text.

    `place` says where it was read, such as `train.jsonl:17`, for messages; two problems of the same text are equal.
    """

    question: str
    steps: tuple[str, ...]
    answer: str
    # The steps that the answer needs, where it is known that the others carry nothing; None: not known.
    needed_steps: tuple[str, ...] | None = dataclasses.field(default=None, compare=False, repr=False)
    place: str = dataclasses.field(default="", compare=False, repr=False)
