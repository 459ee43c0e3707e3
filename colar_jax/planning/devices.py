"""Devices to compile for: those of a TPU slice that is not here, or as many of this machine's CPU (so for GPUs)."""

import contextlib
import dataclasses
import importlib.util
import os

import jax

from colar_jax.errors import UserError
from colar_jax.planning.chips import Topology

COMPILERS = ("auto", "tpu", "host")


@dataclasses.dataclass(frozen=True)
class Target:
    """A slice, and the devices that stand for it."""

    topology: Topology
    devices: list
    is_tpu: bool  # False: host devices, whose compiler is another

    def coordinates(self, positions: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Where devices are in the slice's wiring, by their positions in `devices`."""
        if self.is_tpu:
            return [tuple(self.devices[position].coords) for position in positions]
        return [self.topology.coordinates(position) for position in positions]


def open_target(topology: Topology, compiler: str = "auto") -> Target:
    """The devices of a slice. To be called before anything asks jax for its devices.

    Args:
        compiler: `tpu` (needs libtpu, and no TPU), `host`, or `auto`: TPU where libtpu is installed. For GPUs: `host`.

    Raises:
        UserError: there is no libtpu, libtpu does not know the slice, or jax has fewer host devices already.
    """
    if compiler not in COMPILERS:
        raise UserError(f"--compiler={compiler!r} is none of {', '.join(COMPILERS)}")
    if compiler == "tpu" and not topology.chip.is_tpu:
        raise UserError(f"--compiler=tpu is for TPUs, and --topology={topology.name} are GPUs: leave it out")
    has_libtpu = importlib.util.find_spec("libtpu") is not None
    if compiler == "tpu" and not has_libtpu:
        raise UserError("--compiler=tpu needs libtpu: pip install -e '.[tpu]', or take --compiler=host")
    # Nothing runs on a TPU here, even where there is one.
    jax.config.update("jax_platforms", "cpu")
    if compiler == "host" or not has_libtpu or not topology.chip.is_tpu:
        return Target(topology, _host_devices(topology.num_chips), is_tpu=False)
    return Target(topology, _tpu_devices(topology), is_tpu=True)


def _host_devices(number: int) -> list:
    with contextlib.suppress(RuntimeError):  # jax has its devices already: the number is checked below
        jax.config.update("jax_num_cpu_devices", number)
    if len(jax.devices()) < number:
        raise UserError(
            f"{number} host devices are needed, and jax was started with {len(jax.devices())}: "
            f"set XLA_FLAGS=--xla_force_host_platform_device_count={number}"
        )
    return jax.devices()[:number]


def _tpu_devices(topology: Topology) -> list:
    from jax.experimental import topologies  # needed for TPUs alone

    # libtpu would ask the cloud which TPU this machine has, and let one process at a time have it.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology.name)
    except Exception as error:  # of libtpu, which has errors of its own
        reason = str(error).splitlines()[0]
        raise UserError(f"--topology={topology.name}: libtpu does not make such a slice ({reason})") from error
    devices = list(described.devices)
    if len(devices) != topology.num_chips:
        raise UserError(f"--topology={topology.name}: {len(devices)} devices for {topology.num_chips} chips")
    return devices
