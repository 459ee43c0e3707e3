"""What a fusion reads from HBM and writes to it: of a stack that it slices the slice, however deep the slicing is."""

from collections.abc import Iterator

from colar_jax.planning.hlo import Array, Computation, Instruction, Program

SLICES = ("dynamic-slice", "slice", "gather")
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def fusion_hbm(program: Program, fused: Computation, one: Instruction, operands: list[tuple[Array, ...]]) -> float:
    """Bytes of one run of the fusion `one`, which calls `fused` on `operands`; but for collectives within it."""
    parameters = _parameters(fused)
    read = sum(
        min(_read_of(program, fused, parameters[number]), in_hbm(arrays)) if number in parameters else in_hbm(arrays)
        for number, arrays in enumerate(operands)
    )
    return read + min(_written_by(program, fused, fused.root), in_hbm(one.arrays))


def kind_of(one: Instruction) -> str:
    """The opcode, of a collective whether it is done at once or started only."""
    return one.opcode.removesuffix("-start")


def in_hbm(arrays: tuple[Array, ...]) -> float:
    """Bytes of those arrays that lie in HBM."""
    return sum(array.num_bytes for array in arrays if array.in_hbm)


def _parameters(computation: Computation) -> dict[int, str]:
    """Names by number."""
    return {
        int(one.attributes.split(")")[0]): one.name
        for one in computation.instructions.values()
        if one.opcode == "parameter"
    }


def _users(computation: Computation, name: str) -> Iterator[tuple[Instruction, list[int]]]:
    """The instructions that read `name`, and as which of their operands."""
    for one in computation.instructions.values():
        if places := [place for place, operand in enumerate(one.operands) if operand == name]:
            yield one, places


def _read_of(program: Program, computation: Computation, name: str) -> float:
    """Bytes of the value `name` that its computation reads; all of it where a user is none of those known here."""
    whole = sum(array.num_bytes for array in computation.instructions[name].arrays)
    read = 0.0
    for user, places in _users(computation, name):
        if user.opcode == "bitcast":
            read += _read_of(program, computation, user.name)
        elif user.opcode in SLICES and places == [0]:
            read += user.arrays[0].num_bytes
        elif user.opcode == "dynamic-update-slice" and places == [0]:
            continue  # in place: what is not written stays as it is
        elif user.opcode == "tuple" or kind_of(user) in COLLECTIVES:
            continue  # handed on; counted with the collective
        elif user.opcode == "fusion":
            inner = program.computations[user.called[0]]
            inputs = [_parameters(inner)[place] for place in places]
            read += sum(_read_of(program, inner, one) for one in inputs)
            if _behind_bitcasts(inner, inner.root).name in inputs:  # another form of the value: its users read it
                read += _read_of(program, computation, user.name)
        else:
            return whole
    return min(read, whole)


def _behind_bitcasts(computation: Computation, one: Instruction) -> Instruction:
    while one.opcode == "bitcast":
        one = computation.instructions[one.operands[0]]
    return one


def _written_by(program: Program, computation: Computation, root: Instruction) -> float:
    """Bytes that a result takes to write: of an update in place, the update."""
    root = _behind_bitcasts(computation, root)
    if root.opcode == "parameter" or kind_of(root) in COLLECTIVES:
        return 0.0
    if root.opcode == "tuple":
        return sum(_written_by(program, computation, computation.instructions[name]) for name in root.operands)
    if root.opcode == "fusion":
        inner = program.computations[root.called[0]]
        return _written_by(program, inner, inner.root)
    if root.opcode == "dynamic-update-slice":
        return sum(array.num_bytes for array in computation.operand_arrays(root)[1])
    return sum(array.num_bytes for array in root.arrays)
