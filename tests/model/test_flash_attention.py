"""Every implementation of attention in packed rows is the reference, where somebody reads it."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colar_jax.model import flash_attention
from colar_jax.model.flash_attention import choose_attention, packed_attention, runs_in_cudnn

B, T, N, K, H = 2, 150, 4, 2, 64
SEGMENTS_BT = np.zeros((B, T), np.int32)
SEGMENTS_BT[0, :70], SEGMENTS_BT[0, 70:149] = 1, 2
SEGMENTS_BT[1, :20], SEGMENTS_BT[1, 20:23], SEGMENTS_BT[1, 23:90] = 1, 2, 3


def inputs(dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = ((B, T, N, H), (B, T, K, H), (B, T, K, H), (B, T, N * H))
    *qkv, weights = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    weights *= (SEGMENTS_BT > 0)[..., None]
    return tuple(jnp.asarray(x, dtype) for x in qkv), weights


def output_and_gradients(implementation, dtype=np.float32, **options):
    qkv, weights = inputs(dtype)

    def weighted(*qkv):
        out = packed_attention(jnp.asarray(SEGMENTS_BT), implementation, **options)(*qkv)
        return jnp.sum(out.astype(jnp.float32) * weights), out

    (_, out), gradients = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1, 2), has_aux=True))(*qkv)
    return np.asarray(out, np.float32) * (SEGMENTS_BT > 0)[..., None], gradients


def assert_is_the_reference(implementation, tolerance, dtype=np.float32, **options):
    out, gradients = output_and_gradients(implementation, dtype, **options)
    expected, expected_gradients = output_and_gradients("xla", dtype)
    np.testing.assert_allclose(out, expected, atol=tolerance)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        largest = np.abs(np.asarray(theirs, np.float32)).max()
        np.testing.assert_allclose(
            np.asarray(ours, np.float32), np.asarray(theirs, np.float32), atol=tolerance * largest
        )


def test_splash_is_the_reference():
    """Interpreted, on a CPU; rows of 150 positions are padded to 256."""
    assert_is_the_reference("splash", 2e-5, interpret=True)


def test_heads_that_a_tensor_axis_does_not_divide_are_xla_s(monkeypatch):
    """As the 9 heads of SmolLM2-135M on two devices: a kernel computes whole heads."""
    of_three = types.SimpleNamespace(shape={"tensor": 3})
    monkeypatch.setattr(flash_attention.jax.sharding, "get_abstract_mesh", lambda: of_three)
    assert_is_the_reference("splash", 2e-5, splits_heads=True)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs a GPU")
def test_cudnn_is_the_reference():
    assert_is_the_reference("cudnn", 3e-2, jnp.bfloat16)


@pytest.mark.parametrize(
    ("head_dim", "capability", "runs"),
    [(64, "8.0", True), (128, "8.9", True), (256, "8.9", False), (256, "9.0", True), (100, "9.0", False)],
)
def test_which_heads_cudnn_takes(head_dim, capability, runs):
    assert runs_in_cudnn(head_dim, capability) == runs


def test_heads_that_cudnn_does_not_take_are_xla_s(monkeypatch, caplog):
    """Gemma 3 has heads of 256, for which older GPUs have no kernel; that is said, once."""
    monkeypatch.setattr(flash_attention, "runs_in_cudnn", lambda head_dim, capability: False)
    assert_is_the_reference("cudnn", 2e-5)
    assert_is_the_reference("cudnn", 2e-5)
    assert len(caplog.records) == 1 and "attention in rows is XLA's" in caplog.text


@pytest.mark.parametrize(
    ("asked", "dtype", "platform", "chosen"),
    [
        ("auto", "float32", "cpu", "xla"),
        ("auto", "bfloat16", "gpu", "cudnn"),
        ("auto", "float32", "gpu", "xla"),
        ("auto", "float32", "tpu", "splash"),
        ("xla", "bfloat16", "tpu", "xla"),
    ],
)
def test_auto_is_by_platform(asked, dtype, platform, chosen):
    assert choose_attention(asked, dtype, platform) == chosen


@pytest.mark.parametrize(("asked", "dtype", "platform"), [("splash", "float32", "cpu"), ("cudnn", "float32", "gpu")])
def test_what_does_not_run_is_an_error(asked, dtype, platform):
    with pytest.raises(ValueError, match="parallel.attention"):
        choose_attention(asked, dtype, platform)
