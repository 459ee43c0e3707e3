"""What a process on a CPU does with memory that it has freed: it keeps it.

At each execution XLA allocates what a program needs besides its arguments, and frees it at the end. glibc gives blocks
of this size (32 MiB and more always, man mallopt) back to the kernel, which maps and clears every page anew at the next
step: about a third of the processor time of a training step of a small model (docs/architecture.md).
"""

import ctypes
import os

# Of glibc's malloc.h: how much free memory at the end of the heap is given back (-1: none), how much more than is
# needed the heap grows by, and how many blocks may have mappings of their own (0: all lie on the heap).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_SETTINGS = {_TRIM_THRESHOLD: -1, _TOP_PAD: 64 * 2**20, _MMAP_MAX: 0}


def keep_freed_memory() -> bool:
    """Have malloc keep what is freed for the next step. Returns whether it does now.

    Nothing is done with another C library than glibc, or where the environment tells malloc what to do
    (`MALLOC_MMAP_MAX_` and its like, or `GLIBC_TUNABLES`).
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no mallopt; no C library to be found under this name
        return False
    taken = [mallopt(parameter, value) for parameter, value in _SETTINGS.items()]
    return all(taken)
