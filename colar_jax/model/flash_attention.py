"""Attention in packed rows by platform: XLA's everywhere, cuDNN's flash kernel on GPUs, splash on TPUs.

All compute the same at real positions: causal attention within a segment. What stands at padding differs, and nobody
reads it. Decode steps and tree rows have masks of their own, and are XLA's on every platform (`model.attention`).
"""

import functools
import logging
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from colar_jax.errors import UserError
from colar_jax.model import attention

logger = logging.getLogger(__name__)

# (q_BTNH, k_BTKH, v_BTKH) -> output [B, T, N * H]
PackedAttention = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

# Splash works in blocks of positions: rows are padded to a multiple of the smallest, and use the largest that divides.
_BLOCKS = (512, 256, 128)
_HEADS = P(None, None, "tensor", None)


def choose_attention(asked: str, dtype: str, platform: str) -> str:
    """The implementation for `parallel.attention` on a platform (a device's: cpu, gpu, tpu).

    Raises:
        UserError: what is asked for does not run there.
    """
    if asked == "auto":
        if platform == "tpu":
            return "splash"
        return "cudnn" if platform == "gpu" and dtype == "bfloat16" else "xla"
    where = {"cudnn": "gpu", "splash": "tpu"}.get(asked, platform)
    if platform != where:
        raise UserError(f"parallel.attention={asked!r} runs on {where}s, and the devices are {platform}s: use auto")
    if asked == "cudnn" and dtype != "bfloat16":
        raise UserError(f"parallel.attention='cudnn' with model.dtype={dtype!r}: it computes in bfloat16 only")
    return asked


def packed_attention(
    segment_ids_BT, implementation: str = "xla", *, splits_heads: bool = False, interpret: bool = False
) -> PackedAttention:
    """Causal attention within the segments of packed rows (0 is padding).

    Args:
        implementation: `xla`, `cudnn` or `splash`.
        splits_heads: whether the heads are split over the mesh's `tensor` axis, which XLA cannot do to a kernel.
        interpret: run splash without a TPU, for tests.
    """
    if implementation == "xla":
        mask_bias_BTT = attention.packed_mask_bias(segment_ids_BT)
        return lambda q, k, v: attention.attend(q, k, v, mask_bias_BTT)
    kernel = {"cudnn": _cudnn, "splash": functools.partial(_splash, interpret=interpret)}[implementation]

    def attend(q_BTNH, k_BTKH, v_BTKH):
        B, T, N, H = q_BTNH.shape
        if not splits_heads:
            return kernel(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT).reshape(B, T, N * H)
        size = jax.sharding.get_abstract_mesh().shape["tensor"]
        if N % size:  # XLA splits inside a head, which no kernel does
            return packed_attention(segment_ids_BT)(q_BTNH, k_BTKH, v_BTKH)
        if k_BTKH.shape[2] % size:  # too few key-value heads to go round: one for each query head
            k_BTKH, v_BTKH = (jnp.repeat(x, N // x.shape[2], axis=2) for x in (k_BTKH, v_BTKH))
        out_BTNH = jax.shard_map(
            kernel,
            axis_names={"tensor"},
            in_specs=(_HEADS, _HEADS, _HEADS, P()),
            out_specs=_HEADS,
            check_vma=False,
        )(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT)
        return out_BTNH.reshape(B, T, N * H)

    return attend


def _cudnn(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT):
    _, T, _, H = q_BTNH.shape
    capability = getattr(jax.devices()[0], "compute_capability", "")
    kernel = "cudnn" if runs_in_cudnn(H, capability) else "xla"
    if kernel == "xla":
        _say_that_xla_attends(H, capability)
    padding = T % 2 if kernel == "cudnn" else 0  # which refuses an odd number of positions
    q_BTNH, k_BTKH, v_BTKH = (
        jnp.pad(x_BTNH, ((0, 0), (0, padding), (0, 0), (0, 0))) for x_BTNH in (q_BTNH, k_BTKH, v_BTKH)
    )
    segments = jnp.pad(segment_ids_BT, ((0, 0), (0, padding)))
    # Padding is a segment like any other: a query that sees nothing would be NaN.
    is_same_B1TT = (segments[:, :, None] == segments[:, None])[:, None]
    out_BTNH = jax.nn.dot_product_attention(
        q_BTNH, k_BTKH, v_BTKH, mask=is_same_B1TT, is_causal=True, implementation=kernel
    )
    return out_BTNH[:, :T]


def runs_in_cudnn(head_dim: int, capability: str) -> bool:
    """Whether cuDNN's kernel takes heads of this size on a GPU of this compute capability, "9.0" (Hopper) for one.

    As jax checks it (`jax._src.cudnn.fused_attention_stablehlo`): up to 128 in steps of 8, from Hopper on up to 256.
    """
    is_hopper = bool(capability) and int(capability.partition(".")[0]) >= 9
    return head_dim % 8 == 0 and head_dim <= (256 if is_hopper else 128)


@functools.cache
def _say_that_xla_attends(head_dim: int, capability: str) -> None:
    logger.warning(
        "attention in rows is XLA's: cuDNN has no kernel for heads of %d dimensions on a GPU of compute capability %s",
        head_dim, capability or "unknown",
    )  # fmt: skip


def _splash(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, *, interpret: bool):
    # Here, because Pallas takes its time to import, and only TPUs need it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask

    _, T, N, H = q_BTNH.shape
    padding = -T % _BLOCKS[-1]
    block = next(size for size in _BLOCKS if (T + padding) % size == 0)
    blocks = splash.BlockSizes(
        block_q=block, block_kv=block, block_kv_compute=block,
        block_q_dkv=block, block_kv_dkv=block, block_kv_dkv_compute=block,
        block_q_dq=block, block_kv_dq=block,
    )  # fmt: skip
    causal = splash_mask.MultiHeadMask([splash_mask.CausalMask((T + padding, T + padding))] * N)
    kernel = splash.make_splash_mha(causal, block_sizes=blocks, head_shards=1, q_seq_shards=1, interpret=interpret)

    def by_head(x_BTNH):
        return jnp.pad(x_BTNH, ((0, 0), (0, padding), (0, 0), (0, 0))).transpose(0, 2, 1, 3)

    segments = jnp.pad(segment_ids_BT, ((0, 0), (0, padding)))
    out_BNTH = jax.vmap(kernel)(
        by_head(q_BTNH * H**-0.5), by_head(k_BTKH), by_head(v_BTKH), splash.SegmentIds(segments, segments)
    )
    return out_BNTH.transpose(0, 2, 1, 3)[:, :T].astype(v_BTKH.dtype)
