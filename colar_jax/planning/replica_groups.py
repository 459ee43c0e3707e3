"""Which chips a collective is among, in every way that XLA writes it."""

import math
import re

import numpy as np

_LIST = re.compile(r"(?:replica_groups|source_target_pairs)=\{(?:\{([\d,]*)\}.*)?\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}")
_AXIS = re.compile(r"'?([\w.\-]+)'?=(\d+)")
_AXIS_REFERENCE = re.compile(r"'?([\w.\-]+)'?(?::\((\d+)\)(\d+))?")
_ORDER = re.compile(r"\[([\d,]+)\](?:T\(([\d,]+)\))?$")


def first_group(attributes: str) -> tuple[int, ...]:
    """The first group of a collective; () where it names none.

        {{0,1},{2,3}}                   as lists; pairs of who sends to whom likewise
        [2,2]<=[2,2]T(1,0)              as 0, 1, ... in a shape, transposed and reshaped
        mesh['a'=2,'b'=4] {'b'}         along axes of a mesh (jax 0.12), or parts of them: 'b':(2)2 is the inner half

    Raises:
        ValueError: the groups are written in another way. To pass over them would be a plan without communication.
    """
    if iota := _IOTA.search(attributes):
        shape, dims, order = (_numbers(part) if part else None for part in iota.groups())
        return tuple(np.arange(math.prod(dims)).reshape(dims).transpose(order).reshape(shape)[0].tolist())
    if mesh := _MESH.search(attributes):
        return _along_axes(*mesh.groups())
    if found := _LIST.search(attributes):
        return _numbers(found.group(1)) if found.group(1) else ()
    if "replica_groups=" not in attributes:  # what waits for one that was begun before
        return ()
    raise ValueError(f"a collective's groups are written in a way that is not known: {attributes[:200]}")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _along_axes(axes: str, device_ids: str | None, along: str) -> tuple[int, ...]:
    """The group of the mesh's first chip; it varies slowest along the axis that is named first."""
    sizes = {name: int(size) for name, size in _AXIS.findall(axes)}
    strides = dict(zip(sizes, np.cumprod([1, *reversed(sizes.values())])[:-1][::-1].tolist(), strict=True))
    places = np.zeros(1, int)
    for name, before, size in _AXIS_REFERENCE.findall(along):
        count = int(size or sizes[name])
        stride = strides[name] * (sizes[name] // (int(before or 1) * count))
        places = (places[:, None] + stride * np.arange(count)).reshape(-1)
    return tuple(_chips(device_ids, math.prod(sizes.values()))[places].tolist())


def _chips(device_ids: str | None, count: int) -> np.ndarray:
    """The chips of a mesh in its own order: 0, 1, ... unless it says otherwise."""
    if device_ids is None:
        return np.arange(count)
    if order := _ORDER.match(device_ids):
        dims, axes = (_numbers(part) if part else None for part in order.groups())
        return np.arange(count).reshape(dims).transpose(axes).reshape(-1)
    return np.array(_numbers(device_ids))
