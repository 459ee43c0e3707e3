"""What a training step of every method computes: FLOPs of the compiled programs, and passes that wait for each other.

    python benchmarks/step_flops.py                                    # configs/methods.py
    python benchmarks/step_flops.py --config configs/graphs.py --stages no_cot,codi

Nothing is trained. Each stage's step is compiled for this machine's CPU, as `colar_jax.plan` does it, and its matrix
products are counted with the trips of their loops, recomputation and padding included; divided by the examples of a
step. Passes one after the other are those of the forward pass: what cannot be computed side by side.
"""

import argparse
import runpy
import sys
from pathlib import Path

import jax

from colar_jax.config import resolve
from colar_jax.methods.coconut import Coconut
from colar_jax.methods.codi import Codi
from colar_jax.methods.pccot import Pccot
from colar_jax.methods.sim_cot import SimColar
from colar_jax.planning.chips import parse_topology
from colar_jax.planning.devices import open_target
from colar_jax.planning.stage_plan import plan_stage

ROOT = Path(__file__).parents[1]


def passes_in_turn(method) -> int:
    """Forward passes of a step that wait for each other: trunk, latents, tail; or rows that are read at once."""
    if isinstance(method, Pccot):
        return 2 + method.num_sweeps + 1
    if isinstance(method, Codi):
        return 2 + method.num_latents
    if isinstance(method, Coconut):
        return 2 + method.max_latents
    if isinstance(method, SimColar):  # the decoder reads latents that the base's pass has drawn
        return 1 + method.num_passes
    return method.num_passes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "configs" / "methods.py"))
    parser.add_argument("--stages", default="", help="separated by commas; default: all of the run")
    parser.add_argument("--problems", type=int, default=2000, help="of the training set, that rows are made of")
    parser.add_argument("--against", default="no_cot", help="the stage that all are compared with")
    options = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    path, _, argument = options.config.partition(":")
    given = runpy.run_path(path)["get_config"](argument)
    given.data.train_limit = min(given.data.train_limit or options.problems, options.problems)
    config = resolve(given)
    target = open_target(parse_topology("v5e:1x1"), "host")
    names = options.stages.split(",") if options.stages else list(config.stage_names)
    names = list(dict.fromkeys([options.against, *names]))
    flops, lines = {}, []
    for name in names:
        planned = plan_stage(config, name, target, with_rollout=False)
        (step,) = planned.programs
        flops[name] = step.compiled.costs.flops / step.number
        method = config.stages[name].bound_method
        lines.append((flops[name], name, passes_in_turn(method), step))
        print(f"{name}: compiled in {step.compiled.seconds:.0f} s", file=sys.stderr, flush=True)
    print("| stage | passes in turn | examples a step | MFLOPs an example | times answer only | temporary MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for own, name, passes, step in sorted(lines, key=lambda line: line[0]):
        temporary = step.compiled.memory.temporary / 2**20
        times = own / flops[options.against]
        print(
            f"| {name} | {passes} | {step.number:.1f} | {own / 1e6:.0f} | {times:.2f} | {temporary:.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
