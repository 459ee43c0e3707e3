"""Settings of the data."""

import dataclasses

from colar_jax.config.checks import require
from colar_jax.config.resuming import observing


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where problems come from: names that `data.problems.load_problems` knows, files, folders or hub ids."""

    train: str = observing("arithmetic")  # a checkpoint knows the problems by content
    val: str = observing("")  # empty: the source of `train` has one, or `held_out` problems are taken from its end
    test: str = observing("")  # `name=source` pairs split by commas; empty: as `val`, under the name "test"
    tokenizer: str = "embedded:arithmetic"  # a folder or hub id; with model.base, this default or "": the base's own
    train_limit: int = observing(0)  # 0: all; a generator needs a number
    num_val: int = observing(256)  # problems that validation during training decodes
    num_test: int = observing(0)  # 0: all; a generator needs a number
    held_out: int = observing(500)  # problems taken from the end of `train` when a source has no split of its own
    allow_overlap: bool = observing(False)  # whether a question may stand in two splits
    verifier: str = "numeric"  # how an answer is compared: `data.answers.VERIFIERS`

    def __post_init__(self):
        require(bool(self.train), "data.train is empty: name a source, a .jsonl file or a folder")
        for field in ("train_limit", "num_test"):
            require(getattr(self, field) >= 0, f"data.{field}={getattr(self, field)} is negative: 0 means all")
        require(self.num_val > 0, f"data.num_val={self.num_val}: validation needs at least one problem")
        require(self.held_out > 0, f"data.held_out={self.held_out}: hold out at least one problem")
