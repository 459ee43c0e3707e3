"""iCoT: the steps disappear token by token, or step by step, until the answer follows the question (arXiv 2405.14838).

    loss = mean cross-entropy over what is left of the steps, `###` and the answer

Decoded as in the end of its training: `###` twice, and the answer.
"""

import dataclasses

import numpy as np

from colar_jax.data import packing
from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.layout import Supervision, lay_out
from colar_jax.data.packing import Batch, RowShape
from colar_jax.data.prompts import AUTO_SPEED
from colar_jax.data.recipe import Recipe
from colar_jax.methods.method import Method, Thinking, word_thinking
from colar_jax.methods.thinking.schedule import TokenRemoval
from colar_jax.methods.thinking.staged_loader import Dealt, Room, StagedLoader, examples_that_fit
from colar_jax.settings import DecodeConfig
from colar_jax.settings.checks import one_of, require


class _Rows:
    """Ordinary packed rows; what is supervised is known to be the end of each example, from its last `###` on."""

    def sizes(self, encoded: EncodedProblems, kept_N: np.ndarray, examples_N=slice(None)) -> np.ndarray:
        questions_N = encoded.prompt_lengths(AUTO_SPEED)[examples_N]
        return np.stack([questions_N - 1, 2 + kept_N + encoded.answer_lengths[examples_N]], axis=1)

    def fill(self, encoded: EncodedProblems, rows: list[list[Dealt]], room: Room) -> Batch:
        positions = sum(room.positions)
        layouts = [[_lay_out(encoded, example, removed) for example, removed, _ in row] for row in rows]
        return packing.fill(layouts, RowShape(positions, tokens=positions, supervised=room.positions[1]))


def _lay_out(encoded: EncodedProblems, example: int, removed: int):
    step_ids = encoded.steps[example][removed:]
    prompt_ids, answer_ids = encoded.prompt(example, AUTO_SPEED), encoded.answers[example]
    no_draw = np.zeros(len(step_ids))
    return lay_out(prompt_ids, step_ids, answer_ids, encoded.separator_id, 1.0, no_draw, Supervision(latents=False))


@dataclasses.dataclass(frozen=True)
class Icot(Method):
    """How the steps disappear (arXiv 2405.14838, section 3)."""

    group = "icot"

    unit: str = "token"  # what is removed one by one, from the front: token, or step
    removed_per_epoch: float = 8.0  # how many more units each epoch removes
    removed_at_start: int = 0  # 1 with unit="step" is how CoLaR's authors train it
    all_beyond: int = 0  # when so many are to be removed, all are; 0: the longest chain that fits a row
    smoothing: float = 4.0  # lambda: an example has n more removed with probability ~ exp(-lambda n); 0: never
    reset_optimizer: bool = True  # forget the moments whenever one more is removed

    def __post_init__(self):
        one_of("icot.unit", self.unit, ("token", "step"))
        require(self.removed_per_epoch > 0, f"icot.removed_per_epoch={self.removed_per_epoch} must be positive")
        for field in ("removed_at_start", "all_beyond", "smoothing"):
            require(getattr(self, field) >= 0, f"icot.{field}={getattr(self, field)} is negative")

    @property
    def recipe(self) -> Recipe:
        return Recipe(speeds=(1.0,), prompt_speed=AUTO_SPEED)

    def make_loader(self, encoded: EncodedProblems, *, seed: int, rows: int, row_positions: int) -> StagedLoader:
        fitting = examples_that_fit(encoded, _Rows(), row_positions)
        schedule = TokenRemoval(
            self.unit,
            self.removed_per_epoch,
            self.removed_at_start,
            last=self.all_beyond or self._longest(encoded, fitting),
            smoothing=self.smoothing,
            resets_optimizer=self.reset_optimizer,
        )
        return StagedLoader(encoded, schedule, _Rows(), seed=seed, rows=rows, row_positions=row_positions)

    def _longest(self, encoded: EncodedProblems, examples: np.ndarray) -> int:
        """The most units that the chain of one of these examples has; 0 without any."""
        if self.unit == "token":
            return int(encoded.step_lengths[examples].max(initial=0))
        return max((len(encoded.problems[example].steps) for example in examples), default=0)

    def thinking(self, decode: DecodeConfig, separator_id: int, *, greedy: bool) -> Thinking:
        return word_thinking(decode, separator_id, greedy=greedy, max_thoughts=0)
