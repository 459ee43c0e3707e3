"""How long a program takes at best, and what decides it.

    compute = FLOPs / peak        HBM = bytes / bandwidth        ICI = sum over collectives of bytes sent / bandwidth

A perfect overlap of the three takes as long as the longest of them; no overlap takes their sum. What is measured lies
between, or above: kernels do not reach the peak.
"""

import dataclasses

from colar_jax.planning.costs import Costs
from colar_jax.planning.devices import Target


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of one run of a program, by what takes them."""

    compute: float
    hbm: float
    ici: float

    @property
    def bound(self) -> str:
        """What sets the time: compute, HBM or ICI."""
        times = {"compute": self.compute, "HBM": self.hbm, "ICI": self.ici}
        return max(times, key=times.get)

    @property
    def overlapped(self) -> float:
        """The least time: all three at once."""
        return max(self.compute, self.hbm, self.ici)

    @property
    def serial(self) -> float:
        """The time with nothing at once."""
        return self.compute + self.hbm + self.ici


def roofline(costs: Costs, target: Target) -> Roofline:
    """The times of a program's costs on a slice."""
    topology = target.topology
    ici = sum(
        collective.sent / topology.bandwidth(target.coordinates(collective.group)) for collective in costs.collectives
    )
    return Roofline(costs.flops / topology.chip.peak_flops, costs.hbm_bytes / topology.chip.hbm_bandwidth, ici)
