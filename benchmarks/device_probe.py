"""What the device at hand is, and what a large product and a large copy reach on it."""

import importlib.metadata
import importlib.util
import os
import time

ROUNDS = 5


def probe(matrix_size: int, copy_bytes: int) -> dict:
    """Name, versions, FLOPs a second of a bfloat16 product of square matrices, bytes a second of a copy."""
    import jax
    import jax.numpy as jnp

    device = jax.local_devices()[0]
    # Random numbers: of zeros and ones a product takes less power, and is faster.
    square = jax.random.normal(jax.random.key(0), (matrix_size, matrix_size), jnp.bfloat16)
    product = jax.jit(jnp.matmul)
    # An addition of 1 reads everything once and writes it once, as a copy does, and XLA cannot leave it out.
    long = jnp.zeros(copy_bytes // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    return {
        "kind": device.device_kind,
        "platform": device.platform,
        "memory_gib": (device.memory_stats() or {}).get("bytes_limit", 0) / 2**30,
        "measured_flops": 2 * matrix_size**3 / _seconds(lambda: product(square, square).block_until_ready()),
        "measured_bandwidth": 2 * 4 * len(long) / _seconds(lambda: copy(long).block_until_ready()),
        "jax": jax.__version__,
        "runtime": device.client.platform_version.strip().splitlines()[0],
        "torch": torch_version(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def torch_version() -> str:
    """PyTorch's version, empty where it is not installed."""
    return importlib.metadata.version("torch") if importlib.util.find_spec("torch") else ""


def _seconds(work) -> float:
    """The best of some rounds, after one that compiles."""
    work()
    taken = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return min(taken)
