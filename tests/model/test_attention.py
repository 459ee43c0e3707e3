import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import fast
from jax.test_util import check_grads

from colar_jax.model.attention import MASKED, attend, attend_cascade, attend_causally, packed_mask_bias
from colar_jax.model.linear import project, swiglu

B, T, H = 2, 7, 8
HEADS = [(4, 4), (4, 2), (4, 1)]  # query heads, key-value heads
SEGMENTS_BT = np.array([[1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 1]], np.int32)


def normal(seed, *shape, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def plain_attention(q_BTNH, k_BSKH, v_BSKH, is_seen_BTS):
    """Textbook attention, every key-value head repeated for its query heads; queries that see nothing give 0."""
    repeat = q_BTNH.shape[2] // k_BSKH.shape[2]
    k_BSNH, v_BSNH = (jnp.repeat(x, repeat, axis=2) for x in (k_BSKH, v_BSKH))
    scores = jnp.einsum("btnh,bsnh->bnts", q_BTNH, k_BSNH) / np.sqrt(q_BTNH.shape[-1])
    seen = is_seen_BTS[:, None]
    weights = jax.nn.softmax(jnp.where(seen, scores, -1e9), axis=-1) * seen.any(-1, keepdims=True)
    out_BTNH = jnp.einsum("bnts,bsnh->btnh", weights, v_BSNH)
    return out_BTNH.reshape(*out_BTNH.shape[:2], -1)


def inputs(num_heads, num_kv_heads, scale=1.0):
    return (
        normal(0, B, T, num_heads, H, scale=scale),
        normal(1, B, T, num_kv_heads, H),
        normal(2, B, T, num_kv_heads, H),
    )


# A packed row


def test_who_sees_whom():
    """Positions of the first row: two segments, then padding. Query by row, key by column."""
    seen = np.array(
        [
            [1, 0, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0, 0],
            [0, 0, 0, 1, 0, 0, 0],
            [0, 0, 0, 1, 1, 0, 0],
            [0, 0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 0],
        ]
    )
    bias = packed_mask_bias(SEGMENTS_BT)
    np.testing.assert_array_equal(bias[0], np.where(seen, 0, np.float32(MASKED)))
    np.testing.assert_array_equal(bias[1], np.where(np.tri(T), 0, np.float32(MASKED)))


@pytest.mark.parametrize("scale", [1.0, 60.0], ids=["usual", "large scores"])
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_attention_and_its_gradients(heads, scale):
    arrays = inputs(*heads, scale)
    bias_BTT = packed_mask_bias(SEGMENTS_BT)
    is_real_BT = SEGMENTS_BT > 0
    # What a real position is weighed with; nothing reads what padding gives.
    weights = normal(3, B, T, heads[0] * H) * is_real_BT[..., None]

    def ours(q, k, v):
        out = attend(q, k, v, bias_BTT)
        return jnp.sum(out * weights), out

    def plain(q, k, v):
        out = plain_attention(q, k, v, bias_BTT == 0)
        return jnp.sum(out * weights), out

    (_, out), gradients = jax.jit(jax.value_and_grad(ours, argnums=(0, 1, 2), has_aux=True))(*arrays)
    (_, expected), expected_gradients = jax.jit(jax.value_and_grad(plain, argnums=(0, 1, 2), has_aux=True))(*arrays)
    np.testing.assert_allclose(out[is_real_BT], expected[is_real_BT], rtol=1e-5, atol=2e-6)
    for gradient, of_plain in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, of_plain, rtol=1e-4, atol=1e-5 * scale)
    assert np.isfinite(out).all()


def gradients_of(bias_BTT, arrays, weights):
    """Output and gradients of `sum(attend(...) * weights)`."""

    @jax.jit
    def run(*arrays):
        out, vjp = jax.vjp(lambda *qkv: attend(*qkv, bias_BTT), *arrays)
        return out, vjp(jnp.broadcast_to(weights, out.shape).astype(out.dtype))

    return run(*arrays)


def test_padding_is_finite_and_gives_its_keys_no_gradient():
    nothing_else = packed_mask_bias(np.zeros((B, T), np.int32))
    assert all(np.isfinite(array).all() for array in jax.tree.leaves(gradients_of(nothing_else, inputs(4, 2), 1.0)))
    only_real_BTD = (SEGMENTS_BT > 0)[..., None]
    _, gradients = gradients_of(packed_mask_bias(SEGMENTS_BT), inputs(4, 2), only_real_BTD)
    for gradient in gradients:
        assert not gradient[0, 5:].any() and gradient[0, :5].any()


