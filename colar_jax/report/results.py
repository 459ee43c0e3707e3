"""What one measurement found: every answer of one stage on one data set, at one speed, decoded in one way."""

import dataclasses
import math

import numpy as np

from colar_jax.data.prompts import AUTO_SPEED
from colar_jax.errors import UserError
from colar_jax.evaluation.cost import Cost
from colar_jax.statistics.intervals import Interval, mean_over_seeds, wilson
from colar_jax.statistics.repeated import majority_at_k, pass_at_k

NO_SPEED = "-"
AS_CONFIGURED = "-"
SAMPLINGS = ("greedy", "sampled")
THOUGHTS = ("latents", "words", "")


@dataclasses.dataclass(frozen=True)
class Way:
    """How something was decoded, in words: what makes a row of a table, whatever the data set."""

    run: str  # "" where there is one run only
    stage: str  # "cot", "colar", ...
    speed: str  # "2", "1.5", "auto", or "-" for a method that has none
    latent_limit: str  # "8", or "-": as the run's config has it
    temperature: str  # "0.7" for all that is sampled, or "-": as the run's config has it
    sampling: str  # "greedy" or "sampled"
    trim: str = AS_CONFIGURED  # "2": chains end after so many agreements; "-": they are left alone

    @property
    def name(self) -> str:
        """As in "colar, speed 2, sampled"."""
        parts = [
            f"{self.run}: {self.stage}" if self.run else self.stage,
            "" if self.speed == NO_SPEED else f"speed {self.speed}",
            "" if self.latent_limit == AS_CONFIGURED else f"#L at most {self.latent_limit}",
            "" if self.temperature == AS_CONFIGURED else f"temperature {self.temperature}",
            "" if self.trim == AS_CONFIGURED else f"trimmed at {self.trim}",
            self.sampling,
        ]
        return ", ".join(filter(None, parts))


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """One stage decoded on one data set, question by question; what a table says of it is derived from here.

    S counts seeds, N different questions; every seed answers the same N questions. A length is #L: how many positions
    the reasoning took (latent forward passes, or step tokens for CoT).

    Raises:
        UserError: a field has a wrong value, shape or dtype; the message names it.
    """

    stage: str  # "cot", "colar", ...
    dataset: str  # "arithmetic", "gsmhard", ...
    speed: str  # "2", "1.5", "auto", or "-" for a method that has none
    sampling: str  # "greedy" or "sampled"
    right_SN: np.ndarray  # bool: the answer is right
    lengths_SN: np.ndarray  # integers: #L
    forced_stops_SN: np.ndarray  # bool: the reasoning was cut at its limit, it did not stop by itself
    run: str = ""  # which run, where a report has several
    method: str = ""  # what the stage trained
    latent_limit: str = AS_CONFIGURED
    temperature: str = AS_CONFIGURED
    trim: str = AS_CONFIGURED
    was_trained: bool = True  # whether the stage's training had this speed
    questions: str = ""  # a digest of the questions: results with the same one can be compared question by question
    votes_SN: np.ndarray | None = None  # equal where two seeds gave a question the same answer (`repeated.votes_of`)
    cost: Cost | None = None  # of an answer
    measured_SN: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # by name, as far as recorded
    thinks_in: str = ""  # "latents", "words", or "" for neither
    needed_length: float | None = None  # mean #L of chains without what carries nothing, where the data knows it

    def __post_init__(self):
        if self.speed not in (NO_SPEED, AUTO_SPEED) and not _is_positive_number(self.speed):
            raise UserError(
                f"speed must be a positive number as text, {AUTO_SPEED!r} or {NO_SPEED!r}, got {self.speed!r}"
            )
        for name in ("latent_limit", "temperature", "trim"):
            text = getattr(self, name)
            if text != AS_CONFIGURED and not _is_positive_number(text):
                raise UserError(f"{name} must be a positive number as text, or {AS_CONFIGURED!r}, got {text!r}")
        if self.sampling not in SAMPLINGS:
            raise UserError(f"sampling must be one of {SAMPLINGS}, got {self.sampling!r}")
        if self.thinks_in not in THOUGHTS:
            raise UserError(f"thinks_in must be one of {THOUGHTS}, got {self.thinks_in!r}")
        kinds = {"right_SN": np.bool_, "lengths_SN": np.integer, "forced_stops_SN": np.bool_}
        for name, kind in kinds.items():
            if not np.issubdtype(getattr(self, name).dtype, kind):
                raise UserError(f"{name} must be of {kind.__name__} dtype, got {getattr(self, name).dtype}")
        for name, array in ({name: getattr(self, name) for name in kinds} | self.measured_SN).items():
            if array.ndim != 2 or array.size == 0 or array.shape != self.right_SN.shape:
                raise UserError(
                    f"right_SN, lengths_SN, forced_stops_SN and measures must share one shape [seeds, questions] "
                    f"that is not empty, got {name} of shape {array.shape} beside right_SN of shape "
                    f"{self.right_SN.shape}"
                )

    @property
    def way(self) -> Way:
        """The table row that this is in."""
        return Way(self.run, self.stage, self.speed, self.latent_limit, self.temperature, self.sampling, self.trim)

    @property
    def num_seeds(self) -> int:
        return self.right_SN.shape[0]

    @property
    def num_questions(self) -> int:
        return self.right_SN.shape[1]

    @property
    def accuracy_S(self) -> np.ndarray:
        """The share of right answers of each seed, 0 to 1."""
        return self.right_SN.mean(axis=1, dtype=np.float64)

    @property
    def accuracy_over_seeds(self) -> Interval:
        """Accuracy and its t-interval over seeds (ends None for one seed)."""
        return mean_over_seeds(self.accuracy_S)

    @property
    def accuracy_over_questions(self) -> Interval:
        """Accuracy and its Wilson interval over the N questions: right answers are averaged over seeds, n stays N."""
        return wilson(int(self.right_SN.sum()) / self.num_seeds, self.num_questions)

    @property
    def mean_length(self) -> float:
        """Mean #L over all examples of all seeds: the exact sum over their number, never a mean over batches."""
        return int(self.lengths_SN.sum(dtype=np.int64)) / self.lengths_SN.size

    @property
    def length_over_seeds(self) -> Interval:
        """Mean #L and its t-interval over seeds (ends None for one seed)."""
        return mean_over_seeds(self.lengths_SN.mean(axis=1, dtype=np.float64))

    @property
    def right_share_N(self) -> np.ndarray:
        """How often each question was answered right, 0 to 1, over the seeds."""
        return self.right_SN.mean(axis=0, dtype=np.float64)

    @property
    def pass_at(self) -> dict[int, float]:
        """pass@k by k: 1, 2, 4, ... and the number of seeds; empty for one seed."""
        return {k: pass_at_k(self.right_SN, k) for k in _sample_sizes(self.num_seeds)}

    @property
    def majority_at(self) -> dict[int, float]:
        """majority@k by k, as `pass_at`; empty where it is not known which answers were the same."""
        if self.votes_SN is None:
            return {}
        return {k: majority_at_k(self.right_SN, self.votes_SN, k) for k in _sample_sizes(self.num_seeds)}

    @property
    def forced_stop_share(self) -> float:
        """The share of examples, 0 to 1, whose reasoning was cut at its limit: their #L says little."""
        return int(self.forced_stops_SN.sum()) / self.forced_stops_SN.size

    def mean_of(self, measure: str) -> float | None:
        """The mean of a measure over all examples, of a flag the share that has it; None where it was not recorded."""
        values_SN = self.measured_SN.get(measure)
        return None if values_SN is None else float(values_SN.mean(dtype=np.float64))


def _sample_sizes(num_seeds: int) -> list[int]:
    """1, 2, 4, ... and `num_seeds`; none for one seed."""
    powers = [2**i for i in range(num_seeds.bit_length()) if 2**i < num_seeds]
    return [*powers, num_seeds] if num_seeds > 1 else []


def _is_positive_number(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False
