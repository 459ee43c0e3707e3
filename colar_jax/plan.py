"""Know before paying: `python -m colar_jax.plan --config=configs/gsm8k_colar.py --topology=v5e:4x4`.

Compiles the stages' real programs for chips that are not here, and prints memory, FLOPs, bytes and collectives of one
chip, and how long they take at best (docs/plan.md).

    --topology=v5e:4x4     the slice: v5e, v5p or v6e, and its chips along each axis
    --stage=colar          one stage (default: all of the run)
    --compiler=auto        tpu (needs the `tpu` extra), host (as many CPU devices), auto: tpu where it is installed
    --rows_per_chip=4      instead of each stage's rows; of a stage trained by rewards, questions
    --examples=385620      in the training set, where the data here is a sample of it
    --rollout=no           leave the decode of the validation set out
    --json                 as one JSON object a stage
    --scaling=v5e          no compiling: a table of 8 to 1,024 chips from closed forms (docs/scaling.md)
"""

import dataclasses
import functools
import json
import logging
import sys

from colar_jax.command_line import flag_value, run_main
from colar_jax.config import Config, nearest
from colar_jax.errors import UserError
from colar_jax.planning.chips import parse_topology
from colar_jax.planning.devices import open_target
from colar_jax.planning.plan import StagePlan, plan_stage
from colar_jax.planning.scaling import scaling_table
from colar_jax.planning.table import text

FLAGS = ("topology", "stage", "compiler", "rows_per_chip", "examples", "rollout", "scaling")


def plan(config: Config, *, as_json: bool) -> None:
    """Print the plan of the stages that the flags name."""
    if flag_value("scaling"):
        name = _last_that_learns_from_data(config)
        print(scaling_table(config, name, flag_value("scaling"), _number("rows_per_chip")))
        return
    if not flag_value("topology"):
        raise UserError("--topology is missing: name a slice, such as --topology=v5e:4x4")
    if as_json:  # what is printed is for a program
        logging.disable(logging.WARNING)
    target = open_target(parse_topology(flag_value("topology")), flag_value("compiler") or "auto")
    for place, name in enumerate(_stages(config)):
        planned = plan_stage(
            config,
            name,
            target,
            num_examples=_number("examples"),
            rows_per_chip=_number("rows_per_chip"),
            with_rollout=flag_value("rollout") != "no",
        )
        print(json.dumps(_plain(planned)) if as_json else "\n" * (place > 0) + text(planned), flush=True)


def _stages(config: Config) -> tuple[str, ...]:
    name = flag_value("stage")
    if not name:
        return config.stage_names
    if name not in config.stages:
        raise UserError(f"--stage={name} is none of {', '.join(config.stages)}.{nearest(name, config.stages)}")
    return (name,)


def _last_that_learns_from_data(config: Config) -> str:
    names = [name for name in _stages(config) if config.stages[name].trainer == "sft"]
    if not names:
        raise UserError(
            f"--scaling has closed forms of supervised fine-tuning only, and {', '.join(_stages(config))} learns from "
            "rewards: compile it for a slice, --topology=v5e:2x4"
        )
    return names[-1]


def _number(flag: str) -> int:
    value = flag_value(flag) or "0"
    if not value.isdigit():
        raise UserError(f"--{flag}={value}: expected a whole number")
    return int(value)


def _plain(planned: StagePlan) -> dict:
    """With what follows from the numbers beside them."""
    plain = dataclasses.asdict(planned)
    for program, of in zip(plain["programs"], planned.programs, strict=True):
        program["mfu_bound"] = of.mfu_bound
        program["compiled"]["memory"]["fits"] = of.compiled.memory.fits
        if of.roofline is not None:
            program["roofline"] |= {"bound": of.roofline.bound, "overlapped": of.roofline.overlapped}
    return plain


if __name__ == "__main__":
    wants_json = "--json" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--json"]
    run_main(functools.partial(plan, as_json=wants_json), own_flags=FLAGS)
