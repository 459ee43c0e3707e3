"""Settings of the data."""

import dataclasses

from colar_jax.settings.checks import require
from colar_jax.settings.on_resume import observing


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where problems come from: names that `data.sources.load_problems` knows, files, folders or hub ids."""

    train: str = observing("arithmetic")  # a checkpoint knows the problems by content
    val: str = observing("")  # empty: from the source of `train`; of a single file a part of it (`held_out`)
    test: str = observing("")  # `name=source; name=source`; empty: from the source of `train`, as with `val`
    tokenizer: str = "embedded:arithmetic"  # a folder or hub id; with model.base, this default or "": the base's own
    train_limit: int = observing(0)  # 0: all; a generator needs a number
    num_val: int = observing(256)  # problems that each validation decodes
    num_test: int = observing(0)  # 0: all; a generator needs a number
    # Of a single file the last `held_out` problems are the test set, the `held_out` before them the validation set,
    # whatever `val` and `test` name. -1: a tenth of the file each, at most 500; 0: none, all of it is for training.
    held_out: int = observing(-1)
    allow_overlap: bool = observing(False)  # whether a question may stand in two splits
    # How many problems of a set may be such that even their exact answer would be judged wrong (a number, or below 1 a
    # share of the set). More are an error.
    max_unreadable: float = observing(0.0)
    verifier: str = "numeric"  # says whether an answer is right: numeric, exact, math; or package.module:function

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
