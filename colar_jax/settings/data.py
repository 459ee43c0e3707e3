"""Settings of the data."""

import dataclasses

from colar_jax.settings.checks import require
from colar_jax.settings.resuming import observing


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where problems come from: names that `data.problems.load_problems` knows, files, folders or hub ids."""

    train: str = observing("arithmetic")  # a checkpoint knows the problems by content
    val: str = observing("")  # empty: the source of `train` has one; a single file's is part of it (`held_out`)
    test: str = observing("")  # `name=source; name=source`; empty: as `val`
    tokenizer: str = "embedded:arithmetic"  # a folder or hub id; with model.base, this default or "": the base's own
    train_limit: int = observing(0)  # 0: all; a generator needs a number
    num_val: int = observing(256)  # problems that validation during training decodes
    num_test: int = observing(0)  # 0: all; a generator needs a number
    # Of a single file, this many last problems are its test set, and as many before them its validation set, whatever
    # `val` and `test` name. -1: a tenth of it, at most 500; 0: none, for a file that is all for training.
    held_out: int = observing(-1)
    allow_overlap: bool = observing(False)  # whether a question may stand in two splits
    # Problems of a set that would be judged wrong if a model said them perfectly: so many may be, below 1 such a share.
    max_unreadable: float = observing(0.0)
    verifier: str = "numeric"  # how an answer is compared: `data.answers.VERIFIERS`

    def __post_init__(self):
        require(bool(self.train), "data.train is empty: name a source, a .jsonl file or a folder")
        for field in ("train_limit", "num_test"):
            require(getattr(self, field) >= 0, f"data.{field}={getattr(self, field)} is negative: 0 means all")
        require(self.num_val > 0, f"data.num_val={self.num_val}: validation needs at least one problem")
        require(
            self.held_out >= -1,
            f"data.held_out={self.held_out}: a number of problems, 0 for none, or -1 for a tenth of the file",
        )
        require(self.max_unreadable >= 0, f"data.max_unreadable={self.max_unreadable} is negative: 0 means none")
