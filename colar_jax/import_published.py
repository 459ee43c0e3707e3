"""Take over a checkpoint of the published code: its adapters and latent head become step 0 of a stage.

    python -m colar_jax.import_published --config=configs/gsm8k_colar.py --config.run=colar --checkpoint=last.ckpt
    python -m colar_jax.evaluate --workdir=runs/gsm8k_colar                         # what it scores
    python -m colar_jax.train --config=configs/gsm8k_colar.py --config.run=colar    # train on

    --stage=colar (default: the run's last)     --embed_std=0.018 (default: measured on the base model)

Needs PyTorch, to read the file (weights only: no code in it is run).
"""

from pathlib import Path

from colar_jax.command_line import flag_value, run_main
from colar_jax.config import Config
from colar_jax.errors import UserError
from colar_jax.exchange.published import import_published
from colar_jax.run import prepare


def take_over(config: Config) -> None:
    """Import the checkpoint that the flags name."""
    checkpoint, embed_std = flag_value("checkpoint"), flag_value("embed_std")
    if not checkpoint:
        raise UserError("--checkpoint is missing: name a .ckpt file of the published code")
    stage = flag_value("stage") or config.stage_names[-1]
    import_published(prepare(config), stage, Path(checkpoint).expanduser(), float(embed_std) if embed_std else None)


if __name__ == "__main__":
    run_main(take_over, own_flags=("checkpoint", "stage", "embed_std"))
