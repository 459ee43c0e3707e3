"""Adapters on the `pico` model: what they compute, where, from what they start, and what merging makes of them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import fast
from flax import nnx, traverse_util
from pico_model import HIDDEN, SEPARATOR, VOCABULARY, model

from colar_jax.config import PROJECTIONS, LoraSettings
from colar_jax.decoding.decoder import decode
from colar_jax.decoding.loops import DecodeLimits
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.decoding.thinking import greedy_latent_thinker
from colar_jax.model import lora
from colar_jax.model.execution import Execution
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.linear import Linear
from colar_jax.model.lora import LoraConfig, LowRank, cast_base, lora_config, merge_adapters, random_streams, split_base
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import build, initial_adapters
from colar_jax.model.visibility import packed as packed_rows

LORA = LoraConfig(rank=4, alpha=8.0, targets=("query", "value", "down"), dropout=0.25)
PICO, HEAD = dataclasses.replace(PRESETS["pico"], vocab_size=VOCABULARY), LatentHeadConfig(24)
ROWS, LENGTH = 3, 7
IDS = np.random.default_rng(0).integers(0, VOCABULARY, (ROWS, LENGTH))
POSITIONS, SEGMENTS = np.broadcast_to(np.arange(LENGTH), IDS.shape), np.ones_like(IDS)
KEYS = jax.random.split(jax.random.key(3), ROWS)


@functools.partial(jax.jit, static_argnames=("graph", "dtype", "scan", "remat"))
def forward(graph, parameters, keys_B=None, ids=IDS, dtype="float32", scan=True, remat="none"):
    """Final hidden states of rows of tokens."""
    llama = nnx.merge(graph, parameters).llama
    embeds = llama.embedding[...][ids].astype(dtype)
    compute = Execution(scan_layers=scan, remat=remat)
    sees = packed_rows(SEGMENTS[: len(ids)], compute)
    return llama.run(embeds, POSITIONS[: len(ids)], sees, compute, dropout_keys_B=keys_B)[0]


def difference(one, other) -> float:
    """Largest absolute difference, relative to the largest value."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return float(np.max(np.abs(one - other)) / np.max(np.abs(other)))


# What an adapter is


def adapted(alpha=8.0, rank=4):
    config, axes = LoraConfig(rank, alpha, ("query",), dropout=0.5), (None, None)
    with nnx.use_eager_sharding(False):
        adapter = LowRank(6, 5, config, "query", rngs=random_streams(1))
        linear = Linear(6, 5, axes, bias=True, adapter=adapter, rngs=nnx.Rngs(0))
    linear.adapter.b[...] = jax.random.normal(jax.random.key(2), (rank, 5))
    return linear


def test_the_formula():
    x = np.random.default_rng(1).normal(size=(2, 3, 6)).astype(np.float32)
    for alpha, rank in ((8.0, 4), (16.0, 4), (8.0, 2)):
        linear = adapted(alpha, rank)
        kernel, bias, a, b = (
            np.asarray(leaf[...]) for leaf in (linear.kernel, linear.bias, linear.adapter.a, linear.adapter.b)
        )
        expected = x @ kernel + bias + alpha / rank * (x @ a) @ b
        np.testing.assert_allclose(linear(x), expected, rtol=1e-4, atol=1e-5)
        out = linear(x.astype(jnp.bfloat16))
        assert out.dtype == jnp.bfloat16 and difference(out, expected) < 0.03


def test_dropout_drops_inputs_of_the_adapter_alone():
    """At 0.5 each of the 6 inputs of the adapter is 0 or doubled: 64 possible corrections, all seen equally often."""
    linear, x = adapted(), np.ones((1, 4000, 6), np.float32)
    a, b = np.asarray(linear.adapter.a[...]), np.asarray(linear.adapter.b[...])
    masks = np.array(np.meshgrid(*[[0.0, 2.0]] * 6)).reshape(6, -1).T
    possible = masks @ (2.0 * a @ b)
    seen = np.asarray(linear(x, jax.random.split(jax.random.key(0), 1)) - linear(x))[0] + 2.0 * (x[0] @ a) @ b
    nearest = np.argmin(np.linalg.norm(seen[:, None] - possible[None], axis=-1), axis=1)
    np.testing.assert_allclose(seen, possible[nearest], atol=1e-3)
    assert len(set(nearest.tolist())) == 64
    assert (masks[nearest] > 0).mean() == pytest.approx(0.5, abs=0.02)


