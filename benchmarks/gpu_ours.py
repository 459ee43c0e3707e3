"""What `gpu.py` runs of ours: functions that make a run, and say what it amounts to."""

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax_rl
import jax_side
import jax_thoughts
import numpy as np
import speed
from gpu_sizes import Size

from colar_jax.config import Compute, ModelConfig
from colar_jax.model.flash_attention import choose_attention, packed_attention
from colar_jax.model.lora import LoraConfig
from colar_jax.model.presets import PRESETS
from colar_jax.planning.model_flops import (
    StepShape,
    forward_flops,
    latent_weights,
    layer_weights,
    packed_rows,
    step_flops,
)
from colar_jax.settings import LatentHeadSettings, LoraSettings

LORA_ALPHA, LORA_TARGETS = 32.0, "query,value"
# The relative error (norm of the difference over norm) of bfloat16 attention beside float32; the smallest step of a
# bfloat16 beside 1 is 0.8 %.
TOLERANCE = 0.02


def subject(size: Size, *, lora: bool = False, held: str = "float32", scan: bool = True) -> jax_side.Subject:
    """The model in bfloat16, all of it trained or with adapters on a bfloat16 base."""
    adapters = LoraConfig(size.lora_rank, LORA_ALPHA, tuple(LORA_TARGETS.split(","))) if lora else None
    compute = Compute(dtype="bfloat16", scan_layers=scan)
    return jax_side.Subject(PRESETS[size.preset], size.latent_intermediate, compute, adapters, held)


def problems(size: Size):
    """Problems of GSM8K's lengths, in ids of the model's vocabulary."""
    return speed.problems_of(speed.gsm8k_lengths(), PRESETS[size.preset].vocab_size)


def questions(size: Size, count: int) -> list[list[int]]:
    """The first questions."""
    return [question for question, _, _ in problems(size)[:count]]


def training(size: Size, *, lora: bool = False, scan: bool = True) -> Callable[[], int]:
    """Training steps on packed rows."""
    model = subject(size, lora=lora, held="bfloat16" if lora else "float32", scan=scan)
    lengths = problems(size) * 4  # a window of packing
    run = jax_side.training(lengths, (size.speed,), size.rows, size.row_positions, model, steps=size.steps)
    batch = run.first_batch
    (rows, positions), supervised = batch.segment_ids_BS.shape, batch.supervised_BM.shape[1]
    settings = ModelConfig(
        base_dtype="bfloat16" if lora else "float32",
        latent_head=LatentHeadSettings(intermediate_size=size.latent_intermediate),
        lora=LoraSettings(rank=size.lora_rank, alpha=LORA_ALPHA, targets=LORA_TARGETS) if lora else LoraSettings(),
    )
    shape = packed_rows(rows, positions, supervised, has_latents=True)
    run.work = {
        "positions": size.steps * rows * positions,
        "real_share": float(np.mean(batch.segment_ids_BS > 0)),
        "flops": size.steps * step_flops(model.llama, settings, shape),
        "rows": rows,
        "attention": model.execution.attention,
    }
    return run


