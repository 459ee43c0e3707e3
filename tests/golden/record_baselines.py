"""Records the baselines' losses one problem at a time: iCoT, Coconut and distill without their padding.

    python tests/golden/record_baselines.py <folder of the recorded numbers>

The published iCoT, Coconut and distill count pads as labels, and positions over pads. So this file first gives the
recorded losses of the padded batch (proof that it computes what was published), then runs every problem alone, where
there is nothing to pad, in float64, and writes `baselines.npz` (README.md). Needs torch and transformers.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from record_single_problem import HERE, PAD, compute_in_float64, grad_norm, load_models
from torch import nn
from transformers import DynamicCache

STAGES, LATENTS_PER_STAGE = (1, 2, 3), 2
DISTILL_LATENTS, DISTILL_WEIGHT = 6, 20
METHODS = {"icot": 0, "coconut": LATENTS_PER_STAGE}


def run(model, cache, mask, **inputs):
    """One forward on a cache; `mask` has everything so far, and may be longer."""
    width = cache.get_seq_length() + next(iter(inputs.values())).shape[1]
    options = dict(past_key_values=cache, use_cache=True, output_hidden_states=True)
    return model(attention_mask=mask[:, :width], **inputs, **options)


def think(model, question, mask, num_latents: int, project):
    """The cache after the question and its latents, each the last hidden state before it."""
    cache = DynamicCache()
    output = run(model, cache, mask, input_ids=question)
    for _ in range(num_latents):
        output = run(model, cache, mask, inputs_embeds=project(output.hidden_states[-1][:, -1:]))
    return cache


def staged_loss(model, question, final, mask, num_latents: int):
    """iCoT (no latents) and Coconut: what is left of the steps, and the answer; all but the first token are labels."""
    cache = think(model, question, mask, num_latents, lambda hidden: hidden)
    return cross_entropy(run(model, cache, mask, input_ids=final).logits, final)


def cross_entropy(logits, ids):
    """The mean over all tokens but the first, pads included where there are any."""
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def distill_losses(model, projection, question, teacher, student, teacher_mask, student_mask, num_steps: int):
    """Teacher, student and distill loss; the states are those after every layer at the colon of `Answer:`."""
    cache = think(model, question, teacher_mask, 0, None)
    of_teacher = run(model, cache, teacher_mask, input_ids=teacher)
    cache = think(model, question, student_mask, DISTILL_LATENTS, projection)
    of_student = run(model, cache, student_mask, input_ids=student)
    target = torch.stack(of_teacher.hidden_states[1:])[:, :, num_steps + 1].detach()
    distill = nn.functional.smooth_l1_loss(torch.stack(of_student.hidden_states[1:])[:, :, 2], target)
    return cross_entropy(of_teacher.logits, teacher), cross_entropy(of_student.logits, student), distill


def load(folder: Path, dtype: torch.dtype):
    """The model, and the projection of the latents."""
    weights = np.load(folder / "j_baselines.npz")
    projection = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64)).to(dtype)
    prefix = "distill/latent_proj/proj."
    names = [name for name in weights.files if name.startswith(prefix)]
    projection.load_state_dict({name.removeprefix(prefix): torch.from_numpy(weights[name]) for name in names})
    return load_models(folder, dtype)[0], projection


def long(array) -> torch.Tensor:
    return torch.from_numpy(array).long()


def prove(folder: Path, tolerance: float) -> None:
    """The padded batch gives the recorded losses, pads and all; raises AssertionError otherwise."""
    arrays, recorded = np.load(folder / "j_baselines.npz"), json.loads((folder / "j_baselines.json").read_text())
    model, projection = load(folder, torch.float32)
    worst = 0.0
    for method, per_stage in METHODS.items():
        for stage in STAGES:
            parts = [f"{method}/stage{stage}/{part}" for part in ("question_input_ids", "final_input_ids")]
            mask = long(arrays[f"{method}/stage{stage}/all_attention_mask"])
            loss = staged_loss(model, *(long(arrays[part]) for part in parts), mask, per_stage * stage)
            expected = recorded[f"llama/full/{method}/epoch{stage - 1}"]
            assert expected["stage"] == stage
            worst = max(worst, abs(loss.item() / expected["losses"]["total_loss"] - 1))
    ids = [long(arrays[f"distill/{part}_input_ids"]) for part in ("question", "teacher", "student_answer")]
    masks = [long(arrays[f"distill/{part}_attention_mask"]) for part in ("teacher", "student_answer")]
    num_steps = ids[1].shape[1] - (ids[2].shape[1] - 1)
    losses = distill_losses(model, projection, *ids, *masks, num_steps)
    expected = recorded["llama/full/distill"]["losses"]
    for name, loss in zip(("teacher_loss", "student_loss", "distill_loss"), losses, strict=True):
        worst = max(worst, abs(loss.item() / expected[name] - 1))
    print(f"padded batch, largest relative difference of a loss: {worst:.1e}")
    assert worst < tolerance


def gradient_norms(loss, model, names: list[str]) -> np.ndarray:
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, [parameters[name] for name in names])
    return np.array([grad_norm(gradient) for gradient in gradients])


def record(folder: Path) -> dict[str, np.ndarray]:
    """Every problem alone, in float64."""
    arrays = np.load(folder / "j_baselines.npz")
    model, projection = load(folder, torch.float64)
    names = [name for name, _ in model.named_parameters()]
    out = {"parameter_names": np.array([f"llm.{name}" for name in names])}
    out |= {name: arrays[name] for name in arrays.files if name.startswith("distill/latent_proj")}
    num_problems = len(arrays["distill/question_input_ids"])

    def own(name: str, problem: int) -> torch.Tensor:
        ids = long(arrays[name])[problem]
        return ids[ids != PAD][None]

    for problem in range(num_problems):
        for method, per_stage in METHODS.items():
            for stage in STAGES:
                prefix = f"{method}/stage{stage}"
                question, final = (
                    own(f"{prefix}/question_input_ids", problem),
                    own(f"{prefix}/final_input_ids", problem),
                )
                mask = torch.ones(1, question.shape[1] + per_stage * stage + final.shape[1], dtype=torch.long)
                loss = staged_loss(model, question, final, mask, per_stage * stage)
                out[f"p{problem}/{prefix}/final_ids"] = final[0].numpy().astype(np.int32)
                out[f"p{problem}/{prefix}/loss"] = np.array(loss.item())
                out[f"p{problem}/{prefix}/gradient_norms"] = gradient_norms(loss, model, names)
        question, teacher, student = (
            own(f"distill/{part}_input_ids", problem) for part in ("question", "teacher", "student_answer")
        )
        masks = [
            torch.ones(1, question.shape[1] + more, dtype=torch.long)
            for more in (teacher.shape[1], DISTILL_LATENTS + student.shape[1])
        ]
        num_steps = teacher.shape[1] - (student.shape[1] - 1)
        losses = distill_losses(model, projection, question, teacher, student, *masks, num_steps)
        out[f"p{problem}/question_ids"] = question[0].numpy().astype(np.int32)
        out[f"p{problem}/distill/teacher_ids"] = teacher[0].numpy().astype(np.int32)
        out[f"p{problem}/distill/student_ids"] = student[0].numpy().astype(np.int32)
        out[f"p{problem}/distill/losses"] = np.array([loss.item() for loss in losses])
        total = losses[0] + losses[1] + DISTILL_WEIGHT * losses[2]
        out[f"p{problem}/distill/gradient_norms"] = gradient_norms(total, model, names)
    return out


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    prove(folder, tolerance=1e-5)
    compute_in_float64()
    np.savez_compressed(HERE / "baselines.npz", **record(folder))
    print(f"baselines.npz: {(HERE / 'baselines.npz').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
