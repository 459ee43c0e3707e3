"""A compiled program as data: the text of optimised HLO, read into computations, and how often each of them runs.

XLA's own cost analysis counts the body of a loop once; a model whose layers are scanned is then one layer deep.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator

_BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2, "u16": 2, "bf16": 2,
    "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16,
}  # fmt: skip
_ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([0-9,<=]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|called_computations|branch_computations)=\{?([^,}]*(?:, %[^,}]*)*)"
)
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape: element type, dimensions, and whether it lies in HBM (or in memory on the chip)."""

    dtype: str
    dims: tuple[int, ...]
    in_hbm: bool = True

    @property
    def num_bytes(self) -> float:
        """Its size, without the padding of a layout."""
        size = _BYTES.get(self.dtype, 0)
        for dim in self.dims:
            size *= dim
        return size


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]  # of its result, tuples flattened
    operands: tuple[str, ...]
    attributes: str  # what stands after the operands, and for a constant its value
    is_root: bool

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        """The computations that it names."""
        return tuple(name for found in _CALLED.findall(self.attributes) for name in _OPERAND.findall(found))

    def attribute(self, name: str) -> str:
        """The value of `name=value`, braces included; empty where there is none."""
        found = re.search(rf"\b{name}=(\{{\{{.*?\}}\}}|\{{[^}}]*\}}|[^,\s]+)", self.attributes)
        return found.group(1) if found else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """A list of instructions, those it needs before it."""

    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        """The one whose result is the computation's."""
        return next(one for one in self.instructions.values() if one.is_root)

    def operand_arrays(self, instruction: Instruction) -> list[tuple[Array, ...]]:
        """The arrays of each operand."""
        return [self.instructions[name].arrays for name in instruction.operands if name in self.instructions]


@dataclasses.dataclass(frozen=True)
class Program:
    """An HLO module."""

    computations: dict[str, Computation]
    entry: str

    def walk(self, *, into_fusions: bool) -> Iterator[tuple[float, Computation, Instruction]]:
        """Every instruction that runs, with how often; a loop that may end early is taken at its limit."""
        yield from self._walk(self.entry, 1.0, into_fusions)

    def trip_count(self, loop: Instruction) -> int:
        """How often a while loop runs: what XLA knows, else the constant that its counter is compared with."""
        known = _TRIP_COUNT.search(loop.attributes)
        if known:
            return int(known.group(1))
        return max([1, *self._integers(loop.attribute("condition").lstrip("%"))])

    def _walk(self, name: str, times: float, into_fusions: bool):
        computation = self.computations[name]
        for one in computation.instructions.values():
            yield times, computation, one
            if one.opcode == "while":
                trips = self.trip_count(one)
                yield from self._walk(one.attribute("body").lstrip("%"), times * trips, into_fusions)
            elif one.opcode in ("call", "conditional", "async-start") or (one.opcode == "fusion" and into_fusions):
                for called in one.called:
                    yield from self._walk(called, times, into_fusions)

    def _integers(self, name: str) -> Iterator[int]:
        for one in self.computations[name].instructions.values():
            if one.opcode == "constant" and one.arrays[0].dtype in ("s32", "s64", "u32") and not one.arrays[0].dims:
                yield int(one.attributes.split(")")[0])
            for called in one.called:
                yield from self._integers(called)


def parse(text: str) -> Program:
    """Read what `compiled.as_text()` gives."""
    computations: dict[str, Computation] = {}
    entry, current = "", {}
    for line in text.splitlines():
        line = re.sub(r"/\*.*?\*/", "", line)
        header = _HEADER.match(line)
        if header:
            current = {}
            computations[header.group(2)] = Computation(current)
            entry = header.group(2) if header.group(1) else entry
        elif found := _INSTRUCTION.match(line):
            one = _instruction(found, line[found.end() :])
            current[one.name] = one
    return Program(computations, entry)


def arrays_of(shape: str) -> tuple[Array, ...]:
    """The arrays of a shape as HLO writes it, tuples flattened."""
    return tuple(
        Array(dtype, tuple(int(dim.lstrip("<=")) for dim in dims.split(",") if dim), not re.search(r"S\([1-9]", layout))
        for dtype, dims, layout in _ARRAY.findall(shape)
    )


def _instruction(found: re.Match, rest: str) -> Instruction:
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode, _, after = rest.partition("(")
    close = _closing("(" + after) - 1
    inside, attributes = after[:close], after[close + 1 :]
    return Instruction(
        name=found.group(2),
        opcode=opcode,
        arrays=arrays_of(shape),
        operands=tuple(_OPERAND.findall(inside)),
        attributes=inside + ")" + attributes if opcode in ("constant", "parameter") else attributes,
        is_root=bool(found.group(1)),
    )


def _closing(text: str) -> int:
    """Where the parenthesis that opens `text` is closed."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if not depth:
            return place
    return len(text)
