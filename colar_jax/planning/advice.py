"""What to change when a program does not fit."""

import math

from colar_jax.config import Config
from colar_jax.planning.compiled import Memory


def advice(config: Config, memory: Memory, mesh: dict[str, int], *, is_training: bool, smaller_batch: str) -> list[str]:
    """Settings that lower what takes most, the mildest first; empty where it fits.

    Args:
        smaller_batch: the setting with which less goes through the program at a time.
    """
    if memory.fits:
        return []
    found = []
    if sum(memory.arguments.values()) < memory.capacity / 2:
        found += [*(_for_activations(config) if is_training else []), smaller_batch]
    found += _for_weights(config, memory, mesh, is_training=is_training)
    return found or ["take a chip with more memory"]


def advice_on_decoding(mesh: dict[str, int], num_kv_heads: int, bound: str) -> list[str]:
    """The setting that keeps weights in place, where a decode is bound by gathering them over `fsdp`."""
    tensor = math.gcd(num_kv_heads, math.prod(mesh.values()))
    if bound != "ICI" or mesh["fsdp"] == 1 or tensor == 1:
        return []
    return [f"--config.parallel.decode_mesh=tensor={tensor} decodes with weights in place, and gathers none"]


def _split_further(mesh: dict[str, int]) -> str:
    """A mesh of as many chips with the next larger `fsdp`, other axes that split weights as they are; or nothing."""
    kept = {axis: size for axis, size in mesh.items() if axis not in ("data", "fsdp") and size > 1}
    chips = math.prod(mesh.values()) // math.prod(kept.values())
    larger = [size for size in range(mesh["fsdp"] + 1, chips + 1) if chips % size == 0]
    return ",".join(f"{axis}={size}" for axis, size in ({"fsdp": larger[0]} | kept).items()) if larger else ""


def _for_activations(config: Config) -> list[str]:
    found = []
    if config.model.dtype == "float32":
        found.append("--config.model.dtype=bfloat16 halves the activations")
    if config.model.remat != "full":
        found.append("--config.model.remat=full keeps one array a layer")
    if config.model.logits_chunk > 1024:
        found.append("--config.model.logits_chunk=1024 keeps fewer logits")
    return found


def _for_weights(config: Config, memory: Memory, mesh: dict[str, int], *, is_training: bool) -> list[str]:
    found = []
    if sizes := _split_further(mesh):
        field = "decode_mesh" if config.parallel.decode_mesh and not is_training else "mesh"
        found.append(f"--config.parallel.{field}={sizes} splits the weights further")
    if config.model.lora.rank and config.model.base_dtype == "float32":
        found.append("--config.model.base_dtype=bfloat16 halves the frozen weights")
    if not config.model.lora.rank and memory.arguments.get("optimizer", 0) > memory.capacity / 4:
        found.append("--config.model.lora.rank=128 trains adapters: no optimizer state for the rest")
    return found
