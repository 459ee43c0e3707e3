"""Thinking during training: latents as a `lax.scan` over the cache of their questions, with gradients through all.

    trunk -> its keys and values (the question is computed once) -> k latents, one after the other -> tail

A latent reads its own question and the latents before it; the tail reads both, and itself. Coconut feeds the last
hidden state, CODI a projection of it; decoding runs the same recurrence (`fixed_thinking`).
"""

import dataclasses

import jax
import jax.numpy as jnp

from colar_jax.decoding.thinking import Thought
from colar_jax.losses import gather_positions
from colar_jax.methods.method import Thinking, language_loss
from colar_jax.methods.thinking.thought_rows import ThoughtBatch
from colar_jax.model.attention import attend, attend_causally, packed_mask_bias
from colar_jax.model.context import Seen, bias_of, heads_first
from colar_jax.model.execution import Execution
from colar_jax.model.llama import LastLayer, Reading
from colar_jax.model.reasoner import Reasoner
from colar_jax.model.visibility import Visibility, blocks


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trunk:
    """The first pass: what is read of it, each layer's keys and values, and what was probed of each layer."""

    last_hidden_BED: jax.Array  # where each example's question ends
    supervised_hidden_BMD: jax.Array
    caches: tuple
    probed: tuple
    layers: list  # each layer's parameters, sliced out of their stack once for all passes
    queries: tuple = ()  # each layer's at the watched positions, [B, T, N, H]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Latents:
    """`L` latents of `E` examples a row; those beyond an example's own number are not real, and nobody sees them."""

    fed_BLED: jax.Array
    last_hidden_BED: jax.Array  # after the last real one: what the tail's first token is predicted from
    caches: tuple  # each layer's keys and values, slot `l * E + e` for latent `l` of example `e`
    states_BLED: jax.Array | None = None  # the hidden states that they are made from, where they are made in turn


def unchanged(model: Reasoner, hidden):
    """A hidden state as the next input: Coconut."""
    return hidden


def rescaled(model: Reasoner, hidden):
    """A hidden state at the scale of embeddings: its root mean square is `embed_std`."""
    hidden_f32 = hidden.astype(jnp.float32)
    size = jnp.sqrt(jnp.mean(jnp.square(hidden_f32), axis=-1, keepdims=True))
    return (hidden_f32 * (model.latent_head.embed_std[...] / jnp.maximum(size, 1e-6))).astype(hidden.dtype)


def run_trunk(
    model: Reasoner, batch: ThoughtBatch, compute: Execution, keys_B=None, *, probes: bool = False, watched_BT=None
) -> Trunk:
    """The first pass over the rows; `probes` keeps the residual stream before the answer after each layer.

    Args:
        watched_BT: supervised positions whose queries are kept, too.
    """
    bias_BPP = packed_mask_bias(batch.trunk_segments_BP)
    matched = [batch.matched_trunk_BE] if probes else []
    read_BM = jnp.concatenate([batch.last_BE, batch.supervised_BM, *matched], axis=1)
    bias_BMP = jax.lax.optimization_barrier(gather_positions(bias_BPP, read_BM))
    # Of the last layer, queries are only where it is read.
    places_in_read = None
    if watched_BT is not None:
        places_in_read = jnp.argmax(watched_BT[..., None] == read_BM[:, None], axis=-1)
    num_examples, stop = batch.last_BE.shape[1], batch.last_BE.shape[1] + batch.supervised_BM.shape[1]

    def attending(attend, bias, places_BT):
        def attend_and_keep(q, k, v):
            queries = () if places_BT is None else (pick_places(q, places_BT),)
            return attend(q, k, v, bias), (heads_first(k), heads_first(v), *queries)

        return attend_and_keep

    def pick(x):
        return pick_places(x, read_BM)

    probe, probe_read = (
        (lambda x_BPD: gather_positions(x_BPD, batch.matched_trunk_BE), lambda x_BMD: x_BMD[:, stop:])
        if probes
        else (None, None)
    )
    embeds_BPD, layers = _embed(model, batch.trunk_ids_BP, compute), model.llama.layer_parameters()
    hidden_BMD, kept = model.llama.run(
        embeds_BPD,
        batch.trunk_positions_BP,
        Visibility(attending(attend_causally, bias_BPP, watched_BT)),
        compute,
        dropout_keys_B=keys_of(keys_B, 0),
        reading=Reading(probe, LastLayer(pick, attending(attend, bias_BMP, places_in_read), probe_read)),
        layers=layers,
    )
    of_layers = tuple(of_layer for of_layer, _ in kept) if probes else kept
    probed = tuple(probed for _, probed in kept) if probes else ()
    caches, queries = tuple((k, v) for k, v, *_ in of_layers), tuple(q for _, _, *own in of_layers for q in own)
    return Trunk(hidden_BMD[:, :num_examples], hidden_BMD[:, num_examples:stop], caches, probed, layers, queries)


def pick_places(x_BSX, places_BM):
    """Positions of each row, of arrays with any axes behind: `[B, S, ...]` to `[B, M, ...]`."""
    flat = x_BSX.reshape(*x_BSX.shape[:2], -1)
    return gather_positions(flat, places_BM).reshape(*places_BM.shape, *x_BSX.shape[2:])


def own_question(batch: ThoughtBatch):
    """Which positions of the trunk are each example's question, bool `[B, E, P]`."""
    example_E = jnp.arange(batch.last_BE.shape[1])
    return batch.is_question_BP[:, None] & (batch.trunk_segments_BP[:, None] == example_E[None, :, None] + 1)


