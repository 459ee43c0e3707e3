"""What `auto` means: the mesh, and when a decode gathers weights. Each choice comes with its reason, for the log."""

import jax

# Shares of a device's memory: what parameters, gradients and optimizer may fill (the rest is for activations and
# gathered weights), and what may be full while a decode holds whole weights (the rest is for caches).
STATE_SHARE = 0.5
DECODE_SHARE = 0.75


def device_bytes(device: jax.Device) -> int | None:
    """The memory of a device; None where it does not say, as CPUs and devices that are only described."""
    try:
        stats = device.memory_stats()
    except (jax.errors.JaxRuntimeError, NotImplementedError):  # a device that is only described, for compiling
        return None
    return stats.get("bytes_limit") if stats else None


def choose_mesh(state_bytes: int, num_devices: int, memory: int | None) -> tuple[dict[str, int], str]:
    """Mesh sizes for `auto`, and why: the smallest `fsdp` with which the state fills at most half of a device.

    Args:
        state_bytes: of parameters, gradients and optimizer, all together.
        memory: of one device.
    """
    if memory is None:
        return {}, "all devices on data: they do not say how much memory they have"
    for fsdp in (size for size in range(1, num_devices + 1) if num_devices % size == 0):
        if state_bytes / fsdp <= STATE_SHARE * memory:
            return {"fsdp": fsdp}, f"fsdp={fsdp}: {_gib(state_bytes / fsdp)} of state in {_gib(memory)} a device"
    return {"fsdp": num_devices}, (
        f"fsdp={num_devices}: even so {_gib(state_bytes / num_devices)} of state leave little of {_gib(memory)} a "
        "device. Take more devices, adapters (model.lora.rank), or model.base_dtype=bfloat16"
    )


def choose_decode_gather(asked: str, held_bytes: int, whole_bytes: int, memory: int | None) -> tuple[str, str]:
    """`once` or `layer`, and why.

    Args:
        asked: `parallel.decode_gather`.
        held_bytes: of a device's shards.
        whole_bytes: of a device's gathered weights (its part of them, where `tensor` splits them).
        memory: of one device.
    """
    if asked != "auto":
        return asked, "as parallel.decode_gather says"
    if memory is None:
        return "once", "devices do not say how much memory they have"
    facts = f"{_gib(whole_bytes)} of whole weights beside {_gib(held_bytes)} of shards in {_gib(memory)} a device"
    return ("once" if held_bytes + whole_bytes <= DECODE_SHARE * memory else "layer"), facts


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
