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
    found += _for_weights(config, memory, mesh["fsdp"], math.prod(mesh.values()))
    return found or ["take a chip with more memory"]


def advice_on_decoding(mesh: dict[str, int], num_kv_heads: int, bound: str) -> list[str]:
    """The setting that keeps weights in place, where a decode is bound by gathering them over `fsdp`."""
    tensor = math.gcd(num_kv_heads, math.prod(mesh.values()))
    if bound != "ICI" or mesh["fsdp"] == 1 or tensor == 1:
        return []
    return [f"--config.parallel.decode_mesh=tensor={tensor} decodes with weights in place, and gathers none"]


def _for_activations(config: Config) -> list[str]:
    found = []
    if config.model.dtype == "float32":
        found.append("--config.model.dtype=bfloat16 halves the activations")
    if config.model.remat != "full":
        found.append("--config.model.remat=full keeps one array a layer")
    if config.model.logits_chunk > 1024:
        found.append("--config.model.logits_chunk=1024 keeps fewer logits")
    return found


def _for_weights(config: Config, memory: Memory, fsdp: int, num_chips: int) -> list[str]:
    found = (
        [f"--config.parallel.mesh=fsdp={min(2 * fsdp, num_chips)} splits the weights further"]
        if fsdp < num_chips
        else []
    )
    if config.model.lora.rank and config.model.base_dtype == "float32":
        found.append("--config.model.base_dtype=bfloat16 halves the frozen weights")
    if not config.model.lora.rank and memory.arguments.get("optimizer", 0) > memory.capacity / 4:
        found.append("--config.model.lora.rank=128 trains adapters: no optimizer state for the rest")
    return found
