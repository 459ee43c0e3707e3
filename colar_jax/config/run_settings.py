"""All settings of a run, and what must hold between them."""

import dataclasses
import re

from colar_jax.config.stage_settings import StageConfig
from colar_jax.model.presets import PRESETS
from colar_jax.settings.checks import nearest, one_of, require, split_names
from colar_jax.settings.data import DataConfig
from colar_jax.settings.decode import DecodeConfig, EvalConfig
from colar_jax.settings.model import ModelConfig
from colar_jax.settings.on_resume import observing
from colar_jax.settings.parallel import ParallelConfig


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run."""

    title: str = "run"  # of reports
    seed: int = 0  # of initial weights, of the order of data and of everything that is sampled
    workdir: str = "runs/run"  # the folder of the run; the same command again goes on from what is in it
    run: str = "cot,colar"  # the stages to run, in order
    keep_checkpoints: int = 3  # best ones by accuracy (by reward in reinforcement learning), besides the latest
    report_to: str = ""  # where metrics go besides the run's folder: wandb, or package.module:function(step, values)
    compilation_cache: str = observing("auto")  # of compiled programs: auto (~/.cache/colar_jax), off, or a folder
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    parallel: ParallelConfig = dataclasses.field(default_factory=ParallelConfig)
    stages: dict[str, StageConfig] = dataclasses.field(default_factory=dict)
    decode: DecodeConfig = dataclasses.field(default_factory=DecodeConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)

    def __post_init__(self):
        require(self.seed >= 0, f"seed={self.seed} is negative")
        require(
            bool(self.workdir.strip()) and "\0" not in self.workdir,
            f"workdir={self.workdir!r} names no folder: name the one that the run is to be in",
        )
        require(bool(self.compilation_cache.strip()), "compilation_cache is empty: name a folder, or auto, or off")
        for name in self.stages:
            require(
                re.fullmatch(r"\w[\w-]*", name) is not None,
                f"a stage is called {name!r}: its name is a folder's, of letters, digits, _ and -",
            )
        require(self.keep_checkpoints > 0, f"keep_checkpoints={self.keep_checkpoints}: keep at least one")
        require(
            bool(self.data.tokenizer or self.model.base),
            "data.tokenizer is empty: without model.base there is none to take; name a folder or hub id",
        )
        preset = self.model.preset
        require(
            bool(self.model.base) or preset in PRESETS,
            f"model.preset={preset!r} is none of {', '.join(PRESETS)}.{nearest(preset, PRESETS)}",
        )
        require(bool(self.stage_names), "run is empty: name the stages to run, such as run='cot,colar'")
        for field, names in (("run", self.stage_names), ("eval.stages", split_names(self.eval.stages))):
            for name in names:
                one_of(f"a stage of {field}", name, tuple(self.stages))
                require(names.count(name) == 1, f"{field} names the stage {name!r} twice: name each once")
        for name in dict.fromkeys((*self.stage_names, *split_names(self.eval.stages))):
            objection = self.objection_to_certainty(name)
            require(not objection, objection)
        for name in self.stage_names:
            stage = self.stages[name]
            require(
                not (stage.trainer == "grpo" and getattr(stage.bound_method, "mid_chain", False)),
                f"stages.{name}.own_speed.mid_chain=True with trainer='grpo': rewards teach the choice at the end of a "
                "question, not those in mid-chain; set it to False, or learn from labels (trainer='sft')",
            )
        for name, stage in self.stages.items():
            objection = stage.bound_method.objection(self.model)
            require(not objection, f"stages.{name}.{objection}")
            objection = stage.bound_method.objection_to_rewards(stage.rl) if stage.trainer == "grpo" else ""
            require(not objection, f"stages.{name}.rl.{objection}")
            require(
                stage.trainer == "sft" or not self.model.latent_head.deterministic or stage.rl.min_std > 0,
                f"stages.{name}.rl.min_std=0 with model.latent_head.deterministic=True: nothing is sampled, so nothing "
                "can be learned from rewards; give the latents a standard deviation, such as rl.min_std=0.2",
            )
            require(
                stage.trainer == "sft" or not stage.rl.rollout_dropout or self.model.lora.dropout > 0,
                f"stages.{name}.rl.rollout_dropout=True without dropout: set model.lora.rank and model.lora.dropout",
            )
            least, most, final = self.decode.min_latents, self.decode.max_latents, stage.rl.final_max_latents
            require(
                stage.trainer == "sft" or not final or least <= final <= most,
                f"stages.{name}.rl.final_max_latents={final} is not between decode.min_latents={least} and "
                f"decode.max_latents={most}",
            )
            require(
                stage.trainer == "sft" or not self.model.latent_head.deterministic or not stage.rl.entropy_weight,
                f"stages.{name}.rl.entropy_weight={stage.rl.entropy_weight} with model.latent_head.deterministic=True "
                f"does nothing: the latents' standard deviation is rl.min_std={stage.rl.min_std}, whatever the model "
                "predicts; set rl.entropy_weight=0",
            )

    def objection_to_certainty(self, name: str) -> str:
        """Why a stage cannot be asked as `decode.speed_certainty` says; empty where it can."""
        stage = self.stages[name]
        if stage.trainer != "grpo" or not stage.bound_method.chooses_speed or not self.decode.speed_certainty:
            return ""
        return (
            f"decode.speed_certainty={self.decode.speed_certainty} with stages.{name}, which learns its choice of a "
            "speed from rewards: it is of choices that are learned from labels; set it to 0"
        )

    def source_of(self, name: str) -> str:
        """What a stage starts from, as the config names it: a stage of the run or a folder; empty: initial weights."""
        stages = self.stage_names
        index = stages.index(name) if name in stages else 0
        return self.stages[name].init_from or (stages[index - 1] if index else "")

    @property
    def uses_tokenizer_of_base(self) -> bool:
        """Whether the tokenizer is the base model's own: there is a base, and `data.tokenizer` names no other."""
        return bool(self.model.base) and self.data.tokenizer in ("", DataConfig.tokenizer)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The stages to run, in order."""
        return split_names(self.run)
