"""Evaluate a run again: `python -m colar_jax.evaluate --workdir=runs/arithmetic --config.eval.speeds=1,2,3.5`.

With `--ledger`, nothing is decoded: what the run measured is put beside the paper's numbers (docs/ledger.md).
"""

import sys
from pathlib import Path

from colar_jax import pipeline
from colar_jax.command_line import load_run_config, run_main
from colar_jax.config import Config
from colar_jax.evaluation.ledger import compare_run
from colar_jax.run import prepare


def evaluate(config: Config) -> None:
    """Decode the run's test sets as `config.eval` says, and write the report anew."""
    pipeline.evaluate(prepare(config))


def compare_with_ledger(config: Config) -> None:
    """Print the run's report beside the published numbers."""
    print(compare_run(Path(config.workdir).expanduser()))


if __name__ == "__main__":
    if "--ledger" in sys.argv:
        sys.argv.remove("--ledger")
        run_main(compare_with_ledger, load_run_config, own_flags=("workdir",))
        sys.exit()
    run_main(evaluate, load_run_config, own_flags=("workdir",))
