"""Compile a program, and read off what it takes: memory, FLOPs, bytes, collectives."""

import dataclasses
import re
import time

from colar_jax.planning import hlo
from colar_jax.planning.chips import GIB
from colar_jax.planning.costs import Costs, costs
from colar_jax.planning.devices import Target
from colar_jax.planning.lowering import Lowered, bytes_on_a_chip

# What XLA says of a program that a TPU cannot hold: "Used 20.31G of 15.75G hbm."
_EXHAUSTED = re.compile(r"Used ([\d.]+)([GMK])? of ([\d.]+)([GMK])? hbm")
_UNITS = {"G": GIB, "M": 2**20, "K": 2**10, None: 1}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one chip while a program runs."""

    arguments: dict[str, int]  # by what they are for
    temporary: int  # activations, gradients, gathered weights; unknown (-1) where the program could not be compiled
    total: int
    capacity: int

    @property
    def fits(self) -> bool:
        """Whether the chip holds it."""
        return self.total <= self.capacity


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program's needs on one chip of a slice."""

    name: str
    memory: Memory
    costs: Costs | None  # None where it does not fit: the TPU's compiler gives no program then
    seconds: float  # of compiling


def compile_for(lowered: Lowered, target: Target) -> Compiled:
    """Compile; a program that exceeds the chip's memory is a result, not an error."""
    begin = time.perf_counter()
    arguments = {name: bytes_on_a_chip(tree) for name, tree in lowered.arguments.items()}
    try:
        program = lowered.program.compile()
    except Exception as error:  # jaxlib's has moved from module to module
        exhausted = _EXHAUSTED.search(str(error))
        if exhausted is None:
            raise
        used, unit, limit, limit_unit = exhausted.groups()
        total, capacity = float(used) * _UNITS[unit], float(limit) * _UNITS[limit_unit]
        memory = Memory(arguments, -1, int(total), int(capacity))
        return Compiled(lowered.name, memory, None, time.perf_counter() - begin)
    seconds = time.perf_counter() - begin
    stats = program.memory_analysis()
    total = (
        stats.argument_size_in_bytes
        + stats.temp_size_in_bytes
        + stats.output_size_in_bytes
        - stats.alias_size_in_bytes
        + stats.generated_code_size_in_bytes
    )
    memory = Memory(arguments, stats.temp_size_in_bytes, total, int(target.topology.chip.hbm_bytes))
    return Compiled(lowered.name, memory, costs(hlo.parse(program.as_text())), seconds)
