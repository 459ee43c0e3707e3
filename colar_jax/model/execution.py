"""How a Llama computes on the devices that it is on: which is no property of the model."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from colar_jax.parallel import fsdp

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
        """Whether a decode loop goes on here: where weights are gathered in it, devices leave it together."""
        return jax.lax.pmax(goes_on.astype(jnp.int32), fsdp.AXIS) > 0 if self.gathers_each_step else goes_on
