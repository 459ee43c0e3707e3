"""Know before paying: `python -m colar_jax.plan --config=configs/gsm8k_colar.py --topology=v5e:4x4`.

Compiles the stages' real programs for chips that are not here, and prints memory, FLOPs, bytes and collectives of one
chip, and how long they take at best (docs/plan.md).
"""

import dataclasses
import json
import logging

import jax

from colar_jax.command_line import flag, run_main
from colar_jax.config import Config, nearest
from colar_jax.errors import UserError
from colar_jax.planning.chips import parse_topology
from colar_jax.planning.devices import COMPILERS, open_target
from colar_jax.planning.plan_text import text
from colar_jax.planning.scaling import has_closed_forms, scaling_table
from colar_jax.planning.stage_plan import StagePlan, plan_stage


@dataclasses.dataclass(frozen=True)
class Flags:
    """What `plan` takes besides --config."""

    topology: str = flag(
        "",
        "the slice: v5e, v5p or v6e, and its chips along each axis, as in v5e:4x4; or GPUs, as gpu:24GiB, gpu:80GiBx8",
    )
    stage: str = flag("", "one stage; default: all of the run")
    compiler: str = flag(
        "auto", "tpu (needs the `tpu` extra), host (as many CPU devices), auto: tpu where installed", COMPILERS
    )
    rows_per_chip: int = flag(0, "instead of each stage's rows; of a stage trained by rewards, questions; 0: its own")
    examples: int = flag(0, "in the training set, where the data here is a sample of it; 0: as many as there are")
    rollout: str = flag("yes", "whether the decode of the validation set is planned", ("yes", "no"))
    json: bool = flag(False, "print one JSON object a stage")
    scaling: str = flag(
        "", "a chip, such as v5e: compile nothing, print a table of 8 to 1,024 from closed forms (docs/scaling.md)"
    )

    def __post_init__(self):
        for name in ("rows_per_chip", "examples"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name}={getattr(self, name)} is negative: 0 means the config's own")
        if not self.topology and not self.scaling:
            raise UserError("--topology is missing: name a slice, such as --topology=v5e:4x4")
        for name in ("topology", "compiler", "examples", "rollout", "json"):
            if self.scaling and getattr(self, name) != getattr(Flags, name):
                raise UserError(f"--{name} says nothing to --scaling, which compiles nothing: leave one of them out")


def plan(config: Config, flags: Flags) -> None:
    """Print the plan of the stages that the flags name."""
    stages = _stages(config, flags.stage)
    if flags.scaling:
        name = _last_with_closed_forms(config, stages)
        print(scaling_table(config, name, flags.scaling, flags.rows_per_chip))
        return
    if flags.json:  # what is printed is for a program
        logging.disable(logging.WARNING)
    target = open_target(parse_topology(flags.topology), flags.compiler)
    for place, name in enumerate(stages):
        planned = plan_stage(
            config,
            name,
            target,
            num_examples=flags.examples,
            rows_per_chip=flags.rows_per_chip,
            with_rollout=flags.rollout == "yes",
        )
        print(json.dumps(_plain(planned)) if flags.json else "\n" * (place > 0) + text(planned), flush=True)


def _stages(config: Config, name: str) -> tuple[str, ...]:
    if not name:
        return config.stage_names
    if name not in config.stages:
        raise UserError(f"--stage={name} is none of {', '.join(config.stages)}.{nearest(name, config.stages)}")
    return (name,)


def _last_with_closed_forms(config: Config, stages: tuple[str, ...]) -> str:
    names = [name for name in stages if has_closed_forms(config.stages[name])]
    if not names:
        raise UserError(
            f"--scaling has closed forms of CoLaR's supervised step alone, and {', '.join(stages)} has none: compile "
            "it for a slice, --topology=v5e:2x4"
        )
    return names[-1]


def _plain(planned: StagePlan) -> dict:
    """With what follows from the numbers beside them."""
    plain = dataclasses.asdict(planned)
    for program, of in zip(plain["programs"], planned.programs, strict=True):
        program["mfu_bound"] = of.mfu_bound
        program["compiled"]["memory"]["fits"] = of.compiled.memory.fits
        if of.roofline is None and of.compiled.costs is not None:  # of host devices, whose bytes mean nothing
            del program["compiled"]["costs"]["hbm_bytes"]
        if of.roofline is not None:
            program["roofline"] |= {"bound": of.roofline.bound, "overlapped": of.roofline.overlapped}
    return plain


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)  # a plan says how long compiling takes
    run_main(plan, Flags)
