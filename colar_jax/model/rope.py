"""Rotary position embeddings in the rotate-half form of the Hugging Face Llama, with Llama-3's frequency scaling."""

import jax
import jax.numpy as jnp
import numpy as np

from colar_jax.model.presets import RopeScaling


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> np.ndarray:
    """Angle per position for each pair of dimensions: float32 `[head_dim / 2]`.

    Llama-3's scaling divides the frequencies whose wavelength exceeds the original context by `factor`, leaves the
    short wavelengths alone, and blends in between (Hugging Face `rope_type: llama3`).
    """
    inverse = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    if scaling is None:
        return inverse.astype(np.float32)
    wavelength = 2 * np.pi / inverse
    low_wavelength = scaling.original_max_positions / scaling.low_freq_factor
    high_wavelength = scaling.original_max_positions / scaling.high_freq_factor
    blend = (scaling.original_max_positions / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    blended = (1 - blend) * inverse / scaling.factor + blend * inverse
    scaled = np.where(wavelength > low_wavelength, inverse / scaling.factor, inverse)
    is_between = (wavelength <= low_wavelength) & (wavelength >= high_wavelength)
    return np.where(is_between, blended, scaled).astype(np.float32)


def rotation_tables(position_ids_BT, head_dim: int, theta: float, scaling: RopeScaling | None):
    """Cosines and sines of every position's angles, computed once for all layers: float32 `[B, T, H / 2]` twice."""
    inverse_H = inverse_frequencies(head_dim, theta, scaling)
    angles_BTH = position_ids_BT[..., None].astype(jnp.float32) * inverse_H[None, None]
    return _once(jnp.cos(angles_BTH)), _once(jnp.sin(angles_BTH))


def _once(x_BTH):
    """`x`, kept: otherwise every layer would compute its cosines and sines anew, for each head, inside its kernels.

    A barrier says so, but XLA's CPU backend drops it before it fuses. A look-up is what that does not repeat, so each
    position there looks its own row up.
    """
    B, T, H = x_BTH.shape
    x_NH = jax.lax.optimization_barrier(x_BTH).reshape(B * T, H)
    return jnp.take(x_NH, jnp.arange(B * T), axis=0, mode="clip").reshape(B, T, H)


def rotate(x_BTNH, cos_BTH, sin_BTH):
    """Turn each pair (i, i + head_dim / 2) of every head by its position's angle, in float32."""
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos_BTH[:, :, None, :], sin_BTH[:, :, None, :]
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BTNH.dtype)
