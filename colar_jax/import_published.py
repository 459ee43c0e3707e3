"""Take over a checkpoint of the published code: its adapters and latent head become step 0 of a stage.

    python -m colar_jax.import_published --config=configs/gsm8k_colar.py --config.run=colar --checkpoint=last.ckpt
    python -m colar_jax.evaluate --workdir=runs/gsm8k_colar                         # what it scores
    python -m colar_jax.train --config=configs/gsm8k_colar.py --config.run=colar    # train on

Needs PyTorch, to read the file (weights only: no code in it is run).
"""

import dataclasses
from pathlib import Path

from colar_jax.command_line import flag, run_main
from colar_jax.config import Config
from colar_jax.errors import UserError
from colar_jax.exchange.published import import_checkpoint
from colar_jax.runs.run import prepare
from colar_jax.settings.checks import is_finite


@dataclasses.dataclass(frozen=True)
class Flags:
    """What `import_published` takes besides --config."""

    checkpoint: str = flag("", "a .ckpt file of the published code")
    stage: str = flag("", "which stage it becomes; default: the run's last")
    embed_std: float = flag(0.0, "standard deviation of the base's embeddings; default: measured on the base model")

    def __post_init__(self):
        if not self.checkpoint:
            raise UserError("--checkpoint is missing: name a .ckpt file of the published code")
        if not (self.embed_std >= 0 and is_finite(self.embed_std)):
            raise UserError(f"--embed_std={self.embed_std} is no number above 0, finite in float32")


def take_over(config: Config, flags: Flags) -> None:
    """Import the checkpoint that the flags name."""
    stage = flags.stage or config.stage_names[-1]
    import_checkpoint(prepare(config), stage, Path(flags.checkpoint).expanduser(), flags.embed_std or None)


if __name__ == "__main__":
    run_main(take_over, Flags)
