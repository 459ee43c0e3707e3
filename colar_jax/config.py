"""Every setting of a run: frozen dataclasses, each field with its reason, each value checked once at start-up.

A config file (`configs/*.py`) fills a `ConfigDict` made by `defaults()`, flags override it, and `resolve()` makes these
dataclasses of it. All that is wrong in it is one `ValueError` that names the field, the value and the fix.
"""

import dataclasses
import difflib
import math
import types
import typing
from typing import Any

import ml_collections


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def parse_speeds(text: str) -> tuple[float | str, ...]:
    """Thinking speeds from text such as `1,1.5,2,auto`; ValueError for anything but numbers from 1 up and `auto`."""
    speeds: list[float | str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            speed = part if part == "auto" else float(part)
        except ValueError:
            speed = math.nan
        if speed != "auto" and not (1 <= speed < math.inf):
            raise ValueError(f"{part!r} is no thinking speed: a number of at least 1 (tokens per latent), or auto")
        speeds.append(speed)
    return tuple(speeds)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where problems come from: names that `data.problems.load_problems` knows, files, folders or hub ids."""

    train: str = "arithmetic"
    val: str = ""  # empty: the source of `train` has one, or `held_out` problems are taken from its end
    test: str = ""  # `name=source` pairs split by commas; empty: as `val`, under the name "test"
    tokenizer: str = "embedded:arithmetic"  # a folder or hub id; with model.base, this default or "": the base's own
    train_limit: int = 0  # 0: all; a generator needs a number
    num_val: int = 256  # problems that validation during training decodes
    num_test: int = 0  # 0: all; a generator needs a number
    held_out: int = 500  # problems taken from the end of `train` when a source has no split of its own
    allow_overlap: bool = False  # whether a question may stand in two splits
    verifier: str = "numeric"  # how an answer is compared: `data.answers.VERIFIERS`

    def __post_init__(self):
        _require(bool(self.train), "data.train is empty: name a source, a .jsonl file or a folder")
        for field in ("train_limit", "num_test"):
            _require(getattr(self, field) >= 0, f"data.{field}={getattr(self, field)} is negative: 0 means all")
        _require(self.num_val > 0, f"data.num_val={self.num_val}: validation needs at least one problem")
        _require(self.held_out > 0, f"data.held_out={self.held_out}: hold out at least one problem")


@dataclasses.dataclass(frozen=True)
class LatentHeadSettings:
    """The Gaussian head beside the language head."""

    intermediate_size: int = 0  # 0: the model's hidden size
    deterministic: bool = False  # ablation DL: no standard deviation; needs latent_loss="soft_mse"
    min_log_std: float = -6.0
    max_log_std: float = 2.0

    def __post_init__(self):
        _require(self.intermediate_size >= 0, f"model.latent_head.intermediate_size={self.intermediate_size} < 0")
        _require(
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

    ValueError for a name that is none.
    """
    names = split_names(text)
    ours_of_theirs = {theirs: ours for ours, theirs in PROJECTIONS.items()}
    for name in names:
        _one_of("a target of model.lora.targets", name, (*PROJECTIONS, *ours_of_theirs))
    targets = {ours_of_theirs.get(name, name) for name in names}
    return tuple(ours for ours in PROJECTIONS if ours in targets)


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters on a frozen model (`model.lora`): then they and the latent head are all that is trained."""

    rank: int = 0  # 0: no adapters, everything is trained; the paper has 128
    alpha: float = 32.0  # an adapter counts alpha / rank; 32 in the paper
    targets: str = "query,value"  # as in the paper; Hugging Face's names (q_proj, ...) are understood as well
    dropout: float = 0.0  # of an adapter's input, in training
    init_from: str = ""  # a PEFT folder to start from, of this rank, alpha and these targets; empty: random

    def __post_init__(self):
        _require(self.rank >= 0, f"model.lora.rank={self.rank} is negative: 0 means no adapters")
        _require(self.alpha > 0, f"model.lora.alpha={self.alpha} must be positive")
        _require(bool(parse_targets(self.targets)), "model.lora.targets is empty: name layers, such as query,value")
        _require(0 <= self.dropout < 1, f"model.lora.dropout={self.dropout} is not in [0, 1)")
        _require(
            self.rank > 0 or not self.init_from,
            f"model.lora.init_from={self.init_from!r} with model.lora.rank=0: set the rank of that adapter",
        )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The model and how it computes."""

    base: str = ""  # a Hugging Face folder or hub id (owner/name[@revision]) to start from; empty: random weights
    preset: str = "nano"  # without a base: a name of `model.presets.PRESETS`
    dtype: str = "float32"  # of activations; trained parameters, softmax and losses are float32
    base_dtype: str = "float32"  # in which weights that adapters keep frozen are held; bfloat16 halves their memory
    remat: str = "none"  # what the backward pass recomputes: none, dots (all but matmuls), full
    scan_layers: bool = True  # False: a Python loop, to step through with JAX_DISABLE_JIT=1
    logits_chunk: int = 8192  # supervised positions whose logits exist at a time
    latent_head: LatentHeadSettings = dataclasses.field(default_factory=LatentHeadSettings)
    lora: LoraSettings = dataclasses.field(default_factory=LoraSettings)

    def __post_init__(self):
        _one_of("model.dtype", self.dtype, ("float32", "bfloat16"))
        _one_of("model.base_dtype", self.base_dtype, ("float32", "bfloat16"))
        _require(
            self.base_dtype == "float32" or self.lora.rank > 0,
            f"model.base_dtype={self.base_dtype!r} with model.lora.rank=0: weights that are trained are float32; train "
            "adapters (model.lora.rank), or use model.dtype='bfloat16' to compute in bfloat16",
        )
        _one_of("model.remat", self.remat, ("none", "dots", "full"))
        _require(self.logits_chunk > 0, f"model.logits_chunk={self.logits_chunk} must be positive")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with clipping, a linear warm-up and a schedule."""

    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    clip_norm: float = 1.0  # the published code clips nothing in SFT
    schedule: str = "cosine"  # after the warm-up: cosine (to `final_fraction`) or constant
    warmup_steps: int = 0
    final_fraction: float = 0.0

    def __post_init__(self):
        _require(self.learning_rate > 0, f"optimizer.learning_rate={self.learning_rate} must be positive")
        _require(self.clip_norm > 0, f"optimizer.clip_norm={self.clip_norm} must be positive")
        _require(self.weight_decay >= 0, f"optimizer.weight_decay={self.weight_decay} is negative")
        for field in ("b1", "b2"):
            _require(0 <= getattr(self, field) < 1, f"optimizer.{field}={getattr(self, field)} is not in [0, 1)")
        _one_of("optimizer.schedule", self.schedule, ("cosine", "constant"))
        _require(self.warmup_steps >= 0, f"optimizer.warmup_steps={self.warmup_steps} is negative")


@dataclasses.dataclass(frozen=True)
class LatentConfig:
    """How the CoLaR objective treats compressed steps (METHOD.md section 1)."""

    # One is drawn for each example (one listed twice, twice as often); fractions are group lengths that alternate.
    speeds: str = "1,2,3,4,5"
    auto_probability: float = 0.0  # how often the prompt says "auto" instead of the drawn speed
    loss: str = "soft_mse"  # soft_mse, or nll (for MATH, and before RL)
    weight: float = 1.0  # of the latent loss beside the cross-entropy
    entropy_weight: float = 0.0  # added as weight * entropy: negative rewards entropy
    predicted_pass_weight: float = 0.0  # of the answer's cross-entropy when predictions are fed instead of embeddings
    supervise_steps: bool = True  # ablation OC: False
    pooling: str = "sqrt"  # ablation MP: mean

    def __post_init__(self):
        speeds = parse_speeds(self.speeds)
        _require(
            bool(speeds) and "auto" not in speeds,
            f"latent.speeds={self.speeds!r}: list the numbers to train, as in 1,2,3 (auto has latent.auto_probability)",
        )
        _require(0 <= self.auto_probability <= 1, f"latent.auto_probability={self.auto_probability} is not in [0, 1]")
        _one_of("latent.loss", self.loss, ("soft_mse", "nll"))
        _one_of("latent.pooling", self.pooling, ("sqrt", "mean"))
        _require(self.weight >= 0, f"latent.weight={self.weight} is negative")
        _require(self.predicted_pass_weight >= 0, f"latent.predicted_pass_weight={self.predicted_pass_weight} < 0")


@dataclasses.dataclass(frozen=True)
class RlConfig:
    """Reinforcement learning of a stage whose trainer is "grpo" (docs/rl.md); a step of the stage is an iteration."""

    num_questions: int = 8  # asked in one iteration
    questions_per_epoch: int = 512  # what `stage.epochs` counts in; 0: all training questions
    num_generations: int = 8  # G, rollouts of a question: a group
    speeds_per_group: int = 1  # different prompts of a group, each with a speed drawn from latent.speeds
    rollout_questions: int = 0  # decoded at a time, while the host judges those before; 0: all of an iteration
    minibatch_size: int = 8  # rollouts in one optimizer step, in whole groups
    num_iterations: int = 1  # how often an iteration's rollouts are gone through
    advantage: str = "group"  # (reward - mean) / std of the group, or dr_grpo: no division
    advantage_eps: float = 1e-8  # added to the std
    epsilon: float = 0.2  # ratios are clipped at 1 - epsilon
    epsilon_high: float = 0.2  # and at 1 + epsilon_high: larger than epsilon is DAPO's clip-higher
    loss_aggregation: str = "chain_mean"  # each chain its mean (the paper); configured_length; token
    configured_length: int = 32  # what a chain's sum is divided by in "configured_length"
    decision_weight: float = 1.0  # of the decisions to stop or to go on, beside latents and answer tokens
    beta: float = 0.0  # of the KL divergence to the stage's first policy; the paper has none
    entropy_weight: float = 0.0  # of the latents' entropy, as a bonus
    log_prob_reduction: str = "mean"  # over a latent's dimensions: mean (the paper) or sum
    min_std: float = 0.2  # floor of the latents' standard deviation, in embedding scales; 0: none, as published
    reward: str = "correctness"  # a name of `rl.rewards.REWARDS`, or package.module:function
    length_penalty: float = 0.0  # what of a right answer's reward is lost at decode.max_latents
    skip_solved: bool = False  # whether a question that a whole group got right is not asked again
    stop_on_collapse: bool = True  # False: a collapse is a warning; for ablations that show one

    def __post_init__(self):
        for field in ("num_questions", "num_generations", "minibatch_size", "num_iterations", "configured_length"):
            _require(getattr(self, field) > 0, f"rl.{field}={getattr(self, field)} must be positive")
        _require(self.num_generations > 1, "rl.num_generations=1: a group of one has no advantage; take at least 2")
        for field in ("questions_per_epoch", "rollout_questions"):
            _require(getattr(self, field) >= 0, f"rl.{field}={getattr(self, field)} is negative")
        for field in ("beta", "entropy_weight", "decision_weight", "min_std", "advantage_eps", "length_penalty"):
            _require(getattr(self, field) >= 0, f"rl.{field}={getattr(self, field)} is negative")
        _require(self.length_penalty <= 1, f"rl.length_penalty={self.length_penalty} is above 1: right would cost")
        _require(0 < self.epsilon < 1, f"rl.epsilon={self.epsilon} is not between 0 and 1")
        _require(self.epsilon_high > 0, f"rl.epsilon_high={self.epsilon_high} must be positive")
        _one_of("rl.advantage", self.advantage, ("group", "dr_grpo"))
        _one_of("rl.loss_aggregation", self.loss_aggregation, ("chain_mean", "configured_length", "token"))
        _one_of("rl.log_prob_reduction", self.log_prob_reduction, ("mean", "sum"))
        _require(
            self.speeds_per_group >= 1 and self.num_generations % self.speeds_per_group == 0,
            f"rl.speeds_per_group={self.speeds_per_group} does not divide rl.num_generations={self.num_generations}",
        )
        _require(
            self.minibatch_size % self.num_generations == 0,
            f"rl.minibatch_size={self.minibatch_size} is no multiple of rl.num_generations={self.num_generations}: a "
            "minibatch has whole groups",
        )


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """One stage of a run: a method, its data order, its optimizer, and where it starts."""

    method: str = "cot"  # a name of `methods.METHODS`
    trainer: str = "sft"  # sft: learn from the data's reasoning; grpo: from rewards, as the group `rl` says
    init_from: str = ""  # a stage of this run or a stage folder of another; empty: the stage before, else random
    steps: int = 0  # optimizer steps; 0: use `epochs`
    epochs: float = 1.0
    rows: int = 16  # packed rows in one optimizer step
    row_positions: int = 256  # positions in a row; longer examples are left out, and counted
    accumulation: int = 1  # parts that a batch is computed in, to save memory
    log_every: int = 20
    eval_every: int = 0  # steps between validations, each with a checkpoint; 0: at the end only
    save_every: int = 0  # steps between checkpoints without validation; 0: none
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    latent: LatentConfig = dataclasses.field(default_factory=LatentConfig)
    rl: RlConfig = dataclasses.field(default_factory=RlConfig)

    def __post_init__(self):
        _one_of("stage.trainer", self.trainer, ("sft", "grpo"))
        for field in ("rows", "row_positions", "accumulation", "log_every"):
            _require(getattr(self, field) > 0, f"stage.{field}={getattr(self, field)} must be positive")
        for field in ("steps", "eval_every", "save_every"):
            _require(getattr(self, field) >= 0, f"stage.{field}={getattr(self, field)} is negative")
        _require(self.steps > 0 or self.epochs > 0, "a stage needs stage.steps or stage.epochs above 0")
        _require(
            self.rows % self.accumulation == 0,
            f"stage.accumulation={self.accumulation} does not divide stage.rows={self.rows}",
        )
        if self.trainer == "grpo":
            rows = self.rl.minibatch_size // self.rl.num_generations * self.rl.speeds_per_group
            _require(
                rows % self.accumulation == 0,
                f"stage.accumulation={self.accumulation} does not divide the {rows} rows of a minibatch "
                "(rl.minibatch_size / rl.num_generations, times rl.speeds_per_group)",
            )


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    """How a model thinks and answers (METHOD.md section 1, latent decoding)."""

    max_latents: int = 64  # L_max: 64 for grade school, 128 for MATH
    min_latents: int = 1  # as published: the stop decision is read after the first latent
    max_step_tokens: int = 128  # the limit of a chain of thought in words
    max_answer_tokens: int = 16
    latent_temperature: float = 1.0  # scales the latent standard deviation of a sampled decode
    min_latent_std: float = 0.0  # floor of that standard deviation, in embedding scales, as rl.min_std is in rollouts
    stop_temperature: float = 1.0  # of the decision to end thinking, and of words in a chain of thought
    answer_temperature: float = 1.0
    top_p: float = 0.9  # of the answer's tokens, and of words in a chain of thought

    def __post_init__(self):
        for field in ("max_latents", "max_step_tokens", "max_answer_tokens"):
            _require(getattr(self, field) > 0, f"decode.{field}={getattr(self, field)} must be positive")
        _require(
            0 <= self.min_latents <= self.max_latents,
            f"decode.min_latents={self.min_latents} is not between 0 and max_latents={self.max_latents}",
        )
        for field in ("latent_temperature", "stop_temperature", "answer_temperature"):
            _require(
                getattr(self, field) > 0,
                f"decode.{field}={getattr(self, field)} must be positive; greedy decoding is eval.greedy",
            )
        _require(self.min_latent_std >= 0, f"decode.min_latent_std={self.min_latent_std} is negative")
        _require(0 < self.top_p <= 1, f"decode.top_p={self.top_p} is not in (0, 1]")


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """What the final evaluation, and `colar_jax.evaluate`, decodes."""

    speeds: str = ""  # of methods that have one; empty: the trained ones
    greedy: bool = True
    seeds: int = 5  # sampled decodes of every question; 0: none
    batch_size: int = 256
    stages: str = ""  # which stages to evaluate; empty: all of the run

    def __post_init__(self):
        parse_speeds(self.speeds)
        _require(self.seeds >= 0, f"eval.seeds={self.seeds} is negative")
        _require(self.batch_size > 0, f"eval.batch_size={self.batch_size} must be positive")
        _require(self.greedy or self.seeds > 0, "eval.greedy=False and eval.seeds=0 leave nothing to evaluate")


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run."""

    title: str = "run"
    seed: int = 0
    workdir: str = "runs/run"
    run: str = "cot,colar"  # the stages to run, in order
    keep_checkpoints: int = 3  # best ones by accuracy, besides the latest
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    stages: dict[str, StageConfig] = dataclasses.field(default_factory=dict)
    decode: DecodeConfig = dataclasses.field(default_factory=DecodeConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)

    def __post_init__(self):
        _require(self.keep_checkpoints > 0, f"keep_checkpoints={self.keep_checkpoints}: keep at least one")
        _require(
            bool(self.data.tokenizer or self.model.base),
            "data.tokenizer is empty: without model.base there is none to take; name a folder or hub id",
        )
        _require(bool(self.stage_names), "run is empty: name the stages to run, such as run='cot,colar'")
        for field, names in (("run", self.stage_names), ("eval.stages", split_names(self.eval.stages))):
            for name in names:
                _one_of(f"a stage of {field}", name, tuple(self.stages))
        for name, stage in self.stages.items():
            _require(
                stage.latent.loss == "soft_mse" or not self.model.latent_head.deterministic,
                f"stages.{name}.latent.loss={stage.latent.loss!r} with model.latent_head.deterministic=True: a head "
                "without a standard deviation has no likelihood; use latent.loss='soft_mse'",
            )
            _require(
                stage.trainer == "sft" or not self.model.latent_head.deterministic or stage.rl.min_std > 0,
                f"stages.{name}.rl.min_std=0 with model.latent_head.deterministic=True: nothing is sampled, so nothing "
                "can be learned from rewards; give the latents a standard deviation, such as rl.min_std=0.2",
            )

    @property
    def uses_tokenizer_of_base(self) -> bool:
        """Whether the tokenizer is the base model's own: there is a base, and `data.tokenizer` names no other."""
        return bool(self.model.base) and self.data.tokenizer in ("", DataConfig.tokenizer)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The stages to run, in order."""
        return split_names(self.run)


def split_names(text: str) -> tuple[str, ...]:
    """`"cot, colar"` as `("cot", "colar")`."""
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{field}={value!r} is none of {', '.join(allowed)}.{nearest(value, allowed)}")


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """` Did you mean ...?` for the known name nearest to a wrong one, or nothing."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def defaults() -> ml_collections.ConfigDict:
    """Every setting at its default, as the mutable `ConfigDict` that a config file fills in; `stages` is empty."""
    groups = {
        field.name: field.default if field.default is not dataclasses.MISSING else _plain(field.default_factory())
        for field in dataclasses.fields(Config)
    }
    return ml_collections.ConfigDict(groups)


def _plain(group: Any) -> dict:
    return dataclasses.asdict(group) if dataclasses.is_dataclass(group) else dict(group)


def stage_defaults(**settings) -> ml_collections.ConfigDict:
    """A stage at its defaults, with `settings` on top."""
    stage = ml_collections.ConfigDict(dataclasses.asdict(StageConfig()))
    stage.update(settings)
    return stage


def resolve(config: ml_collections.ConfigDict) -> Config:
    """The checked, frozen form of a `ConfigDict`; ValueError for any wrong key, type, range or combination."""
    return _build(Config, config.to_dict(), "config")


def _build(kind: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(kind):
        fields = {field.name: field for field in dataclasses.fields(kind)}
        _require(isinstance(value, dict), f"{path}={value!r}: expected a group of settings ({', '.join(fields)})")
        for key in value:
            _require(key in fields, f"{path}.{key} is no setting.{nearest(key, fields)}")
        hints = typing.get_type_hints(kind)
        return kind(**{key: _build(hints[key], item, f"{path}.{key}") for key, item in value.items()})
    if isinstance(kind, types.GenericAlias):  # dict[str, StageConfig]
        _, item_kind = typing.get_args(kind)
        return {key: _build_named(item_kind, item, f"{path}.{key}") for key, item in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    _require(type(value) is kind, f"{path}={value!r} is of type {type(value).__name__}: expected {kind.__name__}")
    if kind is float:
        _require(math.isfinite(value), f"{path}={value!r} is not a finite number")
    return value


def _build_named(kind: Any, value: Any, path: str) -> Any:
    """One of several groups of a kind, which says in every error which one it is."""
    try:
        return _build(kind, value, path)
    except ValueError as error:
        raise error if str(error).startswith(path) else ValueError(f"{path}: {error}") from None
