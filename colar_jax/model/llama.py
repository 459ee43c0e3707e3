"""A Llama-type transformer that takes embeddings in and gives hidden states out.

The modules declare parameters, their initialisers and their logical axis names; the layers are stacked, so that one
compiled layer is scanned over. Embedding and language head are methods of their own: training embeds *groups* of tokens
and needs logits at few positions only, decoding feeds latents that are no token at all.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from colar_jax.model import rope
from colar_jax.model.block import Attend, Block
from colar_jax.model.execution import Execution, Tree
from colar_jax.model.linear import parameter
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.model.lora import LoraConfig, fold_each
from colar_jax.model.norm import RMSNorm
from colar_jax.model.visibility import Visibility
from colar_jax.parallel import fsdp

EMBEDDING_STDDEV = 0.02  # as in the Hugging Face Llama

# What is kept of a layer's forward pass for its backward pass, by `model.remat`.
REMAT_POLICIES: dict[str, Callable | None] = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class LastLayer(NamedTuple):
    """The positions at which a pass is read: the last layer computes keys and values everywhere, all else at these."""

    pick: Callable[[jax.Array], jax.Array]  # [B, T, ...] to [B, M, ...]
    attend: Attend  # for the queries that are picked
    probe: Callable[[jax.Array], jax.Array] | None = None  # is shown the last layer's residual stream, [B, M, D]


class Reading(NamedTuple):
    """What is read of a pass besides its end."""

    probe: Callable[[jax.Array], jax.Array] | None = None  # is shown the residual stream after each layer
    last: LastLayer | None = None  # None: the whole pass is read


WHOLE_PASS = Reading()


class Llama(nnx.Module):
    """The token embedding, the stacked layers, the final norm and the language head."""

    def __init__(self, config: LlamaConfig, lora: LoraConfig | None = None, *, rngs: nnx.Rngs):
        self.config, self.lora = config, lora
        self.embedding = parameter(
            rngs, (config.vocab_size, config.hidden_size), ("vocab", "embed"), stddev=EMBEDDING_STDDEV
        )

        @nnx.split_rngs(splits=config.num_layers)
        @nnx.vmap(in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: "layers"})
        def stack(rngs):
            return Block(config, lora, rngs=rngs)

        self.blocks = stack(rngs)
        self.final_norm = RMSNorm(config.hidden_size, config.norm_eps, config.norm_offset, rngs=rngs)
        self.head = (
            None
            if config.tied_head
            else parameter(rngs, (config.vocab_size, config.hidden_size), ("vocab", "embed"), stddev=EMBEDDING_STDDEV)
        )

    @property
    def head_matrix_VD(self):
        """The language head's rows, one a token: the embedding matrix itself when the two are tied."""
        return self.embedding[...] if self.head is None else self.head[...]

    def embed(self, ids, dtype):
        """Tokens as they are fed, `[...]` to `[..., D]`.

        A Gemma scales a token's row by sqrt(D). What is no token (a latent, a mixture that is made of fed tokens) is in
        the scaled space already, and is fed as it is.
        """
        return self.scaled(self.embedding[...][ids].astype(dtype))

    def scaled(self, rows):
        """Rows of the embedding matrix, or sums of them, in the space of what is fed."""
        return rows if self.config.embedding_scale == 1 else rows * self.config.embedding_scale

    def logits(self, hidden):
        """float32 logits over the vocabulary for hidden states `[..., D]`."""
        with jax.named_scope("logits"):
            head_VD = self.head_matrix_VD.astype(hidden.dtype)
            return jnp.einsum("...d,vd->...v", hidden, head_VD, preferred_element_type=jnp.float32)

    def run(
        self,
        embeds_BTD,
        position_ids_BT,
        visibility: Visibility,
        compute: Execution,
        *,
        dropout_keys_B=None,
        reading: Reading = WHOLE_PASS,
        layers: list[Tree] | None = None,
    ):
        """All layers over rows of embeddings, computed in their dtype.

        Args:
            visibility: who sees whom (`model.visibility`).
            dropout_keys_B: a typed key for each row (or `lora.BranchKeys`) turns the adapters' dropout on.
            layers: `layer_parameters()`, for passes that share weights (without a scan): their gradients meet before
                they are stacked.

        Returns:
            Final hidden states `[B, T, D]`, after the last norm (`[B, M, D]` where `reading` picks positions); and a
            tuple over layers: what `visibility` kept, or with a probe (what was kept, what was probed).
        """
        config, scan = self.config, compute.scan_layers
        config.check_reach(visibility.reach_of(embeds_BTD.shape[1]))
        rotations, which_L = rope.rotations_of_layers(position_ids_BT, config)
        graphdef, stacked = nnx.split(self.blocks)
        contexts, last = visibility.contexts, reading.last
        layer_of = functools.partial(_layer, graphdef, rotations, compute)
        x_BTD, layer = embeds_BTD, layer_of(visibility.attend, reading.probe)
        last_layer = layer if last is None else layer_of(last.attend, last.probe, last.pick)
        # Without dropout the keys are None, an empty pytree: there is nothing to scan over.
        keys_LB = _keys_of_layers(dropout_keys_B if self.drops_out else None, config.num_layers)
        if scan:
            context = (jax.tree.map(lambda *leaves: jnp.stack(leaves), *contexts),) if contexts else ()
            weights, rest = nnx.to_pure_dict(stacked), (keys_LB, which_L, *context)
            stack = (weights, *rest)
            if x_BTD.dtype == jnp.float32:
                stack, layer = (as_bits(weights), *rest), functools.partial(_from_bits, layer)
            if last is not None and compute.forward_only:
                x_BTD, of_layers = _scan_but_last(layer, x_BTD, stack, config.num_layers)
                # Of the weights as they are: the bits would be copied, were the loop not the only one to read them.
                x_BTD, kept = last_layer(x_BTD, _of_layer((weights, *rest), config.num_layers - 1))
                of_layers.append(kept)
            else:
                x_BTD, kept = jax.lax.scan(layer, x_BTD, stack)
                of_layers = [_of_layer(kept, i) for i in range(config.num_layers)]
                if last is not None:  # the gradient of a part of the stack would be a copy of all of it
                    x_BTD = last.pick(x_BTD)
        else:
            layers = self.layer_parameters() if layers is None else layers
            of_layers = []
            for i in range(config.num_layers):
                run = layer if i < config.num_layers - 1 else last_layer
                which = None if which_L is None else which_L[i]
                x_BTD, kept = run(x_BTD, (layers[i], _of_layer(keys_LB, i), which, *contexts[i : i + 1]))
                of_layers.append(kept)
        return self.final_norm(x_BTD), tuple(of_layers)

    @property
    def drops_out(self) -> bool:
        """Whether there is anything to drop out."""
        return self.lora is not None and self.lora.dropout > 0

    def unstacked_blocks(self, compute: Execution) -> list[Tree]:
        """The layers' weights one by one, each a copy of its own, sliced outside a decode's loops.

        A scan would copy each layer's weights out of the stack at every step. A bfloat16 base that is computed with in
        float32 is made wide here, once: otherwise XLA does it before each of the loops, for all layers.
        """
        layers = [compute.before_decode(layer) for layer in self.layer_parameters()]
        if compute.dtype != "float32" or compute.gathers_each_step:
            return layers
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), layers)

    def layer_parameters(self) -> list[Tree]:
        """The parameters of the layers one by one, as they lie on this device."""
        stacked = nnx.to_pure_dict(nnx.state(self.blocks))
        return [_of_layer(stacked, i) for i in range(self.config.num_layers)]


