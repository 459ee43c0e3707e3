"""What a compiled program costs one chip each time it runs: FLOPs, bytes to and from HBM, bytes sent to other chips."""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

from colar_jax.planning.fusions import COLLECTIVES, SLICES, fusion_hbm, in_hbm, kind_of
from colar_jax.planning.hlo import Computation, Instruction, Program
from colar_jax.planning.replica_groups import first_group

# Name what is there already, or are paid for by what they call or start.
_FREE = (
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional", "after-all",
    "partition-id", "replica-id", "opt-barrier", "async-start", "custom-call", "iota",
)  # fmt: skip

# All that a fusion does which is a reduce-scatter written as an all-reduce.
_SCATTERING = ("parameter", "constant", "pad", "all-reduce", "partition-id", "bitcast", "multiply", "dynamic-slice")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind over one group of devices, and what one chip sends for them in a run of the program."""

    kind: str
    group: tuple[int, ...]  # positions in the mesh's devices, flattened; the group of the first one
    count: float
    payload: float  # bytes of the whole array before (all-reduce, reduce-scatter) or after (all-gather)
    sent: float  # bytes that each chip of a ring sends


@dataclasses.dataclass(frozen=True)
class Costs:
    """Of one run of a program, for one chip."""

    flops: float  # of matrix products, recomputation included
    hbm_bytes: float
    collectives: tuple[Collective, ...]


def costs(program: Program) -> Costs:
    """Count everything, the bodies of loops as often as they run."""
    flops = sum(times * _flops(computation, one) for times, computation, one in program.walk(into_fusions=True))
    hbm = sum(times * _hbm(program, computation, one) for times, computation, one in program.walk(into_fusions=False))
    fused = list(_fused_collectives(program))
    hbm += sum(times * _operands_and_result(computation, one) for times, computation, one in fused)
    found = [step for step in program.walk(into_fusions=False) if kind_of(step[2]) in COLLECTIVES]
    return Costs(flops, hbm, tuple(_by_kind_and_group([*found, *fused])))


def _flops(computation: Computation, one: Instruction) -> float:
    if one.opcode == "dot":
        lhs = computation.operand_arrays(one)[0][0]
        contracted = [int(dim) for dim in re.findall(r"\d+", one.attribute("lhs_contracting_dims"))]
        return 2.0 * np.prod(one.arrays[0].dims, dtype=float) * np.prod([lhs.dims[dim] for dim in contracted])
    if one.opcode == "convolution":
        return _convolution_flops(computation, one)
    return 0.0


def _convolution_flops(computation: Computation, one: Instruction) -> float:
    """A TPU's matrix products are convolutions, batch dimensions spatial ones with padding and holes between.

    What falls on padding or into a hole is no work.
    """
    (lhs,), (rhs,) = (arrays for arrays in computation.operand_arrays(one)[:2])
    lhs_labels, rhs_labels, out_labels = re.split("_|->", one.attribute("dim_labels"))
    groups = int(one.attribute("batch_group_count") or 1)
    size = dict(zip(lhs_labels, lhs.dims, strict=True))
    kernel = dict(zip(rhs_labels, rhs.dims, strict=True))
    out = dict(zip(out_labels, one.arrays[0].dims, strict=True))
    multiplications = float(kernel["i"] * kernel["o"] * size["b"]) / groups
    spatial = sorted(label for label in lhs_labels if label.isdigit())
    window = _window(one.attribute("window"), len(spatial))
    for label, (stride, pad, lhs_dilate, rhs_dilate) in zip(spatial, window, strict=True):
        place = np.arange(out[label])[:, None] * stride - pad + np.arange(kernel[label])[None] * rhs_dilate
        is_inside = (place >= 0) & (place < (size[label] - 1) * lhs_dilate + 1) & (place % lhs_dilate == 0)
        multiplications *= int(is_inside.sum())
    return 2 * multiplications


def _window(text: str, rank: int) -> list[tuple[int, int, int, int]]:
    """(stride, low padding, lhs dilation, rhs dilation) of each spatial dimension."""

    def values(name: str, default: str) -> list[str]:
        found = re.search(rf"\b{name}=([\dx_\-]+)", text)
        return found.group(1).split("x") if found else [default] * rank

    pads = [pad.split("_")[0] for pad in values("pad", "0_0")]
    columns = values("stride", "1"), pads, values("lhs_dilate", "1"), values("rhs_dilate", "1")
    return [tuple(map(int, row)) for row in zip(*columns, strict=True)]


def _hbm(program: Program, computation: Computation, one: Instruction) -> float:
    """Bytes read and written: operands and result, of a slice only the slice, of an update in place only the update."""
    is_kernel = one.attribute("custom_call_target") == '"tpu_custom_call"'  # the other custom calls are layouts
    if (one.opcode in _FREE and not is_kernel) or one.opcode.endswith("-done"):
        return 0.0
    if one.opcode == "slice-start":
        return one.arrays[1].num_bytes
    if one.opcode == "copy-start":
        return in_hbm(one.arrays)
    operands = computation.operand_arrays(one)
    if one.opcode in SLICES:
        return 2 * in_hbm(one.arrays)
    if one.opcode == "dynamic-update-slice":
        return 2 * in_hbm(operands[1])
    if one.opcode == "fusion":
        return fusion_hbm(program, program.computations[one.called[0]], one, operands)
    return _operands_and_result(computation, one)


def _operands_and_result(computation: Computation, one: Instruction) -> float:
    return in_hbm(one.arrays) + sum(map(in_hbm, computation.operand_arrays(one)))


def _fused_collectives(program: Program) -> Iterator[tuple[float, Computation, Instruction]]:
    """Collectives within fusions, each once.

    A TPU's compiler hides one behind products by writing it into the fusion that starts it, those that compute
    meanwhile, and the one that waits for it; they share its channel.
    """
    direct = {id(one) for _, _, one in program.walk(into_fusions=False)}
    seen = set()
    for times, computation, one in program.walk(into_fusions=True):
        own = (kind_of(one), one.attribute("channel_id"), times)
        if own[0] in COLLECTIVES and id(one) not in direct and own not in seen:
            seen.add(own)
            yield times, computation, one


def _by_kind_and_group(collectives: Iterable[tuple[float, Computation, Instruction]]) -> Iterator[Collective]:
    found: dict[tuple[str, tuple[int, ...]], np.ndarray] = defaultdict(lambda: np.zeros(3))
    for times, computation, one in collectives:
        kind, group = _kind_in(computation, one), first_group(one.attributes)
        own = sum(array.num_bytes for arrays in computation.operand_arrays(one) for array in arrays)
        payload = own * len(group) if kind == "all-gather" else own
        if len(group) > 1:
            found[kind, group] += times, times * payload, times * sent_bytes(kind, payload, len(group))
    for (kind, group), (count, payload, sent) in found.items():
        yield Collective(kind, group, float(count), float(payload), float(sent))


def _kind_in(computation: Computation, one: Instruction) -> str:
    """What kind of collective it is at run time.

    An all-reduce of which a fusion gives a slice alone is a reduce-scatter: a TPU's compiler writes it so where it pads
    the shards, and emits the same code for both (`SingleInputAllReduceScatterFusion`).
    """
    kind, root = kind_of(one), computation.root
    does_nothing_else = {other.opcode for other in computation.instructions.values()} <= set(_SCATTERING)
    is_scattered = root.opcode == "dynamic-slice" and root.operands[0] == one.name
    return "reduce-scatter" if kind == "all-reduce" and does_nothing_else and is_scattered else kind


def sent_bytes(kind: str, payload: float, group_size: int) -> float:
    """What each chip sends on a ring for a collective of an array of `payload` bytes."""
    share = (group_size - 1) / group_size
    return {"all-reduce": 2 * share, "collective-permute": 1.0}.get(kind, share) * payload
