"""Evaluate a run again: `python -m colar_jax.evaluate --workdir=runs/arithmetic --config.eval.speeds=1,2,3.5`."""

from colar_jax import pipeline
from colar_jax.command_line import load_run_config, run_main
from colar_jax.config import Config
from colar_jax.run import prepare


def evaluate(config: Config) -> None:
    """Decode the run's test sets as `config.eval` says, and write the report anew."""
    pipeline.evaluate(prepare(config))


if __name__ == "__main__":
    run_main(evaluate, load_run_config, own_flags=("workdir",))
