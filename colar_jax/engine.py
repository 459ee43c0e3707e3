"""A model on its devices: compiles programs that use it, and places their arguments.

Parameters are arguments of the compiled programs, never part of them. So one engine serves all stages of a run, and
also a plan for devices that are not there.
"""

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

from colar_jax.decoding.decoder import Decoded, decode
from colar_jax.decoding.loops import DecodeLimits
from colar_jax.decoding.prompt_rows import PackedPrompts
from colar_jax.decoding.thinking import Think
from colar_jax.model import sharded
from colar_jax.model.execution import Execution
from colar_jax.model.flash_attention import choose_attention
from colar_jax.model.reasoner import Reasoner
from colar_jax.parallel import fsdp
from colar_jax.parallel import mesh as devices
from colar_jax.parallel.choice import choose_decode_gather, device_bytes
from colar_jax.parallel.mesh import REPLICATED, ROWS, manual_axes, summed_axes
from colar_jax.parallel.sharding import Tree, bytes_per_device, moved, only, parameter_specs
from colar_jax.settings import AUTOMATIC, PLAINLY, Compute, ParallelConfig, parse_mesh

logger = logging.getLogger(__name__)

# How to decode, from arguments of the program that are the same on all devices (None: there are none).
Ways = Callable[[Any], tuple[Think, DecodeLimits]]
# (model, how to compute, rows..., what) -> a pytree of rows
OfRows = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Engine:
    """Equal engines compile equal programs.

    Attributes:
        graph: the model's graph, from `reasoner.build`.
        mesh: the devices.
        compute: how the model is computed on each of them.
        parallel: how the work is split over them.
    """

    graph: Any
    mesh: Mesh
    compute: Compute = PLAINLY
    parallel: ParallelConfig = AUTOMATIC

    @property
    def dtype(self) -> jnp.dtype:
        """Of activations."""
        return jnp.dtype(self.compute.dtype)

    @functools.cached_property
    def for_decoding(self) -> "Engine":
        """The engine that decodes what this one trains: itself, or one on the mesh of `parallel.decode_mesh`.

        Its parameters are `placed` once for many decodes. UserError: that mesh does not fit the devices.
        """
        if not self.parallel.decode_mesh:
            return self
        sizes = parse_mesh(self.parallel.decode_mesh)
        mesh = devices.make_mesh(list(self.mesh.devices.flat), sizes, "parallel.decode_mesh")
        return dataclasses.replace(self, mesh=mesh, parallel=dataclasses.replace(self.parallel, decode_mesh=""))

    @property
    def num_shards(self) -> int:
        """Into how many parts the rows of a batch are split."""
        return devices.num_shards(self.mesh)

    @property
    def attention(self) -> str:
        """The implementation of attention in packed rows (`model.flash_attention`). UserError: it does not run here."""
        return choose_attention(self.parallel.attention, self.compute.dtype, self.mesh.devices.flat[0].platform)

    def put_rows(self, batch):
        """A pytree of host arrays onto the devices, split by rows."""
        return devices.put_rows(batch, self.mesh)

    def shapes_of_rows(self, batch):
        """As `put_rows`, of shapes (or of arrays for their shapes): what a program is lowered with."""
        return devices.shapes_of_rows(batch, self.mesh)

    def parameter_specs(self, parameters: Tree) -> Tree:
        """How all parameters of the model lie on the mesh."""
        return parameter_specs(self.graph, parameters, self.mesh)

    def placed(self, parameters: Tree) -> Tree:
        """Parameters of another mesh of the same devices, as they lie on this one."""
        return moved(parameters, self.parameter_specs(parameters), self.mesh)

    def merge(self, shards: Tree, specs: Tree) -> Reasoner:
        """The model from one device's part of all its parameters, inside `shard_map` (`model.sharded.merge_shards`)."""
        return sharded.merge_shards(self.graph, shards, specs)

    def execution(self, specs: Tree, *, gathers_each_step: bool = False) -> Execution:
        """How a device computes with a model whose parameters lie as `specs` say."""
        gather_layer, splits_heads = sharded.layer_gatherer(specs, self.dtype), self.mesh.shape["tensor"] > 1
        gathers_each_step = gathers_each_step and gather_layer is not None
        return Execution.of(
            self.compute,
            gather_layer=gather_layer,
            gathers_each_step=gathers_each_step,
            attention=self.attention,
            splits_heads=splits_heads,
            meets_over=summed_axes(self.mesh) if splits_heads else (fsdp.AXIS,) if gathers_each_step else (),
        )

    def compile_decode(self, ways: Ways, *, keeps_thoughts: bool):
        """A jitted function (parameters, prompts, keys_B, what=None) -> `Decoded`; prompts and keys are split by rows.

        Args:
            ways: of `what`, a pytree of arrays.
            keeps_thoughts: False for a caller that does not read them: they are large.
        """

        def of_rows(model, compute: Execution, prompts: PackedPrompts, keys_B, what) -> Decoded:
            decoded = decode(model, prompts, keys_B, *ways(what), compute)
            return decoded if keeps_thoughts else dataclasses.replace(decoded, thoughts=None)

        program = self.compile_rows(of_rows)
        return jax.jit(lambda parameters, prompts, keys_B, what=None: program(parameters, (prompts, keys_B), what))

    def compile_rows(self, of_rows: OfRows):
        """A jitted function (parameters, rows, what=None): `of_rows(model, compute, *rows, what)`, split by rows.

        Where `fsdp` splits weights they are gathered once, before the loops; or, where they do not fit, layer by layer
        at every step, and then the devices that share them leave their loops together.
        """
        mesh = self.mesh

        def program(parameters, rows: tuple, what=None):
            specs = self.parameter_specs(parameters)
            gathers_each_step = mesh.shape["fsdp"] > 1 and self._gathers_each_step(parameters)
            compute = self.execution(specs, gathers_each_step=gathers_each_step)

            def of_this_device(shards, rows, what):
                return of_rows(self.merge(shards, specs), compute, *rows, what)

            # Each shard leaves its loops by itself, so what it holds varies from device to device by construction;
            # check_vma would need every loop's zeros to be marked as varying.
            return jax.shard_map(
                of_this_device,
                mesh=mesh,
                axis_names=manual_axes(mesh),
                in_specs=(only(manual_axes(mesh), specs), ROWS, REPLICATED),
                out_specs=ROWS,
                check_vma=False,
            )(parameters, rows, what)

        return jax.jit(program)

    def decode_gather(self, parameters: Tree, memory: int | None) -> tuple[str, str]:
        """`once` or `layer`, and why, for devices of so much memory (`parallel.choice.choose_decode_gather`)."""
        held = bytes_per_device(parameters, self.parameter_specs(parameters), self.mesh)
        kernels = {path: leaf for path, leaf in traverse_util.flatten_dict(parameters).items() if "blocks" in path}
        size = self.dtype.itemsize * sum(int(np.prod(leaf.shape)) for leaf in kernels.values())
        return choose_decode_gather(self.parallel.decode_gather, held, size // self.mesh.shape["tensor"], memory)

    def _gathers_each_step(self, parameters: Tree) -> bool:
        # A device of another process does not say how much it has: all would not choose alike. One that is only
        # described has no process.
        device = next(iter(self.mesh.local_devices), self.mesh.devices.flat[0])
        choice, reason = self.decode_gather(parameters, device_bytes(device))
        how = "at every step, a layer at a time" if choice == "layer" else "once"
        _tell(f"decoding gathers weights {how}: {reason}")
        return choice == "layer"


@functools.cache  # once for every program of a run that says the same
def _tell(message: str) -> None:
    logger.info(message)
