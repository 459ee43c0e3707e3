"""Records the golden numbers that the tests read: SFT losses one problem at a time, and copies of recorded arrays.

    python tests/golden/record_single_problem.py <folder of the recorded numbers>

The published implementation pads a batch so that compressed rows get slots that hold nothing; its recorded losses
contain them. This file is a small torch model of that forward. It first proves itself: on the recorded batch and draws
it must give the recorded losses and gradient norms, padding artefacts included. Then it runs each problem alone, laid
out without any padding, in float64, with the draws of that problem's real slots, and writes what tests compare with.
README.md beside this file defines every loss and key. Needs torch and transformers; the tests need neither.
"""

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributions import Normal
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama
from transformers.models.qwen2 import modeling_qwen2

SEPARATOR, EOS, PAD = 297, 639, 640
EMBEDS_STD = 0.018
SPEEDS = (1, 2, 3, 5)
VARIANTS = ("mse", "mse_det", "mse_mean", "nll_ent")
LOSSES = ("ce_loss", "embed_modeling_loss", "entropy", "total_loss")
DETERMINISTIC_STD = 1e-9
HERE = Path(__file__).parent


class Draws(NamedTuple):
    """The random numbers of one forward: a token index inside each group (None at speed 1) and the latent noise."""

    label_index: torch.Tensor | None
    noise: torch.Tensor


class Layout(NamedTuple):
    """A batch as the published code feeds it: [left-padded question | compressed steps | right-padded answer]."""

    embeds: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor
    steps: slice


class LatentPolicy(nn.Module):
    """Diagonal Gaussian over the next compressed embedding divided by EMBEDS_STD."""

    def __init__(self, hidden: int, intermediate: int):
        super().__init__()
        first, second = nn.Linear(hidden, intermediate), nn.Linear(intermediate, intermediate)
        self.fc = nn.Sequential(first, nn.GELU(), second, nn.LayerNorm(intermediate))
        self.mean = nn.Linear(intermediate, hidden)
        self.log_std = nn.Linear(intermediate, hidden)

    def forward(self, hidden: torch.Tensor, deterministic: bool) -> Normal:
        features = self.fc(hidden)
        mean = self.mean(features)
        return Normal(mean, torch.full_like(mean, DETERMINISTIC_STD) if deterministic else self.log_std(features).exp())


class Setup(NamedTuple):
    """What is recorded: a model, and which of its parameters are trained; record_adapters.py has others."""

    family: str  # as the recorded files are named
    training: str  # "full" or "lora"
    variants: tuple[str, ...]
    embeds_std: float
    load: Callable  # (folder, dtype) -> model, policy
    prefix: str = "llm."  # of the model's parameters in the recorded numbers


def load_models(folder: Path, dtype: torch.dtype) -> tuple[LlamaForCausalLM, LatentPolicy]:
    """Model with the [PAD] row appended to the tied embedding, and the latent policy, as in all recorded SFT runs."""
    config = LlamaConfig.from_pretrained(folder / "llama_tiny", vocab_size=PAD + 1, attn_implementation="eager")
    weights = load_file(folder / "llama_tiny/model.safetensors")
    pad_row = load_file(folder / "llama_pad_rows.safetensors")["embed_pad_row"]
    weights["model.embed_tokens.weight"] = torch.cat([weights["model.embed_tokens.weight"], pad_row[None]])
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model = LlamaForCausalLM(config).to(dtype)
    model.load_state_dict(weights)
    policy = LatentPolicy(64, 128).to(dtype)
    policy.load_state_dict(load_file(folder / "llama_latent_policy.safetensors"))
    return model, policy


