"""A small judge of chains of thought, for trimming: does a segment say an answer, and do two say the same one?

It learns from questions that are made of the run's own chains (`data.segment_judging`), by answering Yes or No at once.
`eval.trim.verifier` names its stage; then one prefill says what it would answer.
"""

import dataclasses
from collections.abc import Sequence

from colar_jax.data.problems import Problem
from colar_jax.data.segment_judging import judge_problems
from colar_jax.data.segments import PLACES
from colar_jax.methods.no_cot import NoCot
from colar_jax.settings import split_names
from colar_jax.settings.checks import one_of, require


@dataclasses.dataclass(frozen=True)
class SegmentJudge(NoCot):
    """Answer only, of questions about chains; what it reads has to be what `eval.trim` shows it."""

    group = "segment_judge"
    answers_problems = False

    cues: str = "Wait,But,Alternatively,Hmm"  # words that begin a reflection
    cue_after: str = "line"  # where they stand: at the start of any line, or after a blank_line
    sentences: int = 1  # at a segment's end

    def __post_init__(self):
        one_of("segment_judge.cue_after", self.cue_after, tuple(PLACES))
        require(self.sentences > 0, f"segment_judge.sentences={self.sentences} must be positive")

    def problems_of(self, problems: Sequence[Problem], seed: int) -> list[Problem]:
        return judge_problems(problems, split_names(self.cues), self.cue_after, self.sentences, seed)