@pytest.mark.parametrize("num_positions", fast([100, 300, 801], 300))
def test_causal_attention_in_parts(num_positions):
    """Outputs and gradients are those of attention to the whole row, with parts of different lengths too."""
    arrays = [normal(seed, 1, num_positions, 2, 4) for seed in range(3)]
    segments_BT = np.arange(num_positions)[None] // 170 + 1
    segments_BT[segments_BT > 3] = 0
    bias_BTT = packed_mask_bias(segments_BT)
    weights = normal(4, 1, num_positions, 8) * (segments_BT > 0)[..., None]  # padding has any output

    def run(attend_by):
        return jax.value_and_grad(lambda arrays: jnp.sum(weights * attend_by(*arrays, bias_BTT)))(arrays)

    for ours, expected in zip(jax.tree.leaves(run(attend_causally)), jax.tree.leaves(run(attend)), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_attention_gradients_by_differences():
    bias_BTT = packed_mask_bias(np.ones((B, T), np.int32))
    check_grads(
        jax.jit(lambda *qkv: attend(*qkv, bias_BTT)), inputs(4, 2), order=1, modes=["rev"], rtol=2e-2, atol=2e-2
    )


def test_attention_in_bfloat16():
    arrays = [x.astype(jnp.bfloat16) for x in inputs(4, 2)]
    bias_BTT = packed_mask_bias(np.ones((B, T), np.int32))
    out, gradients = gradients_of(bias_BTT, arrays, 1.0)
    exact, exact_gradients = gradients_of(bias_BTT, [x.astype(np.float32) for x in arrays], 1.0)
    assert {x.dtype for x in (out, *gradients)} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(out.astype(np.float32), exact, atol=2e-2)
    for gradient, expected in zip(gradients, exact_gradients, strict=True):
        np.testing.assert_allclose(gradient.astype(np.float32), expected, atol=5e-2)


# A decode step


@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_cascade_is_attention_to_prefix_and_suffix(heads):
    N, K = heads
    C, G, P, S = 2, 3, 5, 4
    q = normal(0, C * G, 1, N, H)
    prefix_k, prefix_v = normal(1, 2, C, K, P, H)
    suffix_k, suffix_v = normal(2, 2, C * G, K, S, H)
    prefix_mask = np.arange(P) < np.array([[5], [3]])
    suffix_mask = np.random.default_rng(3).random((C * G, S)) < 0.6
    suffix_mask[0] = False  # its first step: nothing but the question yet
    assert suffix_mask.any(axis=1).sum() >= 4
    out = jax.jit(attend_cascade)(q, prefix_k, prefix_v, prefix_mask, suffix_k, suffix_v, suffix_mask)

    def whole(prefix_CKPH, suffix_BKSH):
        """Each rollout's own copy of everything, as `[B, P + S, K, H]`."""
        return np.concatenate([np.repeat(prefix_CKPH, G, axis=0), suffix_BKSH], axis=2).transpose(0, 2, 1, 3)

    mask = np.concatenate([np.repeat(prefix_mask, G, axis=0), suffix_mask], axis=1)
    expected = jax.jit(plain_attention)(q, whole(prefix_k, suffix_k), whole(prefix_v, suffix_v), mask[:, None])
    assert out.shape == (C * G, 1, N * H)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


# The layers around it


@pytest.mark.parametrize("leading", [(), (6,), (2, 3), (2, 3, 2)], ids=str)
def test_project(leading):
    x, kernel, grad = normal(0, *leading, 5), normal(1, 5, 4), normal(2, *leading, 4)
    out, vjp = jax.vjp(project, x, kernel)
    expected, plain_vjp = jax.vjp(lambda x, kernel: jnp.einsum("...i,io->...o", x, kernel), x, kernel)
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-6)
    for gradient, of_plain in zip(vjp(grad), plain_vjp(grad), strict=True):
        np.testing.assert_allclose(gradient, of_plain, rtol=1e-5, atol=1e-5)
    check_grads(project, (x, kernel), order=1, modes=["rev"], rtol=2e-2, atol=2e-2)


def test_project_in_bfloat16_sums_its_weight_gradient_in_float32():
    """The sum is over a whole batch. A CPU always sums in float32, so it is the program that is looked at."""
    x, kernel = jnp.ones((3000, 2), jnp.bfloat16), jnp.ones((2, 3), jnp.bfloat16)

    def kernel_gradient(grad):
        return jax.vjp(project, x, kernel)[1](grad)[1]

    grad = jnp.ones((3000, 3), jnp.bfloat16)
    [product] = [e for e in jax.make_jaxpr(kernel_gradient)(grad).eqns if e.outvars[0].aval.shape == (2, 3)][:1]
    assert (product.primitive.name, product.outvars[0].aval.dtype) == ("dot_general", jnp.float32)
    assert kernel_gradient(grad).dtype == jnp.bfloat16


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_swiglu(scale):
    gate, up, grad = normal(0, 4, 9, scale=scale), normal(1, 4, 9), normal(2, 4, 9)
    out, vjp = jax.vjp(swiglu, gate, up)
    expected, plain_vjp = jax.vjp(lambda gate, up: gate / (1 + jnp.exp(-gate)) * up, gate, up)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    for gradient, of_plain in zip(vjp(grad), plain_vjp(grad), strict=True):
        finite = np.isfinite(of_plain)  # the plain formula overflows where the sigmoid is 0
        np.testing.assert_allclose(gradient[finite], of_plain[finite], rtol=1e-4, atol=1e-5)
        assert np.isfinite(gradient).all()
    if scale == 1:
        check_grads(swiglu, (gate, up), order=1, modes=["rev"], rtol=2e-2, atol=2e-2)