def rollouts(size: Size, *, counted: bool = False, share: int = 1) -> Callable[[], int]:
    """Rollouts of many questions (or of one in `share`), with weights held in bfloat16."""
    model = subject(size, held="bfloat16")
    size = dataclasses.replace(size, questions=-(-size.questions // share))
    prompts = questions(size, size.questions)
    run = jax_side.generation(
        prompts, size.latents, size.answer_tokens, model, num_rollouts=size.generations, counted=counted
    )
    run.work = decode_work(size, run.prompt_positions)
    return run


def decode_work(size: Size, prompt_positions: int) -> dict[str, float]:
    """What the steps of the loops must read and compute at least, and the prefill before them.

    Weights are read once a step. Of the cache, a step reads each question's part once, and what each rollout has fed.
    """
    llama, total = PRESETS[size.preset], size.questions * size.generations
    settings = ModelConfig(latent_head=LatentHeadSettings(intermediate_size=size.latent_intermediate))
    steps = size.latents + size.answer_tokens
    in_layers = llama.num_layers * sum(layer_weights(llama).values())
    in_head, in_latents = llama.vocab_size * llama.hidden_size, latent_weights(llama, settings)
    a_position = 2 * 2 * llama.num_layers * llama.num_kv_heads * llama.head_dim  # keys and values, two bytes each
    fed = sum(range(1, steps + 1))  # by one rollout, summed over the steps
    seen = total * fed + size.generations * prompt_positions * steps
    scores = 4 * llama.num_layers * llama.num_heads * llama.head_dim
    prefill = StepShape(1, prompt_positions, prompt_positions**2 // size.questions, size.questions, 0)
    return {
        "steps": steps,
        "bytes": steps * 2 * (in_layers + in_head)
        + size.latents * 4 * in_latents
        + a_position * (total * fed + prompt_positions * steps),
        "flops": 2 * total * (steps * (in_layers + in_head) + size.latents * in_latents) + scores * seen,
        "prefill_flops": sum(forward_flops(llama, settings, prefill).values()),
    }


def rl_iteration(size: Size) -> Callable[[], int]:
    """Rollouts, judging and updates, all weights trained."""
    asked = questions(size, size.rl_questions)
    return jax_rl.reinforcement(asked, size.generations, size.rl_minibatch, subject(size), latents=size.latents)[1]


def thoughts(size: Size, method: str) -> Callable[[], int]:
    """A step of Coconut's last stage, or of CODI."""
    model = dataclasses.replace(subject(size), latent_intermediate=8)  # neither has a latent head
    return jax_thoughts.training(method, problems(size), size.thought_rows, size.thought_positions, model, scan=True)


def attention(size: Size) -> dict:
    """The platform's attention in packed rows beside the reference: errors of the output and of three gradients.

    Both are compared with the reference in float32; `largest_error` is the platform's.
    """
    llama, rows = PRESETS[size.preset], min(size.rows, 4)
    name = choose_attention("auto", "bfloat16", jax.local_devices()[0].platform)
    rng = np.random.default_rng(0)
    segments_BT = _segments(size, rows)
    heads = (llama.num_heads, llama.num_kv_heads, llama.num_kv_heads)
    qkv = [rng.normal(size=(rows, size.row_positions, count, llama.head_dim)).astype(np.float32) for count in heads]
    qkv = [jnp.asarray(x, jnp.bfloat16) for x in qkv]  # the same numbers for all
    weights = (
        rng.normal(size=(rows, size.row_positions, llama.num_heads * llama.head_dim)) * (segments_BT > 0)[..., None]
    )

    def both(implementation: str, dtype):
        def weighted(q, k, v, segments_BT, weights):
            out = packed_attention(segments_BT, implementation)(q, k, v).astype(jnp.float32)
            return jnp.sum(out * weights), out * (segments_BT > 0)[..., None]

        program = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1, 2), has_aux=True))
        inputs = [*(x.astype(dtype) for x in qkv), jnp.asarray(segments_BT), jnp.asarray(weights, jnp.float32)]
        (_, out), gradients = program(*inputs)
        seconds = min(_timed(lambda: jax.block_until_ready(program(*inputs))) for _ in range(5))
        return [np.asarray(x, np.float32) for x in (out, *gradients)], seconds

    with jax.default_matmul_precision("highest"):
        expected, _ = both("xla", jnp.float32)
    (reference, reference_seconds), (own, own_seconds) = both("xla", jnp.bfloat16), both(name, jnp.bfloat16)
    parts = ("output", "query gradient", "key gradient", "value gradient")
    errors = {part: _error(x, exact) for part, x, exact in zip(parts, own, expected, strict=True)}
    return {
        "implementation": name,
        "errors": errors,
        "reference_errors": {part: _error(x, exact) for part, x, exact in zip(parts, reference, expected, strict=True)},
        "tolerance": TOLERANCE,
        "largest_error": max(errors.values()),
        "agrees": max(errors.values()) <= TOLERANCE,
        "seconds": own_seconds,
        "reference_seconds": reference_seconds,
        "shape": list(qkv[0].shape),
    }


def _segments(size: Size, rows: int) -> np.ndarray:
    """Problems one after the other, as many as fit into each row; padding at its end."""
    segments_BT, lengths = np.zeros((rows, size.row_positions), np.int32), iter(speed.gsm8k_lengths() * 4)
    for row in segments_BT:
        start, number = 0, 0
        while start + (length := sum(next(lengths))) <= len(row):
            number += 1
            row[start : start + length] = number
            start += length
    return segments_BT


def _error(x: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(x - exact) / np.linalg.norm(exact))


def _timed(work) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
