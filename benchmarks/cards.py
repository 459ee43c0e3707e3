"""What a GPU can do by its maker's numbers, by the name that JAX gives it (`device_kind`)."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Card:
    """One kind of GPU."""

    peak_flops: float  # a second, bfloat16, dense
    bandwidth: float  # bytes a second, of its own memory
    source: str


# Data sheets give bfloat16 with sparsity for the H100 and H200: half of it is dense.
_H100 = "nvidia.com/en-us/data-center/h100"
_A100 = "nvidia.com/en-us/data-center/a100"
CARDS = {
    "NVIDIA H100 80GB HBM3": Card(989.4e12, 3.35e12, _H100),
    "NVIDIA H100 NVL": Card(835.5e12, 3.9e12, _H100),
    "NVIDIA H100 PCIe": Card(756.5e12, 2.0e12, _H100),
    "NVIDIA H200": Card(989.4e12, 4.8e12, "nvidia.com/en-us/data-center/h200"),
    "NVIDIA A100-SXM4-80GB": Card(312e12, 2.039e12, _A100),
    "NVIDIA A100-SXM4-40GB": Card(312e12, 1.555e12, _A100),
    "NVIDIA A100 80GB PCIe": Card(312e12, 1.935e12, _A100),
    "NVIDIA A100-PCIE-40GB": Card(312e12, 1.555e12, _A100),
}


def card_of(kind: str, measured_flops: float, measured_bandwidth: float) -> Card:
    """The card of this name; one that is not listed, a slice of one and a CPU by what was measured on it."""
    return CARDS.get(kind, Card(measured_flops, measured_bandwidth, "measured: a large product, and a large copy"))