def _of_layer(stack: Tree, index):
    """What a pytree whose leaves have a leading axis of layers holds of one."""
    return jax.tree.map(lambda leaf: leaf[index], stack)


def _scan_but_last(layer, x, stack: Tree, num_layers: int):
    """A scan over all layers but the last: the stream, and a list of what is kept of each layer.

    The scan goes over places in the stack, not over a shorter stack, which would be a copy of nearly all weights.
    """
    stack = jax.tree.map(jnp.asarray, stack)

    def at(x, index):
        return layer(x, _of_layer(stack, index))

    x, kept = jax.lax.scan(at, x, jnp.arange(num_layers - 1))
    return x, [_of_layer(kept, i) for i in range(num_layers - 1)]


def _layer(graphdef, rotations, compute: Execution, attend: Attend, probe, pick=None):
    """A step over the layers: (x, (its parameters, dropout keys, rotation, context if any)) -> (x, what is kept)."""

    def layer(x, stacked_part):
        layer_params, keys_B, which, *context = stacked_part
        own_rotations = rotations if which is None else [table_RBTH[which] for table_RBTH in rotations]
        attend_here = functools.partial(attend, context=context[0]) if context else attend
        block = nnx.merge(graphdef, compute.whole(layer_params))
        x, kept = block(x, *own_rotations, attend_here, keys_B, pick)
        return x, kept if probe is None else (kept, probe(x))

    policy = REMAT_POLICIES[compute.remat]
    if policy is None and compute.gather_layer is not None:
        policy = fsdp.all_but_gathered
    return layer if policy is None else jax.checkpoint(layer, policy=policy, prevent_cse=not compute.scan_layers)


def as_bits(tree: Tree) -> Tree:
    """The bfloat16 leaves as whole numbers of 16 bits, for a scan in float32.

    XLA's CPU backend has no slices of bfloat16. It makes them slices of float32, and so a float32 copy of the whole
    stack, before the scan. With XLA's fusion emitters (its default) the bits are a copy, too, half as large as that.
    """

    def bits(leaf):
        return jax.lax.bitcast_convert_type(leaf, jnp.uint16) if leaf.dtype == jnp.bfloat16 else leaf

    return jax.tree.map(bits, tree)


def _from_bits(layer, x, stacked_part):
    """A step over the layers, of weights from `as_bits`."""

    def weights(leaf):
        return jax.lax.bitcast_convert_type(leaf, jnp.bfloat16) if leaf.dtype == jnp.uint16 else leaf

    return layer(x, (jax.tree.map(weights, stacked_part[0]), *stacked_part[1:]))


def _keys_of_layers(keys, num_layers: int):
    """A key of its own for every layer and row, a leading axis `L` before those of `keys`; None for None."""
    return None if keys is None else jax.vmap(fold_each, in_axes=(None, 0))(keys, jnp.arange(num_layers))
