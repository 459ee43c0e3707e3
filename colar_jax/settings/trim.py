"""Settings of trimming: where a chain of thought in words is ended by a verifier that watches it."""

import dataclasses

from colar_jax.settings.checks import one_of, parse_positive, require, split_names


@dataclasses.dataclass(frozen=True)
class TrimConfig:
    """Verifier-based trimming of chains in words, without training (TrimR, arXiv 2505.17155; docs/evaluation.md)."""

    # What says whether a segment states an answer, and whether two agree: a stage of this run or a stage folder of
    # another (method segment_judge), or a base model as a Hugging Face folder or hub id. Empty: nothing is trimmed.
    verifier: str = ""
    agreements: str = "2"  # thinking ends after so many agreements in a row; each number of the list is a row
    cues: str = "Wait,But,Alternatively,Hmm"  # words that begin a reflection, and so end the segment before it
    cue_after: str = "blank_line"  # where such a word has to stand: after a blank_line, or at the start of any line
    sentences: int = 3  # the verifier reads so many sentences at a segment's end, a line being one at least
    chunk: int = 64  # tokens that are thought between two looks; what is thought meanwhile may have to be discarded
    budget_share: float = (
        0.0  # thinking without agreement ends at this share of decode.max_step_tokens; 0: at that limit
    )
    max_segments: int = 0  # and after so many segments; 0: any number
    repeat_window: int = 0  # and where the same so many tokens have come `repeat_times` times; 0: never
    repeat_times: int = 4  # how often they have to come
    answer_cue: str = ""  # words that are added to a chain that is ended so, before ###

    def __post_init__(self):
        parse_positive("eval.trim.agreements", self.agreements, int)
        require(bool(split_names(self.cues)), f"eval.trim.cues={self.cues!r} names no word: write some, as in Wait,But")
        one_of("eval.trim.cue_after", self.cue_after, ("blank_line", "line"))
        for field in ("sentences", "chunk"):
            require(getattr(self, field) > 0, f"eval.trim.{field}={getattr(self, field)} must be positive")
        for field in ("max_segments", "repeat_window"):
            require(getattr(self, field) >= 0, f"eval.trim.{field}={getattr(self, field)} is negative: 0 means none")
        require(self.repeat_times > 1, f"eval.trim.repeat_times={self.repeat_times}: the first time is no repeat")
        require(
            0 <= self.budget_share <= 1,
            f"eval.trim.budget_share={self.budget_share} is not between 0 and 1: a share of decode.max_step_tokens",
        )
        require(
            not self.verifier or bool(self.agreements.strip()),
            "eval.trim.agreements is empty: name how many agreements end the thinking, such as 2",
        )
