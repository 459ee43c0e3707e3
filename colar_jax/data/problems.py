"""A problem, as text."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Problem:
    """A question, its reasoning steps in order (possibly none) and its answer, all as text."""

    question: str
    steps: tuple[str, ...]
    answer: str
