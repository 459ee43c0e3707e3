"""Runs that were never trained, with a checkpoint all the same: what a sweep needs, in a second."""

from pathlib import Path

import jax
from pipeline.tiny import smoke_config_dict

from colar_jax.config import Config, resolve
from colar_jax.runs.run import prepare
from colar_jax.runs.starts import adopt

SETTINGS = {
    "run": "cot,colar",
    "data.train_limit": 8,
    "data.num_val": 4,
    "data.num_test": 6,
    "decode.max_step_tokens": 3,
    "decode.max_latents": 4,
    "decode.max_answer_tokens": 3,
    "eval.batch_size": 4,  # two batches, the second not full
    "eval.seeds": 2,
    "eval.speeds": "1,2,auto",
    "stages.colar.latent.speeds": "2,5",
}


def config_of(workdir: Path, **overrides) -> Config:
    return resolve(smoke_config_dict(SETTINGS, workdir, **overrides))


def make_run(workdir: Path, **overrides) -> Config:
    """A run whose stages have their initial weights, made large enough to say different things."""
    config = config_of(workdir, **overrides)
    run = prepare(config)
    for stage in config.stage_names:
        adopt(run, stage, jax.tree.map(lambda leaf: 4 * leaf if leaf.ndim else leaf, run.initial_parameters()))
    return config
