"""Memory that a step has freed is there for the next one: the kernel does not have to map and clear it again."""

import os
import platform
import subprocess
import sys

import pytest

# Page faults of a block of 64 MiB, taken, written to and freed for the third time, as XLA does at each execution.
PROGRAM = """
import ctypes, resource
from colar_jax.runs.freed_memory import keep_freed_memory

kept, libc, size = keep_freed_memory(), ctypes.CDLL(None), ctypes.c_size_t(64 * 2**20)
libc.malloc.restype = ctypes.c_void_p
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p(libc.malloc(size))
    ctypes.memset(block, 1, size.value)
    libc.free(block)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults_of_a_step(**environment) -> tuple[bool, int]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=kept | environment, capture_output=True, text=True, check=True)
    said, faults = done.stdout.split()
    return said == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="nothing is kept where malloc is not glibc's")
def test_a_step_finds_its_memory_again_unless_the_environment_says_otherwise():
    given_back = {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}
    kept, faults = faults_of_a_step()
    assert kept and faults < 100
    kept, faults = faults_of_a_step(**given_back)
    assert not kept and faults > 10_000
