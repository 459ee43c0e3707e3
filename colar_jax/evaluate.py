"""Evaluate runs: `python -m colar_jax.evaluate --workdir=A,B --config.eval.speeds=1,1.5,2,auto --config.eval.seeds=5`.

The runs are finished ones. Of one run, the report is written anew.
"""

import dataclasses
from pathlib import Path

from colar_jax.command_line import RUNS, flag, run_main
from colar_jax.config import Config, resolve
from colar_jax.errors import UserError
from colar_jax.report.ledger import compare_run
from colar_jax.runs.run_folder import saved_config
from colar_jax.runs.sweep.sweep import sweep


@dataclasses.dataclass(frozen=True)
class Flags:
    """What `evaluate` takes besides --workdir and the settings."""

    out: str = flag("", "where the report goes; default: the run's folder, or `sweep` beside the first of several")
    reference: str = flag(
        "",
        "what all rows are compared with, as [run:]stage[@speed], colar@2; default: CoLaR at its lowest speed; of "
        "several runs, the first run's row of the same stage and speed",
    )
    ledger: bool = flag(False, "decode nothing: put what the runs measured beside the paper's numbers (docs/ledger.md)")

    def __post_init__(self):
        if self.ledger and (self.out or self.reference):
            raise UserError("--ledger prints a comparison: --out and --reference have no effect on it; leave them out")


def evaluate(configs: list[Config], flags: Flags) -> None:
    """Decode every run's test sets as its `eval` says, and write one report; or print the ledger."""
    if flags.ledger:
        for config in configs:
            if config != resolve(saved_config(config.workdir)):
                raise UserError("--ledger prints what was measured: settings have no effect on it; leave them out")
            print(compare_run(Path(config.workdir).expanduser()))
        return
    sweep(configs, Path(flags.out).expanduser() if flags.out else None, reference=flags.reference)


if __name__ == "__main__":
    run_main(evaluate, Flags, RUNS)
