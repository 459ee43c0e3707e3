import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from colar_jax.losses import cross_entropy_sum, gather_positions, gaussian_nll, masked_sum, soft_mse
from colar_jax.model.latent_head import Gaussian

N, V, D = 22, 53, 8
RNG = np.random.default_rng(0)
HIDDEN_ND = RNG.normal(size=(N, D)).astype(np.float32)
HEAD_VD = RNG.normal(size=(V, D)).astype(np.float32)
LABELS_N = np.where(RNG.random(N) < 0.3, -1, RNG.integers(0, V, N)).astype(np.int32)
# Some positions whose label is what the head predicts, so that there is something to get right.
LABELS_N[::5] = (HIDDEN_ND @ HEAD_VD.T).argmax(1)[::5]

summed = jax.jit(cross_entropy_sum, static_argnames="chunk")


def plain_cross_entropy(hidden_ND, head_VD):
    log_probs_NV = jax.nn.log_softmax(hidden_ND @ head_VD.T)
    picked_N = log_probs_NV[np.arange(N), np.maximum(LABELS_N, 0)]
    return -jnp.sum(jnp.where(LABELS_N >= 0, picked_N, 0.0))


@pytest.mark.parametrize("chunk", [1, 4, N])
def test_cross_entropy_and_its_gradient(chunk):
    def ours(hidden_ND, head_VD):
        return cross_entropy_sum(hidden_ND, head_VD, LABELS_N, chunk=chunk)

    (loss, right), gradients = jax.jit(jax.value_and_grad(ours, argnums=(0, 1), has_aux=True))(HIDDEN_ND, HEAD_VD)
    expected, expected_gradients = jax.jit(jax.value_and_grad(plain_cross_entropy, argnums=(0, 1)))(HIDDEN_ND, HEAD_VD)
    assert loss == pytest.approx(float(expected), rel=1e-6)
    for gradient, of_plain in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, of_plain, rtol=1e-5, atol=1e-5)
    assert right == np.sum((HIDDEN_ND @ HEAD_VD.T).argmax(1) == LABELS_N) == 5


def test_no_label_no_loss():
    def loss(hidden_ND, head_VD):
        return cross_entropy_sum(hidden_ND, head_VD, np.full(N, -1, np.int32), chunk=4)[0]

    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(HIDDEN_ND, HEAD_VD)
    assert value == 0
    assert all(not gradient.any() for gradient in gradients)


def test_large_logits():
    """Of +-1,000: the probability of the label is 1 or 0, and neither is NaN."""
    hidden_ND, head_VD = np.array([[1000.0], [1000.0]], np.float32), np.array([[1.0], [-1.0]], np.float32)
    loss, right = summed(hidden_ND, head_VD, np.array([0, 1], np.int32), chunk=8)
    assert (loss, right) == (2000, 1)


def test_cross_entropy_of_bfloat16_is_summed_in_float32():
    loss, _ = summed(HIDDEN_ND.astype(jnp.bfloat16), HEAD_VD, LABELS_N, chunk=4)
    rounded = [x.astype(jnp.bfloat16).astype(np.float32) for x in (HIDDEN_ND, HEAD_VD)]
    assert loss.dtype == jnp.float32
    assert loss == pytest.approx(float(plain_cross_entropy(*rounded)), rel=1e-6)


def test_gather_positions():
    x_BSD = np.arange(2 * 3 * 2).reshape(2, 3, 2)
    gathered = gather_positions(x_BSD, np.array([[2, 0, 0], [1, 3, 9]]))  # beyond the end is the last
    assert gathered.tolist() == [[[4, 5], [0, 1], [0, 1]], [[8, 9], [10, 11], [10, 11]]]


# Latents


@pytest.fixture
def gaussian():
    mean, target, noise = RNG.normal(size=(3, 4, 6, D)).astype(np.float32)
    std = RNG.uniform(0.05, 3, size=(4, 6, D)).astype(np.float32)
    return mean, std, target, noise


def test_gaussian_nll(gaussian):
    mean, std, target, _ = gaussian
    expected = -stats.norm.logpdf(target, mean, std).mean(axis=-1)
    np.testing.assert_allclose(gaussian_nll(Gaussian(mean, std), target), expected, rtol=2e-5, atol=1e-5)


def test_entropy(gaussian):
    mean, std, _, _ = gaussian
    np.testing.assert_allclose(Gaussian(mean, std).entropy(), stats.norm.entropy(mean, std), rtol=1e-5, atol=1e-6)


def test_soft_mse(gaussian):
    mean, std, target, noise = gaussian
    expected = np.mean((mean + std * noise - target) ** 2, axis=-1)
    np.testing.assert_allclose(soft_mse(Gaussian(mean, std), target, noise), expected, rtol=1e-5)


def test_expected_soft_mse_has_the_variance_in_it(gaussian):
    """Over the noise it is the squared error of the mean plus the variance: what pulls the std to 0."""
    mean, std, target, _ = (x[0, 0] for x in gaussian)
    noise = np.random.default_rng(1).normal(size=(40_000, D)).astype(np.float32)
    sampled = np.mean(soft_mse(Gaussian(mean, std), target, noise))
    assert sampled == pytest.approx(np.mean((mean - target) ** 2 + std**2), rel=0.02)


def test_masked_sum_ignores_nan_where_it_is_not_asked():
    values = jnp.array([1.0, jnp.nan, 3.0, jnp.inf, -jnp.inf])
    mask = jnp.array([True, False, True, False, False])
    value, gradient = jax.value_and_grad(masked_sum)(values, mask)
    assert value == 4
    assert gradient.tolist() == [1, 0, 1, 0, 0]  # by the values themselves
    assert np.isnan(masked_sum(values, ~mask))  # what counts is not hidden


def test_weighted_labels_count_their_weight_however_they_are_chunked():
    hidden_ND, head_VD = HIDDEN_ND, HEAD_VD
    weights_N = np.random.default_rng(1).random(N).astype(np.float32)
    each = [summed(hidden_ND[n : n + 1], head_VD, LABELS_N[n : n + 1], chunk=N) for n in range(N)]
    losses_N, right_N = (np.array([float(one[part]) for one in each]) for part in (0, 1))
    for chunk in (N, 5):
        loss, right = summed(hidden_ND, head_VD, LABELS_N, weights_N, chunk=chunk)
        np.testing.assert_allclose(loss, weights_N @ losses_N, rtol=1e-5)
        np.testing.assert_allclose(right, weights_N @ right_N, rtol=1e-5)
