"""Rotary position embeddings in the rotate-half form of the Hugging Face Llama."""

import jax
import jax.numpy as jnp
import numpy as np

from colar_jax.model.llama_config import NO_ROPE, SLIDING, LlamaConfig
from colar_jax.model.rope_scaling import Scaling


def inverse_frequencies(head_dim: int, theta: float, scaling: Scaling | None) -> np.ndarray:
    """Angle per position for each pair of dimensions, stretched as `scaling` says: float32 `[head_dim / 2]`."""
    inverse = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    return (inverse if scaling is None else scaling.stretched(inverse, theta)).astype(np.float32)


def rotation_tables(position_ids_BT, head_dim: int, theta: float, scaling: Scaling | None):
    """Cosines and sines of every position's angles, computed once for all layers: float32 `[B, T, H / 2]` twice."""
    inverse_H = inverse_frequencies(head_dim, theta, scaling)
    angles_BTH = position_ids_BT[..., None].astype(jnp.float32) * inverse_H[None, None]
    tables = jnp.cos(angles_BTH), jnp.sin(angles_BTH)
    if scaling is not None and scaling.amplitude != 1:
        tables = tuple(scaling.amplitude * table for table in tables)
    return _once(tables[0]), _once(tables[1])


def rotations_of_layers(position_ids_BT, config: LlamaConfig):
    """The tables of a model's layers, and which of them each layer takes.

    Returns:
        Where all layers turn alike, their tables and None. Otherwise the tables of each kind stacked, float32
        `[R, B, T, H / 2]` twice, and each layer's place among them, int32 `[L]`. A layer without rotary embeddings
        turns by nothing: cosine 1, sine 0.
    """
    kinds = tuple(dict.fromkeys(config.rotations))

    def tables(kind: str):
        if kind == SLIDING:
            return rotation_tables(position_ids_BT, config.head_dim, config.sliding_rope_theta, None)
        cos_BTH, sin_BTH = rotation_tables(position_ids_BT, config.head_dim, config.rope_theta, config.rope_scaling)
        return (jnp.ones_like(cos_BTH), jnp.zeros_like(sin_BTH)) if kind == NO_ROPE else (cos_BTH, sin_BTH)

    of_kinds = [tables(kind) for kind in kinds]
    if len(kinds) == 1:
        return of_kinds[0], None
    stacked = tuple(jnp.stack(of_each) for of_each in zip(*of_kinds, strict=True))
    return stacked, np.array([kinds.index(kind) for kind in config.rotations], np.int32)


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