def pad_groups(ids: torch.Tensor, speed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The published padding: `###` becomes the last token of its group, the length a multiple of `speed`.

    Every row grows by the same count, at least `speed`. What a row does not need on the left goes to the right; a right
    padding of exactly one group moves to the left, but a longer one stays and ends the row in a group of pads only.
    """
    length = ids.shape[1]
    grow = 2 * speed - 1 - (length + speed - 1) % speed
    rows = []
    for row_ids in ids:
        left = (speed - 1 - int((row_ids == PAD).sum())) % speed
        left = grow if grow - left == speed else left
        rows.append(nn.functional.pad(row_ids, (left, grow - left), value=PAD))
    padded_ids = torch.stack(rows)
    return padded_ids, (padded_ids != PAD).long()


def compress(embedding: nn.Embedding, ids: torch.Tensor, mask: torch.Tensor, speed: int, sqrt_mean: bool):
    """Embeddings [B, slots, D] and mask [B, slots] of step ids already padded to whole groups."""
    if speed == 1:
        return embedding(ids), mask
    grouped_mask = mask.unflatten(1, (-1, speed))
    summed = (embedding(ids).unflatten(1, (-1, speed)) * grouped_mask[..., None]).sum(2)
    count = grouped_mask.sum(2).to(summed.dtype)[..., None]
    return summed / ((count.sqrt() if sqrt_mean else count) + 1e-5), (grouped_mask.sum(2) > 0).long()


def lay_out(embedding, question, steps, answer, speed: int, sqrt_mean: bool, label_index, drop_empty: bool) -> Layout:
    """Joins padded ids (question and steps left, answer right). `drop_empty` leaves out slots masked in every row."""
    steps, steps_mask = pad_groups(steps, speed) if speed > 1 else (steps, (steps != PAD).long())
    slots, slots_mask = compress(embedding, steps, steps_mask, speed, sqrt_mean)
    if drop_empty:
        kept = slots_mask.any(0)
        slots, slots_mask = slots[:, kept], slots_mask[:, kept]
        steps = steps.unflatten(1, (-1, speed))[:, kept].flatten(1)
    slot_labels = steps if speed == 1 else steps.unflatten(1, (-1, speed)).gather(2, label_index[..., None])[..., 0]
    answer_mask = (answer != PAD).long()
    labels = torch.cat([torch.full_like(question, -100), slot_labels, answer], 1)
    mask = torch.cat([(question != PAD).long(), slots_mask, answer_mask], 1)
    return Layout(
        embeds=torch.cat([embedding(question), slots, embedding(answer)], 1),
        mask=mask,
        labels=labels.masked_fill(mask == 0, -100),
        steps=slice(question.shape[1], question.shape[1] + slots.shape[1]),
    )


LLAMA = Setup("llama", "full", VARIANTS, EMBEDS_STD, load_models)


def sft_losses(model, policy, layout: Layout, noise, variant: str, embeds_std: float) -> dict[str, torch.Tensor]:
    """The published loss of one batch; README.md says what each is a mean of."""
    position_ids = (layout.mask.cumsum(1) - 1).clamp(min=0)
    output = model(
        inputs_embeds=layout.embeds, attention_mask=layout.mask, position_ids=position_ids, output_hidden_states=True
    )
    logits = output.logits[:, :-1].flatten(0, 1)
    ce = nn.functional.cross_entropy(logits, layout.labels[:, 1:].flatten(), ignore_index=-100)

    gaussian = policy(output.hidden_states[-1][:, layout.steps], deterministic=variant == "mse_det")
    # The published target carries no gradient: detaching is what makes the embedding's recorded gradient norm agree.
    target = layout.embeds[:, layout.steps.start + 1 : layout.steps.stop + 1].detach() / embeds_std
    if variant == "nll_ent":
        latent = -gaussian.log_prob(target)
    else:
        latent = (gaussian.mean + gaussian.stddev * noise - target).square()
    slot_mask = layout.mask[:, layout.steps].to(latent.dtype)
    latent = (latent.mean(-1) * slot_mask).sum() / slot_mask.sum()
    entropy = (gaussian.entropy().mean(-1) * slot_mask).sum() / slot_mask.sum()
    total = ce + latent + (0.01 * entropy if variant == "nll_ent" else 0.0)
    return dict(zip(LOSSES, (ce, latent, entropy, total), strict=True))


def trained(model, policy, setup: Setup) -> list[tuple[str, nn.Parameter]]:
    """The trained parameters, under their recorded names."""
    named = [(setup.prefix + n, p) for n, p in model.named_parameters() if p.requires_grad]
    return named + [(f"latent_policy.{n}", p) for n, p in policy.named_parameters()]


def losses_and_grads(setup, model, policy, batch, speed: int, draws: Draws, variant: str, drop_empty: bool = False):
    """Losses, and per parameter the gradient of total_loss (None where it has none)."""
    named, embedding = trained(model, policy, setup), model.get_input_embeddings()
    layout = lay_out(embedding, *batch, speed, variant != "mse_mean", draws.label_index, drop_empty)
    losses = sft_losses(model, policy, layout, draws.noise.to(layout.embeds.dtype), variant, setup.embeds_std)
    grads = torch.autograd.grad(losses["total_loss"], [p for _, p in named], allow_unused=True)
    losses = {name: value.item() for name, value in losses.items()}
    return losses, {name: grad for (name, _), grad in zip(named, grads, strict=True)}, layout


def grad_norm(grad: torch.Tensor | None) -> float:
    """Norm, summed in float64; 0 for a parameter that the loss does not reach."""
    return 0.0 if grad is None else grad.double().norm().item()


def compute_in_float64() -> None:
    """Removes the float32 islands of transformers' models (softmax, RMSNorm); rope angles stay float32, as recorded."""

    def attention(module, query, key, value, attention_mask, scaling, **_):
        key, value = (x.repeat_interleave(module.num_key_value_groups, 1) for x in (key, value))
        weights = (query @ key.transpose(2, 3) * scaling + attention_mask).softmax(-1)
        return (weights @ value).transpose(1, 2).contiguous(), weights

    def rms_norm(module, hidden):
        return module.weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + module.variance_epsilon)

    modeling_llama.eager_attention_forward = modeling_qwen2.eager_attention_forward = attention
    modeling_llama.LlamaRMSNorm.forward = modeling_qwen2.Qwen2RMSNorm.forward = rms_norm


