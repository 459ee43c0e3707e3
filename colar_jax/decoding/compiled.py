"""The decoder compiled for a mesh: each shard of the rows leaves its loops when its own rows are done."""

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh

from colar_jax.decoding.decoder import Decoded, DecodeLimits, decode
from colar_jax.decoding.prompt_rows import PackedPrompts
from colar_jax.decoding.thinking import Think
from colar_jax.model import sharded
from colar_jax.model.flash_attention import choose_attention
from colar_jax.parallel.choice import choose_decode_gather, device_bytes
from colar_jax.parallel.mesh import REPLICATED, ROWS, manual_axes
from colar_jax.parallel.sharding import Tree, bytes_per_device, only, parameter_specs
from colar_jax.settings import ModelConfig, ParallelConfig

logger = logging.getLogger(__name__)

# How to decode, from data of the program that is the same on all devices (None: there is none).
Ways = Callable[[Any], tuple[Think, DecodeLimits]]


# (model, rows..., what) -> a pytree of rows
OfRows = Callable[..., Any]


def compile_decode(
    graph,
    ways: Ways,
    compute: ModelConfig,
    mesh: Mesh,
    parallel: ParallelConfig,
    *,
    keeps_thoughts: bool,
):
    """A jitted function (parameters, prompts, keys_B, what=None) -> `Decoded`; prompts and keys are split by rows.

    Args:
        ways: of `what`, a pytree of arrays.
        keeps_thoughts: False for a caller that does not read them: they are large.
    """

    def of_rows(model, prompts: PackedPrompts, keys_B, what) -> Decoded:
        think, limits = ways(what)
        decoded = decode(model, prompts, keys_B, think, limits, dtype=jnp.dtype(compute.dtype))
        return decoded if keeps_thoughts else dataclasses.replace(decoded, thoughts=None)

    program = compile_rows(graph, of_rows, compute, mesh, parallel)
    return jax.jit(lambda parameters, prompts, keys_B, what=None: program(parameters, (prompts, keys_B), what))


def compile_rows(graph, of_rows: OfRows, compute: ModelConfig, mesh: Mesh, parallel: ParallelConfig):
    """A jitted function (parameters, rows, what=None): `of_rows(model, *rows, what)`, `rows` split over the devices.

    Where `fsdp` splits weights they are gathered once, before the loops; or, where they do not fit, layer by layer at
    every step, and then the devices that share them leave their loops together.
    """
    attention = choose_attention(parallel.attention, compute.dtype, mesh.devices.flat[0].platform)

    def program(parameters, rows: tuple, what=None):
        specs = parameter_specs(graph, parameters, mesh)
        gathers_each_step = mesh.shape["fsdp"] > 1 and _gathers_each_step(parameters, specs, compute, mesh, parallel)

        def of_this_device(shards, rows, what):
            model = sharded.merge(
                graph, shards, specs, mesh=mesh, dtype=compute.dtype, attention=attention,
                gathers_each_step=gathers_each_step,
            )  # fmt: skip
            return of_rows(model, *rows, what)

        # Each shard leaves its loops by itself, so what it holds varies from device to device by construction;
        # check_vma would want every loop's zeros to be told so.
        return jax.shard_map(
            of_this_device,
            mesh=mesh,
            axis_names=manual_axes(mesh),
            in_specs=(only(manual_axes(mesh), specs), ROWS, REPLICATED),
            out_specs=ROWS,
            check_vma=False,
        )(parameters, rows, what)

    return jax.jit(program)


def _gathers_each_step(parameters: Tree, specs: Tree, compute: ModelConfig, mesh: Mesh, parallel: ParallelConfig):
    memory = device_bytes(mesh.devices.flat[0])
    choice, reason = decode_gather(parameters, specs, compute, mesh, parallel, memory)
    _tell(f"decoding gathers weights {'at every step, a layer at a time' if choice == 'layer' else 'once'}: {reason}")
    return choice == "layer"


def decode_gather(
    parameters: Tree, specs: Tree, compute: ModelConfig, mesh: Mesh, parallel: ParallelConfig, memory: int | None
) -> tuple[str, str]:
    """`once` or `layer`, and why, for devices of so much memory (`parallel.choice.choose_decode_gather`)."""
    held = bytes_per_device(parameters, specs, mesh)
    kernels = {path: leaf for path, leaf in traverse_util.flatten_dict(parameters).items() if "blocks" in path}
    size = jnp.dtype(compute.dtype).itemsize * sum(int(np.prod(leaf.shape)) for leaf in kernels.values())
    return choose_decode_gather(parallel.decode_gather, held, size // mesh.shape["tensor"], memory)


@functools.cache  # once for every program of a run that says the same
def _tell(message: str) -> None:
    logger.info(message)
