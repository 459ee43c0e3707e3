"""How a Llama computes on the devices that it is on: which is no property of the model."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from colar_jax.parallel.sharding import Tree
from colar_jax.settings import Compute


@dataclasses.dataclass(frozen=True)
class Execution(Compute):
    """How a pass is computed on one device: the settings, and what the mesh makes of them.

    The defaults are those of one device: whole weights, XLA's attention. `Engine.execution` makes one for a mesh.

    Attributes:
        gather_layer: a layer's whole weights from this device's shards of them; None where they are whole.
        gathers_each_step: whether a decode gathers a layer's weights at every step; otherwise once, before its loops.
        attention: of `model.flash_attention.packed_attention`: `xla`, `cudnn` or `splash`.
        splits_heads: whether heads are split over the tensor axis, by XLA.
        meets_over: the axes whose devices leave a decode loop together.
        rows_over: the mesh axes that the rows of a training step are split over; empty where one device has all.
        forward_only: whether nobody asks for gradients.
    """

    gather_layer: Callable[[Tree], Tree] | None = None
    gathers_each_step: bool = False
    attention: str = "xla"
    splits_heads: bool = False
    meets_over: tuple[str, ...] = ()
    rows_over: tuple[str, ...] = ()
    forward_only: bool = False

    @classmethod
    def of(cls, compute: Compute, **of_mesh) -> "Execution":
        """That of these settings."""
        return cls(**{field.name: getattr(compute, field.name) for field in dataclasses.fields(Compute)}, **of_mesh)

    def whole(self, layer: Tree) -> Tree:
        """A layer's weights to compute with."""
        return layer if self.gather_layer is None else self.gather_layer(layer)

    def before_decode(self, layer: Tree) -> Tree:
        """A layer's weights as the loops of a decode hold them."""
        return layer if self.gathers_each_step else self.whole(layer)

    def for_prefill(self) -> "Execution":
        """How a pass without a backward pass is computed."""
        return dataclasses.replace(self, remat="none", scan_layers=True, forward_only=True)

    def for_steps(self) -> "Execution":
        """How the steps of a decode are computed: on layers from `before_decode`, without a backward pass."""
        gather_layer = self.gather_layer if self.gathers_each_step else None
        return dataclasses.replace(self, remat="none", scan_layers=False, gather_layer=gather_layer)

    def over_all_rows(self, sums):
        """Sums over the rows of this device, as sums over those of all (of one microbatch)."""
        return jax.lax.psum(sums, self.rows_over) if self.rows_over else sums

    def anyone(self, goes_on):
        """Whether a decode loop goes on here: devices that meet in its steps leave it together.

        Where weights are gathered in it, those of an `fsdp` group meet. Where XLA splits heads, all do: what it sends
        from one to the next over `tensor` is one operation of all devices (a collective-permute), whatever its pairs.
        """
        if not self.meets_over:
            return goes_on
        return jax.lax.pmax(goes_on.astype(jnp.int32), self.meets_over) > 0
