"""Low-rank adapters beside frozen weights (LoRA, arXiv 2106.09685): `x @ W + alpha / rank * (dropout(x) @ A) @ B`.

A model has them where its `LoraConfig` says so; then they and the latent head are all that is trained and saved. `A`
and `B` are float32, computed in the dtype of `x`; what they are added to may be held in bfloat16.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from colar_jax.model.linear import parameter, project
from colar_jax.parallel.sharding import Tree
from colar_jax.settings import LoraSettings, parse_targets

# The name of an adapter in the tree of parameters, beside the `kernel` that it corrects.
ADAPTER = "adapter"
# A stream of its own, so that the base's random weights do not depend on whether there are adapters.
_STREAM = 0x10A


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Which projections of every layer have an adapter, and of what size."""

    rank: int
    alpha: float
    targets: tuple[str, ...]  # names of a `Block`'s linear layers, such as ("query", "value")
    dropout: float = 0.0  # of the adapter's input, in training

    @property
    def scale(self) -> float:
        """What `A @ B` is multiplied by."""
        return self.alpha / self.rank


def lora_config(settings: LoraSettings) -> LoraConfig | None:
    """The adapters that a config asks for; None where everything is trained."""
    if not settings.rank:
        return None
    return LoraConfig(settings.rank, settings.alpha, parse_targets(settings.targets), settings.dropout)


class LowRank(nnx.Module):
    """The correction of one linear layer, `[..., I]` to `[..., O]`; zero before training, as `B` is."""

    def __init__(self, in_size: int, out_size: int, config: LoraConfig, name: str, *, rngs: nnx.Rngs):
        self.config = config
        self.number = config.targets.index(name)  # tells its dropout from that of the layer's other adapters
        # PEFT's Kaiming initialisation with a = sqrt(5), whose bound comes to 1 / sqrt(I).
        bound = in_size**-0.5
        a_IR = jax.random.uniform(rngs.lora(), (in_size, config.rank), jnp.float32, -bound, bound)
        # Names without a rule in `parallel.sharding`: adapters are small, and the same on every device.
        self.a = nnx.Param(a_IR, out_sharding=("adapter_in", "rank"))
        self.b = parameter(rngs, (config.rank, out_size), ("rank", "adapter_out"))

    def __call__(self, x, dropout_keys_B=None):
        """What to add to the linear layer's output; in training, `dropout_keys_B` has a key for each row of `x`."""
        if dropout_keys_B is not None:
            x = dropped_out(x, fold_each(dropout_keys_B, self.number), self.config)
        low = project(x, self.a[...].astype(x.dtype))
        return self.config.scale * project(low, self.b[...].astype(x.dtype))


@functools.partial(jax.tree_util.register_dataclass, data_fields=["keys_BG"], meta_fields=["branch_size"])
@dataclasses.dataclass(frozen=True)
class BranchKeys:
    """Dropout in tree rows: none of the trunk, and of each branch the same entries at all of its positions.

    What a branch drops is what a row of one position drops with its key: a decode, which feeds a position at a time
    with one key, has the same mask at every step.
    """

    keys_BG: jax.Array
    branch_size: int  # T


def fold_each(keys, number):
    """A `number` folded into each key of a pytree of arrays of them."""
    return jax.tree.map(
        lambda of: jax.vmap(jax.random.fold_in, in_axes=(0, None))(of.reshape(-1), number).reshape(of.shape), keys
    )


def dropped_out(x, keys, config: LoraConfig):
    """`x` with a share `dropout` of its entries zero and the others scaled up, each row from a key of its own.

    `keys` has a key for each row, or is `BranchKeys`.
    """
    if isinstance(keys, BranchKeys):
        (B, G), T, size = keys.keys_BG.shape, keys.branch_size, x.shape[-1]
        first = x.shape[1] - G * T
        branches = x[:, first:].reshape(B * G, T, size)
        masks_BG1I = _kept(keys.keys_BG.reshape(-1), branches[:, :1], config)
        branches = jnp.where(masks_BG1I, branches / (1 - config.dropout), jnp.zeros((), x.dtype))
        return jnp.concatenate([x[:, :first], branches.reshape(B, G * T, size)], axis=1)
    return jnp.where(_kept(keys, x, config), x / (1 - config.dropout), jnp.zeros((), x.dtype))


def _kept(keys_B, x, config: LoraConfig):
    keep = 1 - config.dropout
    return jax.vmap(lambda key, row: jax.random.bernoulli(key, keep, row.shape))(keys_B, x)


def random_streams(seed: int) -> nnx.Rngs:
    """The random numbers of a model's initial weights: one stream for adapters, one for everything else."""
    return nnx.Rngs(seed, lora=jax.random.fold_in(jax.random.key(seed), _STREAM))


def split_base(parameters: Tree) -> tuple[Tree, Tree]:
    """Parameters as (own, base): adapters and what is beside the llama, and the weights that the adapters keep frozen.

    Without adapters everything is the model's own, and the base is empty.
    """
    flat = traverse_util.flatten_dict(parameters)
    if not any(ADAPTER in path for path in flat):
        return parameters, {}
    is_own = {path: path[0] != "llama" or ADAPTER in path for path in flat}
    own, base = ({path: leaf for path, leaf in flat.items() if is_own[path] is wanted} for wanted in (True, False))
    return traverse_util.unflatten_dict(own), traverse_util.unflatten_dict(base)


def cast_base(parameters: Tree, dtype) -> Tree:
    """The parameters with those that adapters keep frozen in `dtype`: bfloat16 halves the memory of a base model."""
    own, base = split_base(parameters)
    return joined(own, jax.tree.map(lambda leaf: leaf.astype(dtype), base))


def merge_adapters(parameters: Tree, config: LoraConfig, dtype=None) -> Tree:
    """Parameters of a model without adapters that computes the same: `W + alpha / rank * A @ B`.

    Computed in float32, then rounded to `dtype`, or else to that of `W`: bfloat16 leaves 8 bits of the sum, and little
    of a small correction. The layers are stacked: `[L, I, R]` and `[L, R, O]`.
    """
    flat = traverse_util.flatten_dict(parameters)
    merged = {path: leaf for path, leaf in flat.items() if ADAPTER not in path}
    for path in flat:
        if path[-2:] == (ADAPTER, "a"):
            kernel = (*path[:-2], "kernel")
            product = jnp.matmul(flat[path], flat[(*path[:-1], "b")], precision=jax.lax.Precision.HIGHEST)
            whole = flat[kernel].astype(jnp.float32) + config.scale * product
            merged[kernel] = whole.astype(flat[kernel].dtype if dtype is None else dtype)
    return traverse_util.unflatten_dict(merged)


def joined(one: Tree, other: Tree) -> Tree:
    """One tree of the leaves of two; where both have a leaf, it is the other's."""
    return traverse_util.unflatten_dict(traverse_util.flatten_dict(one) | traverse_util.flatten_dict(other))
