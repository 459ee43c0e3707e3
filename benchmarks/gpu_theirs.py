"""What `gpu.py` runs of PyTorch and transformers: the same work, in bfloat16."""

from collections.abc import Callable

import gpu_sizes
import speed
import torch
import torch_flash
import torch_rl
import torch_side
import torch_thoughts

from colar_jax.model.presets import PRESETS

LORA_ALPHA = 32.0


def modules(size: gpu_sizes.Size, device: str, attention: str):
    """The Llama and its latent head, made on the device."""
    llama = PRESETS[size.preset]
    shape = dict(
        hidden=llama.hidden_size, layers=llama.num_layers, intermediate=llama.intermediate_size, vocab=llama.vocab_size,
        heads=llama.num_heads, kv_heads=llama.num_kv_heads, latent_intermediate=size.latent_intermediate,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda" if device == "gpu" else "cpu"):
        model, policy = torch_side.build_model(**shape, attention=attention)
    return model.to(torch.bfloat16), policy.to(torch.bfloat16)


def problems(size: gpu_sizes.Size) -> list[torch_side.Problem]:
    """The same as ours."""
    vocab = PRESETS[size.preset].vocab_size
    return [torch_side.Problem(*problem) for problem in speed.problems_of(speed.gsm8k_lengths(), vocab)]


def training(size: gpu_sizes.Size, device: str, *, lora: bool = False, compiled: bool = True) -> Callable[[], int]:
    """One optimizer step on padded rows: compiled, in the flash kernel; or as published, eager."""
    model, policy = modules(size, device, torch_flash.CAUSAL if compiled else "eager")
    if lora:
        torch_flash.adapt(model, size.lora_rank, LORA_ALPHA)
    batch = problems(size)[: size.examples]
    if compiled:
        step = torch_flash.FlashStep(model, policy, torch_flash.row_width(batch, size.speed))
        model.model.compile(dynamic=False)
    else:
        step = torch_side.SftStep(model, policy)
    trained = [parameter for parameter in (*model.parameters(), *policy.parameters()) if parameter.requires_grad]
    step.optimizer = torch.optim.AdamW(trained, 1e-4, weight_decay=0.01, fused=True)

    def run() -> int:
        torch_flash.accumulated(step, batch, size.speed, size.microbatch)
        return len(batch)

    microbatches = [batch[start : start + size.microbatch] for start in range(0, len(batch), size.microbatch)]
    width = step.width if compiled else None
    run.work = {"positions": sum(len(part) * (width or published_width(part, size.speed)) for part in microbatches)}
    return run


def published_width(problems: list[torch_side.Problem], speed: int) -> int:
    """Positions of a row as `SftStep` pads it, above speed 1: each part to the longest of its own."""
    special, device = torch_side.DEFAULT_TOKENS, torch.device("cpu")
    slots = torch_side.pad_groups([[0, *p.step_ids] for p in problems], speed, special.pad, device).shape[1] // speed
    return max(len(p.question_ids) for p in problems) + slots + 1 + max(len(p.answer_ids) for p in problems)


def rollouts(size: gpu_sizes.Size, device: str) -> Callable[[], int]:
    """The published loop: every rollout's question prefilled by itself, a language head at every latent."""
    model, policy = modules(size, device, "sdpa")
    limits = dict(max_latents=size.latents, answer_tokens=size.answer_tokens)
    generator = torch_side.LatentGenerator(model, policy, fixed_work=True, **limits)
    prompts = [p.question_ids for p in problems(size)[: size.questions] for _ in range(size.generations)]
    return lambda: len(generator(prompts).answer_ids)


def rl_iteration(size: gpu_sizes.Size, device: str) -> Callable[[], int]:
    """An iteration of GRPO."""
    iteration = torch_rl.GrpoIteration(*modules(size, device, "sdpa"), size.generations, size.rl_minibatch)
    iteration.generate.max_latents = size.latents
    asked = [p.question_ids for p in problems(size)[: size.rl_questions]]
    return lambda: iteration(asked)


def thoughts(size: gpu_sizes.Size, device: str, method: str) -> Callable[[], int]:
    """A step of Coconut or CODI."""
    model, _ = modules(size, device, "sdpa")
    step = torch_thoughts.ThoughtStep(model, codi=method == "codi")
    step.projection.to(torch.bfloat16)
    batch = problems(size)[: size.thought_examples]
    return lambda: (step(batch), len(batch))[1]
