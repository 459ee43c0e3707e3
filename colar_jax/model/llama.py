"""A Llama-type transformer that takes embeddings in and gives hidden states out.

The modules declare parameters, their initialisers and their logical axis names; the layers are stacked, so that one
compiled layer is scanned over. Embedding and language head are methods of their own: training embeds *groups* of tokens
and needs logits at few positions only, decoding feeds latents that are no token at all.
"""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from colar_jax.model import attention, rope
from colar_jax.model.block import Attend, Block
from colar_jax.model.cache import Prefix, Suffix, write_slot
from colar_jax.model.execution import Execution, Tree
from colar_jax.model.flash_attention import packed_attention
from colar_jax.model.linear import parameter
from colar_jax.model.lora import LoraConfig
from colar_jax.model.norm import RMSNorm
from colar_jax.model.presets import LlamaConfig
from colar_jax.parallel import fsdp

EMBEDDING_STDDEV = 0.02  # as in the Hugging Face Llama

# What is kept of a layer's forward pass for its backward pass.
Remat = Literal["none", "dots", "full"]
REMAT_POLICIES: dict[str, Callable | None] = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Reading(NamedTuple):
    """Where a pass is read: of its last layer, what follows keys and values is computed at those positions alone."""

    pick: Callable[[jax.Array], jax.Array]  # [B, T, ...] to [B, M, ...]
    attend: Attend  # for the queries that are picked
    probe: Callable[[jax.Array], jax.Array] | None = None  # is shown the last layer's residual stream, [B, M, D]


