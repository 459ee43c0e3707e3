"""Memory that a step has freed is there for the next one: the kernel does not have to map and clear it again."""

import os
import platform
import subprocess
import sys

import pytest

from colar_jax import freed_memory

# Page faults of a block that is taken, written to and freed for the third time, as XLA does at each execution, in a
# thread of its own.
PROGRAM = """
import numpy  # which may come before us, and starts threads
import colar_jax
from colar_jax.freed_memory import keep_freed_memory

import ctypes, resource, sys, threading
import jax
jax.devices()

kept, libc, size = keep_freed_memory(), ctypes.CDLL(None), ctypes.c_size_t(int(sys.argv[1]) * 2**20)
libc.malloc.restype = ctypes.c_void_p

def steps():
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = ctypes.c_void_p(libc.malloc(size))
        ctypes.memset(block, 1, size.value)
        libc.free(block)
    print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=steps)
thread.start()
thread.join()
"""


def faults_of_a_step(mebibytes: int, **environment) -> tuple[bool, int]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PROGRAM, str(mebibytes)]
    done = subprocess.run(command, env=kept | environment, capture_output=True, text=True, check=True)
    said, faults = done.stdout.split()
    return said == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="nothing is kept where malloc is not glibc's")
@pytest.mark.parametrize("mebibytes", [33, 200])
def test_a_step_finds_its_memory_again(mebibytes):
    kept, faults = faults_of_a_step(mebibytes)
    assert kept and faults < 100


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="nothing is kept where malloc is not glibc's")
def test_what_the_environment_says_of_malloc_comes_first():
    kept, faults = faults_of_a_step(64, GLIBC_TUNABLES="glibc.malloc.mmap_threshold=131072")
    assert not kept and faults > 10_000


@pytest.mark.parametrize("platforms", ["", "cpu"])
def test_beside_an_accelerator_heaps_stay_as_they_are_unless_the_cpu_is_asked_for(platforms, monkeypatch, tmp_path):
    told = []
    (tmp_path / "accel0").touch()
    monkeypatch.setattr(freed_memory, "_ACCELERATORS", (str(tmp_path / "accel*"),))
    monkeypatch.setattr(freed_memory, "_tell_malloc", told.append)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    freed_memory.share_one_heap()
    assert len(told) == (platforms == "cpu")