def test_settings_become_a_config():
    assert lora_config(LoraSettings()) is None
    settings = LoraSettings(rank=8, alpha=4.0, targets="v_proj, down,q_proj", dropout=0.1)
    assert lora_config(settings) == LoraConfig(8, 4.0, ("query", "value", "down"), 0.1)
    assert lora_config(settings).scale == 0.5


# Where they are, and from what they start


def test_targets_have_adapters_and_nothing_else_has():
    for targets in (("query",), ("key", "gate"), tuple(PROJECTIONS)):
        _, parameters = build(PICO, HEAD, 0, dataclasses.replace(LORA, targets=targets))
        blocks = parameters["llama"]["blocks"]
        assert {name for name, leaves in blocks.items() if "adapter" in leaves} == set(targets)
        for name in targets:
            layers, in_size, out_size = blocks[name]["kernel"].shape
            assert blocks[name]["adapter"]["a"].shape == (layers, in_size, LORA.rank)
            assert blocks[name]["adapter"]["b"].shape == (layers, LORA.rank, out_size)


@pytest.mark.parametrize("target", PROJECTIONS)
def test_every_target_is_heard(target):
    graph, parameters = model(lora=dataclasses.replace(LORA, targets=tuple(PROJECTIONS)))
    flat = traverse_util.flatten_dict(parameters)
    b = ("llama", "blocks", target, "adapter", "b")
    silent = traverse_util.unflatten_dict(flat | {b: np.zeros_like(flat[b])})
    assert difference(forward(graph, silent), forward(graph, parameters)) > 0.01


def test_they_start_as_peft_starts_them():
    """A uniform within 1 / sqrt(I) (kaiming_uniform_ with a = sqrt(5)), B zero: at first nothing changes."""
    config = dataclasses.replace(LORA, rank=16)
    graph, parameters = build(PICO, HEAD, 0, config)
    plain_graph, plain = build(PICO, HEAD, 0)
    own, base = split_base(parameters)
    for path, leaf in traverse_util.flatten_dict(base).items():
        np.testing.assert_array_equal(leaf, traverse_util.flatten_dict(plain)[path])
    np.testing.assert_array_equal(forward(graph, parameters), forward(plain_graph, plain))
    for name in config.targets:
        a, b = (np.asarray(own["llama"]["blocks"][name]["adapter"][leaf]) for leaf in "ab")
        bound = a.shape[1] ** -0.5
        assert not b.any() and np.abs(a).max() <= bound
        assert np.abs(a).max() > 0.99 * bound and a.std() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert np.abs(a[0] - a[1]).max() > 0.1 * bound, "each layer has its own"
    assert difference(*(own["llama"]["blocks"][name]["adapter"]["a"] for name in ("query", "value"))) > 0.1
    for one, other in zip(
        *map(jax.tree.leaves, (initial_adapters(PICO, HEAD, config, 0), {"llama": own["llama"]})), strict=True
    ):
        np.testing.assert_array_equal(one, other)


# Dropout


def test_dropout_is_only_where_there_are_keys():
    graph, parameters = model(lora=LORA)
    without, first, second = (forward(graph, parameters, keys) for keys in (None, KEYS, KEYS[::-1]))
    assert difference(first, without) > 0.001 and difference(second, first) > 0.001
    quiet, _ = model(lora=dataclasses.replace(LORA, dropout=0.0))
    np.testing.assert_array_equal(forward(quiet, parameters, KEYS), forward(quiet, parameters))


def test_a_rows_dropout_is_its_own():
    graph, parameters = model(lora=LORA)
    whole, alone = forward(graph, parameters, KEYS), forward(graph, parameters, KEYS[1:2], IDS[1:2])
    np.testing.assert_allclose(whole[1:2], alone, atol=1e-5)


@pytest.mark.parametrize("options", [dict(remat="full"), dict(remat="dots", scan=False)])
def test_dropout_is_the_same_however_it_is_computed(options):
    graph, parameters = model(lora=LORA)
    assert difference(forward(graph, parameters, KEYS, **options), forward(graph, parameters, KEYS)) < 1e-5


