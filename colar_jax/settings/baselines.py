"""Settings of the baselines that have their own: iCoT, Coconut and CODI (docs/methods.md)."""

import dataclasses

from colar_jax.settings.checks import one_of, require


@dataclasses.dataclass(frozen=True)
class IcotConfig:
    """How the steps disappear (arXiv 2405.14838, section 3)."""

    unit: str = "token"  # what is removed one by one, from the front: token, or step
    removed_per_epoch: float = 8.0
    removed_at_start: int = 0  # 1 with unit="step" is how CoLaR's authors train it
    all_beyond: int = 0  # when so many are to be removed, all are; 0: the longest chain
    smoothing: float = 4.0  # lambda: an example has n more removed with probability ~ exp(-lambda n); 0: never
    reset_optimizer: bool = True  # forget the moments whenever one more is removed

    def __post_init__(self):
        one_of("icot.unit", self.unit, ("token", "step"))
        require(self.removed_per_epoch > 0, f"icot.removed_per_epoch={self.removed_per_epoch} must be positive")
        for field in ("removed_at_start", "all_beyond", "smoothing"):
            require(getattr(self, field) >= 0, f"icot.{field}={getattr(self, field)} is negative")


@dataclasses.dataclass(frozen=True)
class CoconutConfig:
    """The curriculum of continuous thoughts (arXiv 2412.06769, section 3): stage s has s steps replaced by latents."""

    num_stages: int = 3
    latents_per_stage: int = 2
    epochs_per_stage: float = 3.0
    final_stage: bool = True  # one more stage, without any step left; False: the last stage is that, as CoLaR's authors
    reset_optimizer: bool = True  # forget the moments when a stage begins

    def __post_init__(self):
        for field in ("num_stages", "latents_per_stage", "epochs_per_stage"):
            require(getattr(self, field) > 0, f"coconut.{field}={getattr(self, field)} must be positive")

    @property
    def max_latents(self) -> int:
        """How many latents a trained model thinks."""
        return self.num_stages * self.latents_per_stage


@dataclasses.dataclass(frozen=True)
class CodiConfig:
    """Self-distillation of a chain of thought into latents (arXiv 2502.21074)."""

    num_latents: int = 6
    teacher_weight: float = 1.0  # alpha, of the chain of thought's cross-entropy
    student_weight: float = 1.0  # beta, of the answer's after the latents
    distill_weight: float = 20.0  # gamma
    normalise: bool = True  # each layer's distance in units of the teacher's standard deviation there

    def __post_init__(self):
        require(self.num_latents > 0, f"codi.num_latents={self.num_latents} must be positive")
        for field in ("teacher_weight", "student_weight", "distill_weight"):
            require(getattr(self, field) >= 0, f"codi.{field}={getattr(self, field)} is negative")
