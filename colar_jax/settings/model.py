"""Settings of the model, its latent head and its adapters."""

import dataclasses

from colar_jax.settings.checks import one_of, require, split_names
from colar_jax.settings.on_resume import adjustable, execution


@dataclasses.dataclass(frozen=True)
class LatentHeadSettings:
    """The Gaussian head beside the language head."""

    intermediate_size: int = 0  # 0: the model's hidden size
    deterministic: bool = False  # ablation DL: no standard deviation; needs latent.loss="soft_mse"
    min_log_std: float = -6.0  # bounds of the log standard deviation, in embedding scales
    max_log_std: float = 2.0  # the upper one

    def __post_init__(self):
        require(self.intermediate_size >= 0, f"model.latent_head.intermediate_size={self.intermediate_size} < 0")
        require(
            self.min_log_std < self.max_log_std,
            f"model.latent_head: min_log_std={self.min_log_std} is not below max_log_std={self.max_log_std}",
        )


# The linear layers of a block, by our name and by Hugging Face's.
PROJECTIONS = {
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "out": "o_proj",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
}


def parse_targets(text: str) -> tuple[str, ...]:
    """Our names of the layers in text such as `query,value` or `q_proj,v_proj`, in the order of `PROJECTIONS`.

    UserError for a name that is none.
    """
    names = split_names(text)
    ours_of_theirs = {theirs: ours for ours, theirs in PROJECTIONS.items()}
    for name in names:
        one_of("a target of model.lora.targets", name, (*PROJECTIONS, *ours_of_theirs))
    targets = {ours_of_theirs.get(name, name) for name in names}
    return tuple(ours for ours in PROJECTIONS if ours in targets)


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters on a frozen model (`model.lora`): then they and the latent head are all that is trained."""

    rank: int = 0  # 0: no adapters, everything is trained; the paper has 128
    alpha: float = 32.0  # the output of an adapter is scaled by alpha / rank; 32 in the paper
    targets: str = "query,value"  # as in the paper; Hugging Face's names (q_proj, ...) are understood as well
    dropout: float = adjustable(0.0)  # of an adapter's input, in training
    init_from: str = ""  # a PEFT folder to start from, of this rank, alpha and these targets; empty: random

    def __post_init__(self):
        require(self.rank >= 0, f"model.lora.rank={self.rank} is negative: 0 means no adapters")
        require(self.alpha > 0, f"model.lora.alpha={self.alpha} must be positive")
        require(bool(parse_targets(self.targets)), "model.lora.targets is empty: name layers, such as query,value")
        require(0 <= self.dropout < 1, f"model.lora.dropout={self.dropout} is not in [0, 1)")
        require(
            self.rank > 0 or not self.init_from,
            f"model.lora.init_from={self.init_from!r} with model.lora.rank=0: set the rank of that adapter",
        )


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a model is computed. None of it says what the model is: results differ by rounding at most."""

    dtype: str = "float32"  # of activations
    remat: str = "none"  # what the backward pass recomputes: none, dots, full
    scan_layers: bool = True
    logits_chunk: int = 8192  # supervised positions whose logits are in memory at a time


PLAINLY = Compute()


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What the model is, and (`compute`) how it is computed."""

    # A Hugging Face folder, a GGUF file, either in an installed package (package:<package>/<file>), or a hub id
    # (owner/name[@revision]) to start from; empty: random weights.
    base: str = ""
    preset: str = "nano"  # without a base: pico, nano, micro, or the size of a published model (docs/base_models.md)
    dtype: str = adjustable("float32")  # of activations; trained parameters, softmax and losses are float32
    base_dtype: str = adjustable("float32")  # of weights that adapters keep frozen; bfloat16 halves their memory
    remat: str = execution("none")  # what the backward pass recomputes: none, dots (all but matmuls), full
    scan_layers: bool = execution(True)  # False: a Python loop, to step through with JAX_DISABLE_JIT=1
    logits_chunk: int = execution(8192)  # supervised positions whose logits are in memory at a time
    latent_head: LatentHeadSettings = dataclasses.field(default_factory=LatentHeadSettings)
    lora: LoraSettings = dataclasses.field(default_factory=LoraSettings)

    def __post_init__(self):
        one_of("model.dtype", self.dtype, ("float32", "bfloat16"))
        one_of("model.base_dtype", self.base_dtype, ("float32", "bfloat16"))
        require(
            self.base_dtype == "float32" or self.lora.rank > 0,
            f"model.base_dtype={self.base_dtype!r} with model.lora.rank=0: weights that are trained are float32; train "
            "adapters (model.lora.rank), or use model.dtype='bfloat16' to compute in bfloat16",
        )
        one_of("model.remat", self.remat, ("none", "dots", "full"))
        require(self.logits_chunk > 0, f"model.logits_chunk={self.logits_chunk} must be positive")

    @property
    def compute(self) -> Compute:
        """The settings that say how the model is computed, and nothing of what it is."""
        return Compute(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Compute)})
