"""Take a trained stage elsewhere: `python -m colar_jax.export --workdir=runs/arithmetic --stage=colar --out=exported`.

The folder loads with `transformers.AutoModelForCausalLM`, and thinks in latents with its own `colar_torch.py`. With
--form=prompt_embeds it holds questions that are thought about already, for engines that decode the answers.
"""

import dataclasses
from pathlib import Path

from colar_jax import load
from colar_jax.command_line import ASKED, flag, question_lines, run_main
from colar_jax.config import Config
from colar_jax.errors import UserError
from colar_jax.exchange.folder import FORMS, export_stage
from colar_jax.exchange.prompt_embeds import export_prompt_embeds
from colar_jax.runs.run import prepare
from colar_jax.settings.checks import is_finite
from colar_jax.thinker.exported_run import is_exported

PROMPT_EMBEDS = "prompt_embeds"


@dataclasses.dataclass(frozen=True)
class Flags:
    """What `export` takes besides --workdir and the settings."""

    out: str = flag("", "the folder to write; it must not exist, or be empty")
    stage: str = flag("", "default: the last stage of the run that thinks in latents, else the last")
    form: str = flag(
        "merged",
        "a whole model, a PEFT adapter for the base model, or the embeddings of questions and thoughts",
        (*FORMS, PROMPT_EMBEDS),
    )
    dtype: str = flag("float32", "of the merged model's weights, or of the embeddings", ("float32", "bfloat16"))
    questions: str = flag("", "of prompt_embeds: a text file, one question a line")
    question: str = flag("", "of prompt_embeds: one question")
    speed: str = flag("", "of prompt_embeds: tokens a latent stands for, or auto; default: the first that was trained")
    temperature: float = flag(0.0, "of prompt_embeds: of the thoughts; 0: greedy")
    seed: int = flag(0, "of prompt_embeds: of what is sampled")

    def __post_init__(self):
        if not self.out:
            raise UserError("--out is missing: name the folder to write")
        if self.form == "adapter" and self.dtype != Flags.dtype:
            raise UserError(f"--dtype={self.dtype} is of a merged model's weights: an adapter is float32")
        if self.form == PROMPT_EMBEDS:
            if bool(self.questions) == bool(self.question):
                raise UserError("--form=prompt_embeds: name a file with --questions, or ask one --question")
            if not (self.temperature >= 0 and is_finite(self.temperature)):
                raise UserError(f"--temperature={self.temperature} is no number of at least 0, finite in float32")
            if not 0 <= self.seed < 2**32:
                raise UserError(f"--seed={self.seed} is no whole number from 0 to {2**32 - 1}")
            return
        for name in ("questions", "question", "speed", "temperature", "seed"):
            if getattr(self, name) != getattr(Flags, name):
                raise UserError(f"--{name} is of --form=prompt_embeds alone: a model is exported without questions")


def export(config: Config, flags: Flags) -> None:
    """Export the stage that the flags name."""
    out = Path(flags.out).expanduser()
    for path in (out, *out.parents):
        if path.exists() and not path.is_dir():
            raise UserError(f"--out={flags.out}: {path} is a file, and an export is a folder of files: name another")
    if flags.form == PROMPT_EMBEDS:
        questions = [flags.question] if flags.question else _questions(flags.questions)
        options = {"speed": flags.speed or None, "temperature": flags.temperature, "seed": flags.seed}
        export_prompt_embeds(load(config, flags.stage or None), questions, out, dtype=flags.dtype, **options)
        return
    if is_exported(Path(config.workdir)):
        raise UserError(f"--workdir={config.workdir} is exported already; of it there is --form=prompt_embeds")
    run = prepare(config, sets="none", for_training=False)
    export_stage(run, flags.stage, out, form=flags.form, dtype=flags.dtype)


def _questions(name: str) -> list[str]:
    """The lines of a file that are not blank. UserError where there are none, or one is not UTF-8."""
    try:
        # Not `splitlines`, which cuts at U+2028 and other signs as well.
        lines = Path(name).expanduser().read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError as error:
        raise UserError(f"--questions={name}: {error.strerror or error}") from None
    questions = [question for _, question in question_lines(lines, lambda number: f"{name}:{number}") if question]
    if not questions:
        raise UserError(f"--questions={name} has no question in it: write one a line")
    return questions


if __name__ == "__main__":
    run_main(export, Flags, ASKED)
