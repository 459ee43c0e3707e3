"""How a Llama computes on the devices that it is on: which is no property of the model."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from colar_jax.parallel import fsdp
from colar_jax.parallel.mesh import BATCH_AXES

Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Execution:
    """Set on a `Llama` by `model.sharded.merge`; as it stands, for whole weights and XLA's attention.

    Attributes:
        gather_layer: a layer's whole weights from this device's shards of them; None where they are whole.
        gathers_each_step: whether a decode gathers a layer's weights at every step; otherwise once, before its loops.
        attention: of `model.flash_attention.packed_attention`: `xla`, `cudnn` or `splash`.
        splits_heads: whether heads are split over the tensor axis, by XLA.
    """

    gather_layer: Callable[[Tree], Tree] | None = None
    gathers_each_step: bool = False
    attention: str = "xla"
    splits_heads: bool = False

    def whole(self, layer: Tree) -> Tree:
        """A layer's weights to compute with."""
        return layer if self.gather_layer is None else self.gather_layer(layer)

    def before_decode(self, layer: Tree) -> Tree:
        """A layer's weights as the loops of a decode hold them."""
        return layer if self.gathers_each_step else self.whole(layer)

    def at_step(self, layer: Tree) -> Tree:
        """A layer's weights to compute a step of a decode with, from `before_decode`'s."""
        return self.whole(layer) if self.gathers_each_step else layer

    def anyone(self, goes_on):
        """Whether a decode loop goes on here: devices that meet in its steps leave it together.

        Where weights are gathered in it, those of an `fsdp` group meet. Where XLA splits heads, all do: what it sends
        from one to the next over `tensor` is one operation of all devices (a collective-permute), whatever its pairs.
        """
        if not (self.splits_heads or self.gathers_each_step):
            return goes_on
        return jax.lax.pmax(goes_on.astype(jnp.int32), BATCH_AXES if self.splits_heads else fsdp.AXIS) > 0