class Llama(nnx.Module):
    """The token embedding, the stacked layers, the final norm and the language head."""

    execution = Execution()

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
        self.final_norm = RMSNorm(config.hidden_size, config.norm_eps, rngs=rngs)
        self.head = (
            None
            if config.tied_head
            else parameter(rngs, (config.vocab_size, config.hidden_size), ("vocab", "embed"), stddev=EMBEDDING_STDDEV)
        )

    @property
    def head_matrix_VD(self):
        """The language head's rows, one a token: the embedding matrix itself when the two are tied."""
        return self.embedding[...] if self.head is None else self.head[...]

    def logits(self, hidden):
        """float32 logits over the vocabulary for hidden states `[..., D]`."""
        return jnp.einsum(
            "...d,vd->...v", hidden, self.head_matrix_VD.astype(hidden.dtype), preferred_element_type=jnp.float32
        )

    def forward(
        self,
        embeds_BTD,
        position_ids_BT,
        segment_ids_BT,
        *,
        remat: Remat = "none",
        scan: bool = True,
        dropout_keys_B=None,
    ):
        """Final hidden states `[B, T, D]` (after the last norm) of packed rows, computed in the dtype of the input.

        `dropout_keys_B`, a typed key for each row, turns the adapters' dropout on; it is for training alone.
        """
        keys_B = dropout_keys_B if self.lora is not None and self.lora.dropout else None
        attend = _attend_packed(segment_ids_BT, self.execution)
        hidden_BTD, _ = self._run(embeds_BTD, position_ids_BT, attend, remat=remat, scan=scan, dropout_keys_B=keys_B)
        return hidden_BTD

    def forward_tree(
        self,
        embeds_BSD,
        trunk_lengths_B,
        trunk_size: int,
        num_branches: int,
        *,
        remat: Remat = "none",
        scan: bool = True,
    ):
        """Final hidden states `[B, S, D]` of tree rows: a question of at most `P` positions, then its `G` branches.

        `S = P + G * T`. Every branch continues its question's positions, sees the question and itself, and no other
        branch: as if each were a row of its own with the question before it, which is computed once instead.
        """
        branch_size = (embeds_BSD.shape[1] - trunk_size) // num_branches
        in_branch_T = jnp.tile(jnp.arange(branch_size), num_branches)
        trunk_BP = jnp.broadcast_to(jnp.arange(trunk_size)[None], (embeds_BSD.shape[0], trunk_size))
        position_ids_BS = jnp.concatenate([trunk_BP, trunk_lengths_B[:, None] + in_branch_T[None]], axis=1)
        biases = attention.tree_mask_bias(trunk_lengths_B, trunk_size, num_branches, branch_size)

        def attend(q, k, v):
            return attention.attend_tree(q, k, v, *biases), None

        return self._run(embeds_BSD, position_ids_BS, attend, remat=remat, scan=scan)[0]

    def prefill(self, embeds_RSD, position_ids_RS, segment_ids_RS, slots_CP, lengths_C, *, scan: bool = True):
        """Read `C` questions packed into rows: each one's last hidden state `[C, D]`, and their cache.

        `slots_CP` says where a question's `lengths_C` tokens lie in the flattened rows.
        """
        attend = _attend_packed(segment_ids_RS, self.execution, keep=True)
        hidden_RSD, layers = self._run(embeds_RSD, position_ids_RS, attend, scan=scan)

        def own_part(cache_RKSH):
            flat = cache_RKSH.transpose(0, 2, 1, 3).reshape(-1, *cache_RKSH.shape[1::2])  # [R * S, K, H]
            return flat[slots_CP].transpose(0, 2, 1, 3)

        last_C = jnp.take_along_axis(slots_CP, (lengths_C - 1)[:, None], axis=1)[:, 0]
        last_CD = hidden_RSD.reshape(-1, hidden_RSD.shape[-1])[last_C]
        is_real_CP = jnp.arange(slots_CP.shape[1])[None] < lengths_C[:, None]
        return last_CD, Prefix(tuple((own_part(k), own_part(v)) for k, v in layers), is_real_CP)

    def decode(self, layers: list[Tree], embeds_BD, position_ids_B, is_real_B, prefix: Prefix, suffix: Suffix):
        """Feed one more position to every rollout: its final hidden state `[B, D]`, and the suffix with it written.

        `layers` are the blocks' weights one by one (`unstacked_blocks`), sliced outside the decode loop: a scan would
        copy each layer's weights out of the stack at every step. `is_real_B` is False for rollouts that sit this step
        out.
        """
        slot = suffix.num_written
        is_real_BS = jax.lax.dynamic_update_slice(suffix.is_real_BS, is_real_B[:, None], (0, slot))
        cos, sin = self._rotations(position_ids_B[:, None])
        x_BTD = embeds_BD[:, None]
        graphdef, _ = nnx.split(self.blocks)
        written = []
        for layer, prefix_layer, suffix_layer in zip(layers, prefix.layers, suffix.layers, strict=True):

            def attend(q, k, v, prefix_layer=prefix_layer, suffix_layer=suffix_layer):
                new_layer = write_slot(suffix_layer, k, v, slot)
                out = attention.attend_cascade(q, *prefix_layer, prefix.is_real_CP, *new_layer, is_real_BS)
                return out, new_layer

            block = nnx.merge(graphdef, self.execution.at_step(layer))
            x_BTD, new_layer = block(x_BTD, cos, sin, attend)
            written.append(new_layer)
        hidden_BD = self.final_norm(x_BTD)[:, 0]
        return hidden_BD, Suffix(tuple(written), is_real_BS, slot + 1)

    def run_rows(
        self,
        embeds_BTD,
        position_ids_BT,
        attend: Attend,
        contexts: tuple = (),
        probe: Callable[[jax.Array], jax.Array] | None = None,
        *,
        reading: Reading | None = None,
        layers: list[Tree] | None = None,
        remat: Remat = "none",
        scan: bool = True,
        dropout_keys_B=None,
    ):
        """Final hidden states `[B, T, D]` under any attention, and what `attend` and `probe` keep of each layer.

        With a `reading` they are those of its positions, `[B, M, D]`.

        `contexts` has a pytree for each layer, which `attend` then gets as `context=`: what is seen besides the row
        itself. `probe` is shown the residual stream after each layer. The second result is a tuple over layers:
        what was kept, or with a probe (what was kept, what was probed). `layers` are `layer_parameters()`, for passes
        that share weights (without `scan`): their gradients meet before they are stacked.
        """
        keys_B = dropout_keys_B if self.lora is not None and self.lora.dropout else None
        extras = dict(remat=remat, scan=scan, dropout_keys_B=keys_B, layers=layers, reading=reading)
        return self._run(embeds_BTD, position_ids_BT, attend, contexts=contexts, probe=probe, **extras)

    def unstacked_blocks(self) -> list[Tree]:
        """The layers' weights one by one, each a copy of its own, as `decode` takes them."""
        return [self.execution.before_decode(layer) for layer in self.layer_parameters()]

    def layer_parameters(self) -> list[Tree]:
        """The parameters of the layers one by one, as they lie on this device."""
        stacked = nnx.to_pure_dict(nnx.state(self.blocks))
        return [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(self.config.num_layers)]

    def _rotations(self, position_ids_BT):
        config = self.config
        return rope.rotation_tables(position_ids_BT, config.head_dim, config.rope_theta, config.rope_scaling)

    def _run(
        self,
        x_BTD,
        position_ids_BT,
        attend: Attend,
        *,
        remat: Remat = "none",
        scan: bool,
        dropout_keys_B=None,
        contexts: tuple = (),
        probe=None,
        layers: list | None = None,
        reading: Reading | None = None,
    ):
        """All layers over rows, and what `attend` keeps of each (`run_rows` says what the last four are)."""
        cos, sin = self._rotations(position_ids_BT)
        graphdef, stacked = nnx.split(self.blocks)

        def layer_with(attend: Attend, probe, pick=None):
            def layer(x, stacked_part):
                layer_params, keys_B, *context = stacked_part
                attend_here = functools.partial(attend, context=context[0]) if context else attend
                block = nnx.merge(graphdef, self.execution.whole(layer_params))
                x, kept = block(x, cos, sin, attend_here, keys_B, pick)
                return x, kept if probe is None else (kept, probe(x))

            policy = REMAT_POLICIES[remat]
            if policy is None and self.execution.gather_layer is not None:
                policy = fsdp.all_but_gathered
            return layer if policy is None else jax.checkpoint(layer, policy=policy, prevent_cse=not scan)

        layer = last_layer = layer_with(attend, probe)
        num_layers = self.config.num_layers
        # None, without dropout, is a pytree of nothing: then there are no keys to scan over.
        keys_LB = _keys_of_layers(dropout_keys_B, num_layers)
        if scan:
            context = (jax.tree.map(lambda *leaves: jnp.stack(leaves), *contexts),) if contexts else ()
            x_BTD, kept = jax.lax.scan(layer, x_BTD, (nnx.to_pure_dict(stacked), keys_LB, *context))
            caches = tuple(jax.tree.map(lambda leaf, i=i: leaf[i], kept) for i in range(num_layers))
            if reading is not None:  # of a stack, all but the last would be a copy
                x_BTD = reading.pick(x_BTD)
        else:
            caches, layers = [], self.layer_parameters() if layers is None else layers
            if reading is not None:
                last_layer = layer_with(reading.attend, reading.probe, reading.pick)
            for i in range(num_layers):
                keys_B = None if keys_LB is None else keys_LB[i]
                run = layer if i < num_layers - 1 else last_layer
                x_BTD, kept = run(x_BTD, (layers[i], keys_B, *contexts[i : i + 1]))
                caches.append(kept)
        return self.final_norm(x_BTD), tuple(caches)


def _keys_of_layers(keys_B, num_layers: int):
    """A key of its own for every layer and row, `[L, B]`; None for None."""
    if keys_B is None:
        return None
    fold_rows = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    return jax.vmap(fold_rows, in_axes=(None, 0))(keys_B, jnp.arange(num_layers))


def _attend_packed(segment_ids_BT, execution: Execution, *, keep: bool = False) -> Attend:
    """Attention in packed rows; with `keep`, a layer's keys and values are kept as a cache holds them."""
    packed = packed_attention(segment_ids_BT, execution.attention, splits_heads=execution.splits_heads)

    def attend(q, k, v):
        kept = (k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)) if keep else None
        return packed(q, k, v), kept

    return attend