def recorded_batch(sft: dict[str, np.ndarray], speed: int) -> tuple[list[torch.Tensor], Draws]:
    """Padded question, step and answer ids of the 8 recorded problems, and the recorded draws."""
    batch = [torch.from_numpy(sft[f"r{speed}/{part}_input_ids"]).long() for part in ("question", "steps", "answer")]
    index = torch.from_numpy(sft[f"r{speed}/sampled_index"]).long() if speed > 1 else None
    return batch, Draws(index, torch.from_numpy(sft[f"r{speed}/noise"]))


def prove(setup: Setup, folder: Path, dtype: torch.dtype, loss_tolerance: float, norm_tolerance: float) -> None:
    """Compares every recorded run of the padded batch with this file's; raises AssertionError on a difference."""
    numbers = f"e_sft_{setup.family}{'_f64' if dtype is torch.float64 else ''}.json"
    sft, recorded = np.load(folder / f"e_sft_{setup.family}.npz"), json.loads((folder / numbers).read_text())
    model, policy = setup.load(folder, dtype)
    worst_loss = worst_norm = 0.0
    names = [(v, r) for v in setup.variants for r in SPEEDS if f"{setup.training}/{v}/r{r}" in recorded]
    assert names
    for variant, speed in names:
        batch, draws = recorded_batch(sft, speed)
        losses, grads, layout = losses_and_grads(setup, model, policy, batch, speed, draws, variant)
        np.testing.assert_array_equal(layout.labels, sft[f"r{speed}/labels"])
        np.testing.assert_array_equal(layout.mask, sft[f"r{speed}/attention_mask"])
        expected = recorded[f"{setup.training}/{variant}/r{speed}"]
        worst_loss = max(worst_loss, *(abs(losses[n] / expected["losses"][n] - 1) for n in LOSSES))
        for name, grad in grads.items():
            norm = expected["grad_norms"].get(name)
            assert (norm is None) == (grad is None), f"{variant} r{speed}: {name} has a gradient in one of the two only"
            worst_norm = worst_norm if grad is None else max(worst_norm, abs(grad_norm(grad) / norm - 1))
        if (setup.family, variant, speed, dtype) == ("llama", "mse", 3, torch.float32):
            for name, grad in load_file(folder / f"e_grads_llama_{setup.training}_mse_r3.safetensors").items():
                torch.testing.assert_close(grads[name], grad, rtol=0, atol=1e-5 * float(grad.abs().max()))
    runs = f"{numbers}, {setup.training}: {len(names)} runs"
    print(f"{runs}, largest relative difference: losses {worst_loss:.1e}, norms {worst_norm:.1e}")
    assert worst_loss < loss_tolerance
    assert worst_norm < norm_tolerance


