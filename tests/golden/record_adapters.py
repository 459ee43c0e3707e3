"""Records what the tests of adapters, of Qwen2 and of AdamW read: single-problem losses, forwards, and optimizer steps.

    python tests/golden/record_adapters.py <folder of the recorded numbers>

The torch model is that of record_single_problem.py, with LoRA matrices beside q and v (PEFT is not needed), and proves
itself likewise before anything is written. README.md beside this file defines every key.
"""

import functools
import json
import sys
from pathlib import Path

import numpy as np
import torch
from record_single_problem import (
    HERE,
    LLAMA,
    LOSSES,
    PAD,
    VARIANTS,
    Draws,
    LatentPolicy,
    Setup,
    compute_in_float64,
    losses_and_grads,
    prove,
    prove_single_problems,
    record_single_problems,
    recorded_batch,
    trained,
)
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

EMBEDS_STD = {"llama": 0.018, "qwen2": 0.03}
PREFIX = "base_model.model."  # of every name in a PEFT folder
ADAMW_SPEEDS = (5, 2, 1)
ADAMW_MAX_SIZE = 2048  # AdamW treats every entry alike: small parameters are enough


class Adapted(nn.Module):
    """A frozen linear layer and its low-rank correction, with PEFT's names."""

    def __init__(self, base: nn.Linear, rank: int, scale: float):
        super().__init__()
        self.base_layer, self.scale = base, scale
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})

    def forward(self, x):
        return self.base_layer(x) + self.scale * self.lora_B["default"](self.lora_A["default"](x))


def load_models(family: str, with_adapter: bool, folder: Path, dtype: torch.dtype):
    """Model with the [PAD] row, as in all recorded SFT runs, and the latent policy; adapters freeze the model."""
    source = folder / f"{family}_tiny"
    config = AutoConfig.from_pretrained(source, vocab_size=PAD + 1, attn_implementation="eager")
    weights, pads = load_file(source / "model.safetensors"), load_file(folder / f"{family}_pad_rows.safetensors")
    for name, pad in (("model.embed_tokens.weight", "embed_pad_row"), ("lm_head.weight", "lm_head_pad_row")):
        if pad in pads:
            weights[name] = torch.cat([weights[name], pads[pad][None]])
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    model.load_state_dict(weights)
    if with_adapter:
        model.requires_grad_(False)
        adapter = folder / f"{family}_tiny_lora"
        settings = json.loads((adapter / "adapter_config.json").read_text())
        rank, scale = settings["r"], settings["lora_alpha"] / settings["r"]
        for layer in model.model.layers:
            for name in settings["target_modules"]:
                setattr(layer.self_attn, name, Adapted(getattr(layer.self_attn, name), rank, scale))
        matrices = load_file(adapter / "adapter_model.safetensors")
        own = dict(model.named_parameters())
        for name, matrix in matrices.items():
            own[name.removeprefix(PREFIX).replace(".weight", ".default.weight")].data = matrix.to(dtype)
        assert len(matrices) == sum("lora_" in name for name in own)
        model.to(dtype)
    policy = LatentPolicy(64, 128).to(dtype)
    policy.load_state_dict(load_file(folder / f"{family}_latent_policy.safetensors"))
    return model, policy


def setup(family: str, training: str) -> Setup:
    is_lora = training == "lora"
    variants = VARIANTS if family == "llama" else ("mse", "nll_ent")
    prefix = f"llm.{PREFIX}" if is_lora else "llm."
    return Setup(
        family, training, variants, EMBEDS_STD[family], functools.partial(load_models, family, is_lora), prefix
    )


SETUPS = {"llama_lora": setup("llama", "lora"), "qwen2": setup("qwen2", "full"), "qwen2_lora": setup("qwen2", "lora")}