def test_layers_and_projections_drop_different_things(monkeypatch):
    """Every row, layer and projection has a key of its own."""
    targets = ("query", "key", "value")
    graph, parameters = model(lora=dataclasses.replace(LORA, targets=targets))
    drawn = []

    def note(x, keys_B, config):
        drawn.append(jax.random.key_data(keys_B))
        return x

    @jax.jit
    def keys_of(keys_B):
        forward.__wrapped__(graph, parameters, keys_B, scan=False)
        return jnp.concatenate(drawn)

    monkeypatch.setattr(lora, "dropped_out", note)
    used = np.asarray(keys_of(KEYS))
    assert len(np.unique(used, axis=0)) == len(used) == PICO.num_layers * len(targets) * ROWS


def test_without_adapters_nothing_is_computed_for_them():
    """Keys that nobody asks for leave the program as it is, to the letter."""
    graph, parameters = model()
    plain, with_keys = (
        str(jax.make_jaxpr(lambda keys, use=use: forward(graph, parameters, keys if use else None))(KEYS))
        for use in (False, True)
    )
    assert "random" not in plain and plain.count("dot_general") == with_keys.count("dot_general") == 9
    assert with_keys.count("random_bits") == with_keys.count("random_fold_in") == 0


# Merging


@pytest.mark.parametrize(
    ("base_dtype", "dtype", "tolerance"),
    [("float32", None, 1e-5), ("bfloat16", None, 0.03), ("bfloat16", "float32", 1e-5)],
)
def test_merged_is_unmerged(base_dtype, dtype, tolerance):
    graph, parameters = model(lora=LORA)
    parameters = cast_base(parameters, base_dtype)
    merged, plain = merge_adapters(parameters, LORA, dtype), model()[0]
    assert jax.tree.structure(merged) == jax.tree.structure(model()[1])
    assert {leaf.dtype.name for leaf in jax.tree.leaves(merged["llama"])} == {base_dtype, dtype or base_dtype}
    unmerged = forward(graph, parameters)
    assert difference(forward(plain, merged), unmerged) < tolerance
    untouched = forward(plain, split_base(parameters)[1] | {"latent_head": parameters["latent_head"]})
    assert difference(untouched, unmerged) > 0.1


@functools.partial(jax.jit, static_argnames="graph")
def decoded(graph, parameters, prompts, keys):
    limits = DecodeLimits(
        max_thoughts=4, min_thoughts=4, max_answer_tokens=3, greedy=True, answer_temperature=1.0, answer_top_p=1.0,
        separator_id=SEPARATOR, eos_id=VOCABULARY - 1,
    )  # fmt: skip
    think = greedy_latent_thinker(SEPARATOR)
    return decode(nnx.merge(graph, parameters), prompts, keys, think, limits, Execution())


@pytest.mark.parametrize("base_dtype", fast(["float32", "bfloat16"], "bfloat16"))
def test_merged_decodes_as_unmerged(base_dtype):
    """Prefill and the cached steps have the adapters too: latents, and log-probabilities of the answers."""
    graph, parameters = model(lora=LORA)
    parameters = cast_base(parameters, base_dtype)
    if base_dtype == "bfloat16":  # kernels that hold the sum exactly: what is left is how it is computed
        merged32 = merge_adapters(cast_base(parameters, "float32"), LORA)
    else:
        merged32 = merge_adapters(parameters, LORA)
    rows = [row[:length] for row, length in zip(IDS, (3, 5, 7), strict=True)]
    prompts = pack_prompts(rows, shape_for([np.array(list(map(len, rows)))]))
    unmerged, merged = decoded(graph, parameters, prompts, KEYS), decoded(model()[0], merged32, prompts, KEYS)
    np.testing.assert_array_equal(unmerged.num_thoughts_B, merged.num_thoughts_B)
    np.testing.assert_array_equal(unmerged.answer_ids_BA, merged.answer_ids_BA)
    assert difference(unmerged.thoughts, merged.thoughts) < 1e-3
    np.testing.assert_allclose(unmerged.answer_log_probs_BA, merged.answer_log_probs_BA, atol=1e-3)


def test_a_bfloat16_base_is_half_the_memory_and_close():
    graph, parameters = model(lora=LORA)
    half = cast_base(parameters, "bfloat16")
    own, base = split_base(half)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(base)} == {"bfloat16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(own)} == {"float32"}
    for dtype in ("float32", "bfloat16"):
        hidden = forward(graph, half, dtype=dtype)
        assert hidden.shape == (ROWS, LENGTH, HIDDEN) and hidden.dtype.name == dtype
        assert 0 < difference(hidden, forward(graph, parameters)) < 0.1