def run_latents(
    model: Reasoner, trunk: Trunk, batch: ThoughtBatch, num_latents: int, project, compute: Execution, keys_B=None
) -> Latents:
    """Think `num_latents` times after every question, at most; an example's own number is in the batch."""
    B, E = batch.last_BE.shape
    example_E = jnp.arange(E)
    slot_examples, slot_steps = jnp.tile(example_E, num_latents), jnp.repeat(jnp.arange(num_latents), E)
    trunk_bias_BEP = bias_of(own_question(batch))

    def body(carry, step):
        hidden_BED, caches = carry
        is_seen = (slot_examples[None] == example_E[:, None]) & (slot_steps <= step)[None]
        own_bias_BES = jnp.broadcast_to(bias_of(is_seen)[None], (B, *is_seen.shape))

        def seen(k, v, context):
            trunk_cache, own_cache = context
            written = tuple(
                jax.lax.dynamic_update_slice(cache, heads_first(new), (0, 0, step * E, 0))
                for cache, new in zip(own_cache, (k, v), strict=True)
            )
            return (Seen(trunk_cache, trunk_bias_BEP), Seen(written, own_bias_BES)), written

        fed_BED = project(model, hidden_BED)
        next_BED, caches = model.llama.run(
            fed_BED,
            batch.question_lengths_BE + step,
            blocks(seen, tuple(zip(trunk.caches, caches, strict=True))),
            compute,
            dropout_keys_B=keys_of(keys_B, 2 + step),
            layers=trunk.layers,
        )
        is_real_BE1 = (step < batch.num_latents_BE)[..., None]
        return (jnp.where(is_real_BE1, next_BED, hidden_BED), caches), (fed_BED, hidden_BED)

    def empty(cache_BKPH):
        _, K, _, H = cache_BKPH.shape
        # Adds zero times the trunk: inside shard_map this has to vary over the devices as the trunk does.
        return jnp.zeros((B, K, num_latents * E, H), cache_BKPH.dtype) + 0 * cache_BKPH[:, :, :1]

    caches = jax.tree.map(empty, trunk.caches)
    (last_BED, caches), made = jax.lax.scan(body, (trunk.last_hidden_BED, caches), jnp.arange(num_latents))
    fed_BLED, states_BLED = (of_steps.transpose(1, 0, 2, 3) for of_steps in made)
    return Latents(fed_BLED, last_BED, caches, states_BLED)


def run_tail(
    model: Reasoner, trunk: Trunk, latents: Latents, batch: ThoughtBatch, compute: Execution, keys_B=None, probe=None
):
    """Hidden states `[B, T, D]` of what follows the latents, and what was probed of each layer."""
    E = batch.last_BE.shape[1]
    tail_segments_BT1, trunk_segments_B1P = batch.tail_segments_BT[..., None], batch.trunk_segments_BP[:, None]
    trunk_bias_BTP = bias_of((tail_segments_BT1 == trunk_segments_B1P) & batch.is_question_BP[:, None])
    num_slots = latents.caches[0][0].shape[2]
    slot_examples, slot_steps = jnp.arange(num_slots) % E, jnp.arange(num_slots) // E
    is_real_BS = slot_steps[None] < batch.num_latents_BE[:, slot_examples]
    latent_bias_BTS = bias_of((tail_segments_BT1 == slot_examples[None, None] + 1) & is_real_BS[:, None])
    own_bias_BTT = packed_mask_bias(batch.tail_segments_BT)

    def seen(k, v, context):
        trunk_cache, latent_cache = context
        own = Seen((heads_first(k), heads_first(v)), own_bias_BTT)
        return (Seen(trunk_cache, trunk_bias_BTP), Seen(latent_cache, latent_bias_BTS), own), None

    hidden_BTD, kept = model.llama.run(
        _embed(model, batch.tail_ids_BT, compute),
        batch.tail_positions_BT,
        blocks(seen, tuple(zip(trunk.caches, latents.caches, strict=True))),
        compute,
        dropout_keys_B=keys_of(keys_B, 1),
        reading=Reading(probe),
        layers=trunk.layers,
    )
    return hidden_BTD, tuple(probed for _, probed in kept) if probe else ()


def tail_loss(model: Reasoner, latents: Latents, hidden_BTD, batch: ThoughtBatch, compute: Execution):
    """Summed cross-entropy of what follows the latents, from its first token on, and how much of it is right."""
    hidden = jnp.concatenate([latents.last_hidden_BED, hidden_BTD], axis=1)
    labels = jnp.concatenate([batch.first_labels_BE, batch.tail_labels_BT], axis=1)
    return language_loss(model, hidden, labels, compute)


def fixed_thinking(num_latents: int, project, *, way: str) -> Thinking:
    """The way to think when decoding: feed the (projected) last hidden state, always `num_latents` times.

    `way` is how an exported folder thinks so (`exchange.ways`).
    """

    def think(model: Reasoner, hidden_BD, keys_B) -> Thought:
        # Always for stopping; the decoder asks only after `min_thoughts`.
        return Thought.undrawn(project(model, hidden_BD), jnp.ones(hidden_BD.shape[0], bool))

    return Thinking(
        think, max_thoughts=num_latents, min_thoughts=num_latents, reads_words=False, is_fixed=True, way=way
    )


def _embed(model: Reasoner, ids_BT, compute: Execution):
    return model.llama.embed(ids_BT, compute.dtype)


def keys_of(keys_B, part):
    """The dropout keys of a part of the chain (0 the trunk, 1 the tail, then the latents' passes); None for None."""
    return None if keys_B is None else jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, part)
