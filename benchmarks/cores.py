"""The cores that a measured process computes on: both sides of a comparison are to have the same ones."""

import os

CAN_HOLD = hasattr(os, "sched_setaffinity")  # Linux


def usable() -> list[int]:
    """The cores that this process may use, by their numbers."""
    return sorted(os.sched_getaffinity(0)) if CAN_HOLD else list(range(os.cpu_count() or 1))


def hold_to(count: int) -> int:
    """Hold this process, and all that it starts from now on, to some of its cores (0: all of them).

    XLA makes its threads for the cores that there are when jax first computes, and this comes before.

    Returns:
        How many cores there are now.

    Raises:
        ValueError: there are not as many, or this system holds no process to some of its cores.
    """
    own = usable()
    if not 0 <= count <= len(own):
        raise ValueError(f"{count} cores: this process may use {len(own)}")
    if count in (0, len(own)):
        return len(own)
    if not CAN_HOLD:
        raise ValueError(f"{count} cores: this system holds no process to some of its {len(own)}, so it has all")
    os.sched_setaffinity(0, own[:count])
    return count
