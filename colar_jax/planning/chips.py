"""What a chip can do, by its maker's numbers, and how chips are wired; of a GPU, how much memory it has."""

import dataclasses
import math
import re

from colar_jax.config import nearest
from colar_jax.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of TPU chip; or a GPU, of which nothing but the memory is asked."""

    name: str
    peak_flops: float  # a second, bfloat16
    hbm_bytes: float
    hbm_bandwidth: float  # bytes a second
    link_bandwidth: float  # bytes a second, in one direction of one of the links to a neighbour
    network_bandwidth: float  # bytes a second to other slices, in one direction, of a chip's share of its host's
    torus_sizes: int  # along an axis of a multiple of so many chips, the last is wired to the first
    source: str
    is_tpu: bool = True

    @property
    def critical_intensity(self) -> float:
        """FLOPs a byte of HBM at which compute and memory take the same time."""
        return self.peak_flops / self.hbm_bandwidth


# Inter-chip bandwidth is published for a chip; a link is a fourth of it in a 2D torus, a sixth in a 3D one.
CHIPS = {
    "v5e": Chip("v5e", 197e12, 16 * GIB, 819e9, 200e9 / 4, 6.4e12 / 8 / 256, 16, "cloud.google.com/tpu/docs/v5e"),
    "v5p": Chip("v5p", 459e12, 95 * GIB, 2765e9, 600e9 / 6, 50e9 / 8, 4, "cloud.google.com/tpu/docs/v5p"),
    "v6e": Chip("v6e", 918e12, 32 * GIB, 1640e9, 400e9 / 4, 25.6e12 / 8 / 256, 16, "cloud.google.com/tpu/docs/v6e"),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice: so many chips along each axis of the wiring; or some GPUs of one machine."""

    chip: Chip
    dims: tuple[int, ...]

    @property
    def name(self) -> str:
        """As it is written, `v5e:4x4` or `gpu:80GiBx8`."""
        return f"{self.chip.name}{':' if self.chip.is_tpu else 'x'}{'x'.join(map(str, self.dims))}"

    @property
    def num_chips(self) -> int:
        """Chips of the slice, one device each."""
        return math.prod(self.dims)

    def coordinates(self, position: int) -> tuple[int, ...]:
        """Where a device is, in the order in which TPUs are listed: a host's square of four, then host by host.

        The first axis goes fastest, among a host's chips and among hosts. (As libtpu lists v5e, v5p and v6e.)
        """
        of_host = [min(2, size) if axis < 2 else 1 for axis, size in enumerate(self.dims)]
        within, hosts = [], []
        for size in of_host:
            position, coordinate = divmod(position, size)
            within.append(coordinate)
        for size, own in zip(self.dims, of_host, strict=True):
            position, coordinate = divmod(position, size // own)
            hosts.append(coordinate)
        return tuple(host * own + chip for host, own, chip in zip(hosts, of_host, within, strict=True))

    def bandwidth(self, coordinates: list[tuple[int, ...]]) -> float:
        """Bytes a second that each of a group of chips can send, over the axes along which the group extends.

        Both directions of a ring, where the group goes all the way round; else one, as end chips have one neighbour.
        """
        links = 0
        for size, along in zip(self.dims, zip(*coordinates, strict=True), strict=False):
            extent = len(set(along))
            if extent > 1:
                links += 2 if extent == size and size % self.chip.torus_sizes == 0 else 1
        return max(links, 1) * self.chip.link_bandwidth


_GPUS = re.compile(r"gpu:([1-9]\d{0,3})GiB(?:x([1-9]\d{0,3}))?")


def parse_topology(text: str) -> Topology:
    """A slice from text such as `v5e:4x4`, or GPUs from `gpu:24GiB` (one) or `gpu:80GiBx8`.

    Raises:
        UserError: there is no such chip, or its axes are others.
    """
    name, _, dims_text = text.partition(":")
    if name == "gpu":
        found = _GPUS.fullmatch(text)
        if found is None:
            raise UserError(f"--topology={text!r}: say a GPU's memory, gpu:24GiB, and how many if not one, gpu:80GiBx8")
        chip = Chip(f"gpu:{found[1]}GiB", 1.0, int(found[1]) * GIB, 1.0, 1.0, 1.0, 1, "its user", is_tpu=False)
        return Topology(chip, (int(found[2] or 1),))
    if name not in CHIPS:
        raise UserError(f"--topology={text!r}: {name!r} is none of {', '.join(CHIPS)}, gpu.{nearest(name, CHIPS)}")
    num_axes = 3 if name == "v5p" else 2
    if not re.fullmatch("x".join([r"[1-9]\d*"] * num_axes), dims_text):
        example = "4x4x4" if num_axes == 3 else "4x4"
        raise UserError(f"--topology={text!r}: name the chips along {num_axes} axes, such as {name}:{example}")
    return Topology(CHIPS[name], tuple(map(int, dims_text.split("x"))))
