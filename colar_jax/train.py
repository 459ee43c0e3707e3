"""Train a run, evaluate it, print its table: `python -m colar_jax.train --config=configs/arithmetic.py`.

The same command again goes on from where it stopped.
"""

import dataclasses

from colar_jax.command_line import flag, run_main
from colar_jax.config import Config
from colar_jax.runs import pipeline


@dataclasses.dataclass(frozen=True)
class Flags:
    """What `train` takes besides --config."""

    accept_changes: bool = flag(
        False, "go on with another learning rate, batch or length than a stage was started with (docs/resume.md)"
    )


def train_command(config: Config, flags: Flags) -> None:
    """Train as the config says."""
    pipeline.train(config, accept_changes=flags.accept_changes)


if __name__ == "__main__":
    run_main(train_command, Flags)
