"""Settings of a stage: its optimizer, and what it learns from."""

import dataclasses

from colar_jax.config.rl import RlConfig
from colar_jax.methods import Method, find_method
from colar_jax.settings.checks import one_of, require
from colar_jax.settings.on_resume import adjustable, execution, observing


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW or Muon, with clipping, a linear warm-up and a schedule."""

    # adamw; or muon: the matrices of layers and heads by Muon, all else (embedding, language head, norms, biases) by
    # AdamW. Its updates are as large as AdamW's, so that learning rate and decay mean the same for both.
    name: str = "adamw"
    learning_rate: float = adjustable(1e-4)  # the highest, reached after the warm-up
    weight_decay: float = adjustable(0.01)  # decoupled, of all that is trained
    b1: float = adjustable(0.9)  # decay of AdamW's average of gradients
    b2: float = adjustable(0.999)  # decay of AdamW's average of squared gradients
    momentum: float = adjustable(0.95)  # decay of Muon's average of gradients
    clip_norm: float = adjustable(1.0)  # larger gradients are scaled down to this norm; published SFT does not clip
    schedule: str = adjustable("cosine")  # after the warm-up: cosine (to `final_fraction`) or constant
    # The rate rises linearly from 0: update k of k = 0, 1, ... has k / warmup_steps of it. So the first update of a
    # warm-up changes no parameter; it only starts AdamW's averages.
    warmup_steps: int = adjustable(0)
    final_fraction: float = adjustable(0.0)  # the cosine ends at this share of the learning rate

    def __post_init__(self):
        one_of("optimizer.name", self.name, ("adamw", "muon"))
        require(self.learning_rate > 0, f"optimizer.learning_rate={self.learning_rate} must be positive")
        require(self.clip_norm > 0, f"optimizer.clip_norm={self.clip_norm} must be positive")
        require(self.weight_decay >= 0, f"optimizer.weight_decay={self.weight_decay} is negative")
        for field in ("b1", "b2", "momentum"):
            require(0 <= getattr(self, field) < 1, f"optimizer.{field}={getattr(self, field)} is not in [0, 1)")
        one_of("optimizer.schedule", self.schedule, ("cosine", "constant"))
        require(
            0 <= self.final_fraction <= 1,
            f"optimizer.final_fraction={self.final_fraction} is not between 0 and 1: a share of the learning rate",
        )
        require(self.warmup_steps >= 0, f"optimizer.warmup_steps={self.warmup_steps} is negative")


def unread_by(trainer: str) -> tuple[str, ...]:
    """The settings of a stage that a trainer does not read; none of a trainer that does not exist.

    Where rewards are learned from, a row is a group of rollouts (`rl.minibatch_size`), as long as `decode` lets it be.
    Its step computes what the decoder did, and has to be as precise.
    """
    if trainer == "sft":
        return ("rl",)
    return ("rows", "row_positions", "matmul_precision") if trainer == "grpo" else ()


# As `jax.default_matmul_precision` names them.
MATMUL_PRECISIONS = ("bfloat16", "tensorfloat32", "float32")


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """One stage of a run: a method, its data order, its optimizer, and where it starts."""

    method: str = "cot"  # cot, colar, no_cot, ... (docs/methods.md has all), or package.module:NAME
    trainer: str = "sft"  # sft: learn from the data's reasoning; grpo: from rewards, as the group `rl` says
    init_from: str = ""  # a stage of this run or a stage folder of another; empty: the stage before, else random
    steps: int = adjustable(0)  # optimizer steps; 0: use `epochs`
    epochs: float = adjustable(1.0)  # passes over the training set (of RL: rl.questions_per_epoch)
    # Packed rows in one optimizer step, over all devices; with empty ones where the devices do not divide them.
    rows: int = adjustable(16)
    # Positions in a row (of icot, coconut and codi: about); longer examples are left out, and counted.
    row_positions: int = adjustable(256)
    accumulation: int = execution(1)  # a batch is computed in so many parts, to save memory
    # Of the operands of float32 products in a training step: default (the platform's own), bfloat16 (linear layers on a
    # CPU: faster where it has matrix units), tensorfloat32, float32. Sums are float32; decoding has the platform's own.
    matmul_precision: str = adjustable("default")
    log_every: int = observing(20)  # steps between lines of metrics
    eval_every: int = observing(0)  # steps between validations, each with a checkpoint; 0: at the end only
    save_every: int = observing(0)  # steps between checkpoints without validation; 0: none
    save_minutes: float = observing(10.0)  # after so many without a checkpoint there is one, too; 0: none
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    bound_method: Method | None = None  # `method` with its settings, which users see as `Method.group`; None: defaults
    rl: RlConfig = dataclasses.field(default_factory=RlConfig)  # shown where trainer is grpo

    def __post_init__(self):
        kind = find_method(self.method)
        if self.bound_method is None:
            object.__setattr__(self, "bound_method", kind())
        if type(self.bound_method) is not kind:
            raise ValueError(f"{self.bound_method} is not bound to method={self.method!r}")
        require(
            kind.group not in [field.name for field in dataclasses.fields(self)],
            f"stage.method={self.method!r} calls its settings {kind.group!r}, as every stage has: rename its group",
        )
        one_of("stage.trainer", self.trainer, ("sft", "grpo"))
        one_of("stage.matmul_precision", self.matmul_precision, ("default", *MATMUL_PRECISIONS))
        for field in ("rows", "row_positions", "accumulation", "log_every"):
            require(getattr(self, field) > 0, f"stage.{field}={getattr(self, field)} must be positive")
        for field in ("steps", "eval_every", "save_every", "save_minutes"):
            require(getattr(self, field) >= 0, f"stage.{field}={getattr(self, field)} is negative")
        require(self.steps > 0 or self.epochs > 0, "a stage needs stage.steps or stage.epochs above 0")
        rows, what = self.rows, "stage.rows"
        if self.trainer == "grpo":
            rows = self.rl.minibatch_size // self.rl.num_generations * self.rl.speeds_per_group
            what = "of a minibatch: rl.minibatch_size / rl.num_generations, times rl.speeds_per_group"
        require(
            self.accumulation <= rows,
            f"stage.accumulation={self.accumulation} is more than there are rows: {rows} ({what})",
        )

    def shown_as(self, field: str) -> str:
        """What users call one of the fields; empty for one that this stage does not read."""
        if field == "bound_method":
            return self.bound_method.group if dataclasses.fields(self.bound_method) else ""
        return "" if field in unread_by(self.trainer) else field
