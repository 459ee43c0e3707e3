"""Take a trained stage elsewhere: `python -m colar_jax.export --workdir=runs/arithmetic --stage=colar --out=exported`.

    --form=merged (default) | adapter      a whole model, or a PEFT adapter for the base model
    --dtype=float32 (default) | bfloat16   of the merged model's weights

The folder loads with `transformers.AutoModelForCausalLM`, and thinks in latents with its own `colar_torch.py`.
"""

from pathlib import Path

from colar_jax.command_line import flag_value, load_run_config, run_main
from colar_jax.config import Config
from colar_jax.errors import UserError
from colar_jax.exchange.folder import export_stage
from colar_jax.run import prepare

FLAGS = ("workdir", "stage", "out", "form", "dtype")


def export(config: Config) -> None:
    """Export the stage that the flags name."""
    out = flag_value("out")
    if not out:
        raise UserError("--out is missing: name the folder to write")
    stage = flag_value("stage") or config.stage_names[-1]
    form, dtype = flag_value("form") or "merged", flag_value("dtype") or "float32"
    export_stage(prepare(config), stage, Path(out), form=form, dtype=dtype)


if __name__ == "__main__":
    run_main(export, load_run_config, own_flags=FLAGS)