def record_single_problems(setup: Setup, folder: Path) -> dict[str, np.ndarray]:
    """Every problem alone at every speed and variant, in float64, with the recorded draws of its real slots."""
    sft = np.load(folder / f"e_sft_{setup.family}.npz")
    model, policy = setup.load(folder, torch.float64)
    problems = sft["r1/question_input_ids"].shape[0]
    arrays, results = {}, {}
    for problem, speed in itertools.product(range(problems), SPEEDS):
        (question, steps, answer), draws = recorded_batch(sft, speed)
        batch = [ids[problem][ids[problem] != PAD][None] for ids in (question, steps, answer)]
        real = torch.from_numpy(sft[f"r{speed}/steps_mask"][problem] == 1)
        index = None if draws.label_index is None else draws.label_index[problem][real][None]
        own = Draws(index, draws.noise[problem][real][None])
        for variant in setup.variants:
            losses, grads, layout = losses_and_grads(setup, model, policy, batch, speed, own, variant, drop_empty=True)
            results[problem, speed, variant] = list(losses.values()), [grad_norm(g) for g in grads.values()]
        assert layout.mask.all()
        assert (layout.labels != PAD).all()
        slot_labels = layout.labels[0, layout.steps].numpy()
        np.testing.assert_array_equal(slot_labels, sft[f"r{speed}/steps_labels"][problem][real])
        prefix = f"p{problem}/r{speed}"
        arrays[f"{prefix}/question_ids"] = batch[0][0].numpy().astype(np.int32)
        arrays[f"{prefix}/step_ids"] = batch[1][0, 1:].numpy().astype(np.int32)
        arrays[f"{prefix}/answer_ids"] = batch[2][0, 1:].numpy().astype(np.int32)
        arrays[f"{prefix}/slot_labels"] = slot_labels.astype(np.int32)
        arrays[f"{prefix}/noise"] = own.noise[0].numpy()
        results[problem, speed, "counts"] = int((layout.labels != -100).sum()), len(slot_labels)
    shape = (problems, len(SPEEDS), len(setup.variants), -1)
    cases = list(itertools.product(range(problems), SPEEDS, setup.variants))
    counts = np.array([results[p, r, "counts"] for p, r in itertools.product(range(problems), SPEEDS)], np.int32)
    counts = counts.reshape(problems, len(SPEEDS), 2)
    return arrays | {
        "speeds": np.array(SPEEDS, np.int32),
        "variants": np.array(setup.variants),
        "loss_names": np.array(LOSSES),
        "parameter_names": np.array(list(grads)),
        "losses": np.array([results[case][0] for case in cases]).reshape(shape),
        "grad_norms": np.array([results[case][1] for case in cases]).reshape(shape),
        "ce_label_count": counts[..., 0],
        "latent_slot_count": counts[..., 1],
    }


def prove_single_problems(setup: Setup, folder: Path, single: dict[str, np.ndarray]) -> None:
    """At speed 1 padding alters no latent, so the slot-weighted mean of the single latent losses is the batch's."""
    recorded = json.loads((folder / f"e_sft_{setup.family}.json").read_text())
    for v, variant in enumerate(setup.variants):
        for name in ("embed_modeling_loss", "entropy"):
            values = single["losses"][:, 0, v, LOSSES.index(name)]
            mean = np.average(values, weights=single["latent_slot_count"][:, 0])
            expected = recorded[f"{setup.training}/{variant}/r1"]["losses"][name]
            np.testing.assert_allclose(mean, expected, rtol=1e-6)


def copies(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """File name -> arrays copied unchanged from the recorded numbers."""

    def npz(name, prefix, include="", exclude=()):
        loaded = np.load(folder / name)
        keys = [k for k in loaded if k.startswith(include) and k.removeprefix(include).split("/")[0] not in exclude]
        return {prefix + k.removeprefix(include): loaded[k] for k in keys}

    def safetensors(name, prefix):
        return {prefix + k: v.numpy() for k, v in load_file(folder / name).items()}

    weights = safetensors("llama_tiny/model.safetensors", "llama/") | safetensors("llama_pad_rows.safetensors", "")
    weights |= safetensors("llama_latent_policy.safetensors", "policy/")
    weights["config_json"] = np.array((folder / "llama_tiny/config.json").read_text())
    weights["config_json_transformers5"] = np.array((folder / "llama_tiny_config_transformers5.json").read_text())
    forward = npz("a_forward_llama.npz", "model/") | npz("c_latent_policy.npz", "policy/", include="llama/")
    forward |= npz("d_compression.npz", "compression/")
    generate = npz("h_generate.npz", "", include="llama/", exclude=("greedy_lora", "text_icot"))
    return {"weights": weights, "forward": forward, "generate": generate}


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    prove(LLAMA, folder, torch.float32, loss_tolerance=1e-5, norm_tolerance=1e-4)
    compute_in_float64()
    prove(LLAMA, folder, torch.float64, loss_tolerance=1e-6, norm_tolerance=1e-6)
    single = record_single_problems(LLAMA, folder)
    prove_single_problems(LLAMA, folder, single)
    for name, arrays in ({"single_problem": single} | copies(folder)).items():
        np.savez_compressed(HERE / f"{name}.npz", **arrays)
        print(f"{name}.npz: {len(arrays)} arrays, {(HERE / f'{name}.npz').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
