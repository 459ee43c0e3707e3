"""What to change when a program does not fit."""

import math

from colar_jax.config import Config
from colar_jax.planning.compiled import Memory


def advice(config: Config, name: str, memory: Memory, mesh: dict[str, int]) -> list[str]:
    """Settings that lower what takes most, the mildest first; empty where it fits."""
    if memory.fits:
        return []
    num_chips, shards = math.prod(mesh.values()), mesh["data"] * mesh["fsdp"]
    held = sum(memory.arguments.values())
    found = []
    if held < memory.capacity / 2:
        found += _for_activations(config, name, config.stages[name].rows // shards)
    found += _for_weights(config, memory, mesh["fsdp"], num_chips)
    return found or ["take a chip with more memory"]


def _for_activations(config: Config, name: str, rows_per_chip: int) -> list[str]:
    stage, found = config.stages[name], []
    if config.model.dtype == "float32":
        found.append("--config.model.dtype=bfloat16 halves the activations")
    if config.model.remat != "full":
        found.append("--config.model.remat=full keeps one array a layer")
    if rows_per_chip > stage.accumulation:
        found.append(f"--config.stages.{name}.accumulation={2 * stage.accumulation} computes a batch in parts")
    if config.model.logits_chunk > 1024:
        found.append("--config.model.logits_chunk=1024 keeps fewer logits")
    if not found:
        found.append(f"--config.stages.{name}.row_positions={stage.row_positions // 2} shortens the rows")
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
