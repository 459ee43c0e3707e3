"""Memory that a step has freed is there for the next one: the kernel does not have to map and clear it again."""

import os
import platform
import subprocess
import sys

import pytest

# Page faults of one more execution of a program that needs 64 MiB besides its arguments, after two others.
PROGRAM = """
import resource
import jax, jax.numpy as jnp
from colar_jax.runs.freed_memory import keep_freed_memory

kept = keep_freed_memory()
program = jax.jit(lambda x, w: jnp.sum(jnp.tanh(x @ w)))
x, w = jnp.ones((2**14, 8)), jnp.ones((8, 2**10))
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(x, w).block_until_ready()
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
    assert kept and faults < 1000
    kept, faults = faults_of_a_step(**given_back)
    assert not kept and faults > 10_000
