"""Evaluate runs: `python -m colar_jax.evaluate --workdir=A,B --config.eval.speeds=1,1.5,2,auto --config.eval.seeds=5`.

--workdir=A,B        folders of finished runs; of one run, the report is written anew
--out=folder         where the report goes: by default the run's own folder, or `sweep` beside the first of several
--reference=colar@2  what all rows are compared with, as [run:]stage[@speed]; by default CoLaR at its lowest speed
--ledger             nothing is decoded: what the runs measured is put beside the paper's numbers (docs/ledger.md)
"""

from pathlib import Path

from colar_jax.command_line import flag_value, has_switch, run_main_on_runs
from colar_jax.config import Config
from colar_jax.report.ledger import compare_run
from colar_jax.sweep.sweep import sweep


def evaluate(configs: list[Config]) -> None:
    """Decode every run's test sets as its `eval` says, and write one report."""
    out = flag_value("out")
    sweep(configs, Path(out).expanduser() if out else None, reference=flag_value("reference"))


def compare_with_ledger(configs: list[Config]) -> None:
    """Print each run's report beside the published numbers."""
    for config in configs:
        print(compare_run(Path(config.workdir).expanduser()))


if __name__ == "__main__":
    if has_switch("ledger"):
        run_main_on_runs(compare_with_ledger, own_flags=("out", "reference"), own_switches=("ledger",))
    else:
        run_main_on_runs(evaluate, own_flags=("out", "reference"))
