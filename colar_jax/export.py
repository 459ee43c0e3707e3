"""Take a trained stage elsewhere: `python -m colar_jax.export --workdir=runs/arithmetic --stage=colar --out=exported`.

The folder loads with `transformers.AutoModelForCausalLM`, and thinks in latents with its own `colar_torch.py`.
"""

import dataclasses
from pathlib import Path

from colar_jax.command_line import RUN, flag, run_main
from colar_jax.config import Config
from colar_jax.errors import UserError
from colar_jax.exchange.folder import FORMS, export_stage
from colar_jax.runs.run import prepare


@dataclasses.dataclass(frozen=True)
class Flags:
    """What `export` takes besides --workdir and the settings."""

    out: str = flag("", "the folder to write; it must not exist, or be empty")
    stage: str = flag("", "default: the last stage of the run that thinks in latents, else the last")
    form: str = flag("merged", "a whole model, or a PEFT adapter for the base model", FORMS)
    dtype: str = flag("float32", "of the merged model's weights", ("float32", "bfloat16"))

    def __post_init__(self):
        if not self.out:
            raise UserError("--out is missing: name the folder to write")
        if self.form == "adapter" and self.dtype != Flags.dtype:
            raise UserError(f"--dtype={self.dtype} is of a merged model's weights: an adapter is float32")


def export(config: Config, flags: Flags) -> None:
    """Export the stage that the flags name."""
    out = Path(flags.out).expanduser()
    for path in (out, *out.parents):
        if path.exists() and not path.is_dir():
            raise UserError(f"--out={flags.out}: {path} is a file, and an export is a folder of files: name another")
    run = prepare(config, sets="none")
    export_stage(run, flags.stage, out, form=flags.form, dtype=flags.dtype)


if __name__ == "__main__":
    run_main(export, Flags, RUN)
