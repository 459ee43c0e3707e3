"""The model that `eval.trim.verifier` names, and what its verdicts depend on."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from colar_jax.config import Config, LatentHeadSettings, ModelConfig, StageConfig, nearest, plain, resolve
from colar_jax.data.tokenizers import load_tokenizer
from colar_jax.engine import Engine
from colar_jax.errors import UserError
from colar_jax.evaluation.decode_program import Programs
from colar_jax.evaluation.trimming.trimmed import TrimPrograms
from colar_jax.evaluation.trimming.verifier import YesNoModel
from colar_jax.evaluation.trimming.wording import JudgeWording, PlainWording
from colar_jax.methods import find_method
from colar_jax.methods.segment_judge import SegmentJudge
from colar_jax.runs.run import Run, prepare
from colar_jax.runs.run_folder import saved_config
from colar_jax.runs.run_model import make_model
from colar_jax.runs.starts import finished_identity, finished_parameters
from colar_jax.settings import split_names
from colar_jax.settings.trim import TrimConfig
from colar_jax.training.stage import CHECKPOINTS_FOLDER
from colar_jax.weights.base_model import base_folder, base_identity

# Of `eval.trim`: known in another way.
_UNREAD = ("verifier", "agreements")
# What a judge and `eval.trim` have to agree on.
_OF_SEGMENTS = ("cues", "cue_after", "sentences")


@dataclasses.dataclass(frozen=True, eq=False)
class TrimSource:
    """What trims the chains of a run; the verifier's weights are loaded when they are first asked for."""

    run: Run
    stage_folder: Path | None  # of a trained judge
    base: Path | None  # of a language model

    @functools.cached_property
    def depends_on(self) -> dict[str, Any]:
        """All that the ends of chains depend on, but for the number of agreements: plain JSON."""
        settings = {name: value for name, value in plain(self.run.config.eval.trim).items() if name not in _UNREAD}
        if settings["answer_cue"]:
            settings["cue"] = "no thought"  # older rows had it in their #L
        return settings | {"verifier": base_identity(self.base) if self.base else finished_identity(self.stage_folder)}

    def programs(self, programs: Programs) -> TrimPrograms:
        """What decodes with trimming; compiled once for all numbers of agreements."""
        return self._programs(programs)

    @functools.cached_property
    def _programs(self):
        run = self.run
        trim = run.config.eval.trim
        return functools.cache(lambda programs: TrimPrograms(trim, self._verifier, run.tokenizer, programs))

    @functools.cached_property
    def _verifier(self) -> YesNoModel:
        return self._language_model() if self.base else self._trained_judge()

    def _trained_judge(self) -> YesNoModel:
        folder, run = self.stage_folder, self.run
        if folder.parent != run.workdir:
            run = prepare(resolve(saved_config(folder.parent)), sets="none", for_training=False)
        return YesNoModel(run.engine, finished_parameters(run, folder), JudgeWording(run.tokenizer))

    def _language_model(self) -> YesNoModel:
        """A base model as it is, on the run's devices and in its dtype."""
        ours = self.run.config
        tokenizer = load_tokenizer(str(self.base), needs_separator=False)
        model = ModelConfig(
            base=str(self.base),
            dtype=ours.model.dtype,
            base_dtype=ours.model.base_dtype,
            latent_head=LatentHeadSettings(intermediate_size=1),  # read by nobody
        )
        stages = {"verifier": StageConfig(method="no_cot")}
        config = Config(model=model, parallel=ours.parallel, stages=stages, run="verifier")
        made = make_model(config, self.base, tokenizer, for_training=False)
        engine = Engine(made.graph, made.mesh, model.compute, ours.parallel)
        return YesNoModel(engine, made.initial_parameters(), PlainWording(tokenizer))


def trim_source(run: Run) -> TrimSource:
    """What `eval.trim.verifier` names.

    Raises:
        UserError: it is no stage with a checkpoint that was trained as a judge of such segments, and no base model.
    """
    name = run.config.eval.trim.verifier
    folder = run.workdir / name if name in run.config.stages else Path(name).expanduser()
    if name not in run.config.stages and not (folder / CHECKPOINTS_FOLDER).is_dir():
        stages = run.config.stages
        hint = nearest(name, stages)
        try:
            return TrimSource(run, None, base_folder(name, "eval.trim.verifier="))
        except UserError as error:
            raise UserError(f"{error}{hint}" if hint else str(error)) from error
    settings = finished_identity(folder)["settings"]
    if find_method(settings["stage.method"]) is not SegmentJudge:
        raise UserError(
            f"eval.trim.verifier={name!r} was trained with method={settings['stage.method']!r}: name a stage of method "
            "segment_judge, or a base model"
        )
    defaults = plain(SegmentJudge())
    learned = {field: settings.get(f"stage.segment_judge.{field}", defaults[field]) for field in _OF_SEGMENTS}
    refuse_other_segments(run.config.eval.trim, learned, name)
    return TrimSource(run, folder, None)


def refuse_other_segments(trim: TrimConfig, learned_by_field: dict[str, Any], name: str) -> None:
    """UserError where a judge learns to read other segments than `eval.trim` would show it."""
    for field in _OF_SEGMENTS:
        learned, shown = learned_by_field[field], getattr(trim, field)
        if field == "cues":
            learned, shown = (",".join(sorted(split_names(words))) for words in (learned, shown))
        if learned != shown:
            raise UserError(
                f"eval.trim.{field}={shown!r}, and the judge {name!r} is trained with segment_judge.{field}="
                f"{learned!r}: it would read other segments than it learns to judge. Set "
                f"--config.eval.trim.{field}={learned}"
            )