def record_adamw(folder: Path) -> dict[str, np.ndarray]:
    """Three recorded AdamW steps of the padded batch: the gradients that moved the small parameters, and how far.

    Each step's losses, and every parameter's norms after it, are first compared with the recorded ones.
    """
    numbers, draws_of = json.loads((folder / "f_adamw.json").read_text())["llama/full"], np.load(folder / "f_adamw.npz")
    model, policy = LLAMA.load(folder, torch.float32)
    named = trained(model, policy, LLAMA)
    start = {name: parameter.detach().clone() for name, parameter in named}
    settings = {name: numbers["optimizer"][name] for name in ("lr", "betas", "eps", "weight_decay")}
    optimizer = torch.optim.AdamW([parameter for _, parameter in named], **settings)
    kept = [name for name, parameter in named if parameter.numel() <= ADAMW_MAX_SIZE]
    arrays = {f"start/{name}": start[name].numpy() for name in kept}
    sft = np.load(folder / "e_sft_llama.npz")
    for step, (speed, expected) in enumerate(zip(ADAMW_SPEEDS, numbers["steps"], strict=True)):
        batch, _ = recorded_batch(sft, speed)
        index = torch.from_numpy(draws_of[f"step{step}/sampled_index"]).long() if speed > 1 else None
        draws = Draws(index, torch.from_numpy(draws_of[f"step{step}/noise"]))
        losses, grads, _ = losses_and_grads(LLAMA, model, policy, batch, speed, draws, "mse")
        for name in LOSSES:
            np.testing.assert_allclose(losses[name], expected["losses"][name], rtol=1e-5)
        for name, parameter in named:
            parameter.grad = grads[name]
        optimizer.step()
        for name, parameter in named:
            of_name, moved = expected["params"][name], (parameter.detach() - start[name]).double()
            np.testing.assert_allclose(moved.norm(), of_name["delta_norm_from_start"], rtol=1e-4)
            if name in kept:
                arrays[f"step{step}/gradient/{name}"] = grads[name].numpy()
                arrays[f"step{step}/norm/{name}"] = np.float64(of_name["norm"])
                arrays[f"step{step}/moved_norm/{name}"] = np.float64(of_name["delta_norm_from_start"])
    return arrays | {"settings_json": np.array(json.dumps(numbers["optimizer"]))}


def copies(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """File name -> arrays copied unchanged from the recorded numbers."""

    def safetensors(name, prefix):
        return {prefix + k: v.numpy() for k, v in load_file(folder / name).items()}

    # The model itself is in qwen2_tiny/, as a Hugging Face folder.
    qwen2 = safetensors("qwen2_pad_rows.safetensors", "") | safetensors("qwen2_latent_policy.safetensors", "policy/")
    adapters, forward = {}, {}
    for family in EMBEDS_STD:
        adapters |= safetensors(f"{family}_tiny_lora/adapter_model.safetensors", f"{family}/")
        adapters[f"{family}_config_json"] = np.array((folder / f"{family}_tiny_lora/adapter_config.json").read_text())
        adapters |= safetensors(f"{family}_merged_qv.safetensors", f"{family}_merged/")
        arrays = np.load(folder / f"b_lora_forward_{family}.npz")
        forward |= {f"{family}/{name}": arrays[name] for name in arrays}
    return {"weights_qwen2": qwen2, "adapters": adapters, "lora_forward": forward}


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    files = copies(folder) | {"adamw": record_adamw(folder)}
    for each in SETUPS.values():
        prove(each, folder, torch.float32, loss_tolerance=1e-5, norm_tolerance=1e-4)
    compute_in_float64()
    for name, each in SETUPS.items():
        prove(each, folder, torch.float64, loss_tolerance=1e-6, norm_tolerance=1e-5)
        single = record_single_problems(each, folder)
        prove_single_problems(each, folder, single)
        if name != "qwen2":  # the sequences and draws are those of the same model without adapters
            single = {key: array for key, array in single.items() if "/" not in key}
        files[f"single_problem_{name}"] = single
    for name, arrays in files.items():
        np.savez_compressed(HERE / f"{name}.npz", **arrays)
        print(f"{name}.npz: {len(arrays)} arrays, {(HERE / f'{name}.npz').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
