"""The folder of a run whose `colar` stage is the model that is kept in tests/golden: the one that the docs ask."""

import runpy
from pathlib import Path

from colar_jax.config import resolve
from colar_jax.runs.run import prepare
from colar_jax.runs.starts import adopt
from colar_jax.weights.latent_head_file import load_latent_head

ROOT = Path(__file__).parents[1]
DEMO_MODEL = ROOT / "tests" / "golden" / "demo_model"


def make_demo_run(workdir: Path) -> Path:
    """Make the run in a new folder; nothing is trained."""
    config = runpy.run_path(str(ROOT / "configs" / "arithmetic.py"))["get_config"]("two_speeds")  # made it
    config.workdir, config.run, config.model.base = str(workdir), "colar", str(DEMO_MODEL)
    run = prepare(resolve(config), sets="none")
    adopt(run, "colar", run.initial_parameters() | {"latent_head": load_latent_head(DEMO_MODEL)[0]})
    return run.workdir
