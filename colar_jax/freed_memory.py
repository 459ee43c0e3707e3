"""What a process on a CPU does with memory that it has freed: it keeps it.

At each execution XLA allocates what a program needs besides its arguments, and frees it at the end. glibc gives blocks
of this size (32 MiB and more always, man mallopt) back to the kernel, which maps and clears every page anew at the next
step: about a third of the processor time of a training step of a small model (docs/architecture.md).
"""

import ctypes
import glob
import os

# Of glibc's malloc.h: how much free memory at the end of the heap is given back (-1: none), how much more than is
# needed the heap grows by, how many blocks may have mappings of their own (0: all lie on the heap), how many heaps
# there may be.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8

# What the drivers of GPUs (NVIDIA's, under Windows too, and AMD's) and of TPUs make.
_ACCELERATORS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/accel*", "/dev/vfio/[0-9]*")


def share_one_heap() -> bool:
    """Have all threads allocate from one heap. Returns whether they do from now on.

    XLA's threads do the allocating, and a heap of a thread's own has no room for a block above 64 MiB, which is mapped
    by itself whatever `keep_freed_memory` says. A thread keeps the heap that it has: this comes before there are any,
    and before jax says what it computes on. Beside an accelerator nothing is done: a host has many cores there, which
    would wait for each other, and nothing of XLA's to keep.
    """
    if os.environ.get("JAX_PLATFORMS") != "cpu" and any(map(glob.glob, _ACCELERATORS)):
        return False
    return _tell_malloc({_ARENA_MAX: 1})


def keep_freed_memory() -> bool:
    """Have malloc keep what is freed for the next step. Returns whether it does now."""
    return _tell_malloc({_TRIM_THRESHOLD: -1, _TOP_PAD: 64 * 2**20, _MMAP_MAX: 0})


def _tell_malloc(settings: dict[int, int]) -> bool:
    """Nothing is done with another C library than glibc, or where the environment tells malloc what to do.

    (`MALLOC_MMAP_MAX_` and its like, or `GLIBC_TUNABLES`.)
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no mallopt; no C library to be found under this name
        return False
    return all(mallopt(parameter, value) for parameter, value in settings.items())
