"""Records the losses, latents and gradient norms of CODI's own code on the small case.

    python tests/golden/authors/record_codi.py <folder of github.com/zhenyi4/codi>

Its `forward` is called with our rows: `###` opens the latents and closes them, and stands before and after the chain.
"""

import sys

import numpy as np
import torch
from torch_case import (
    EOS,
    PREFIX,
    SEPARATOR,
    gradient_norms,
    llama_folder,
    load,
    padded,
    parameters_of,
    problems,
    under,
    write,
)

NUM_LATENTS = 3
VARIANTS = {  # of their settings
    "usual": dict(distill_loss_factor=20.0, distill_loss_div_std=True),
    "other": dict(distill_loss_factor=1.0, ref_loss_factor=0.5, include_last_cot=True, prj_no_ln=True),
}


def build(authors, folder: str, settings: dict, **of_model):
    """Their model with the case's weights, in float32, without adapters or dropout."""
    of_training = authors.TrainingArguments(
        output_dir=folder, use_lora=False, use_prj=True, prj_dim=32, bf16=False, report_to=[], print_loss=False,
        **{"num_latent": NUM_LATENTS} | settings,
    )  # fmt: skip
    model = authors.CODI(authors.ModelArguments(model_name_or_path=folder, **of_model), of_training, None)
    load(model.codi, "llm")
    load(model.prj, "projection")
    return model


def batch(last_step: bool) -> dict[str, torch.Tensor]:
    """What their collator makes of the problems, with our separators."""
    rows = [([*p.question, SEPARATOR], p.chain(0, None if last_step else -1), p.answer) for p in problems()]
    teacher = [question + chain + [SEPARATOR] + answer for question, chain, answer in rows]
    labels = [
        [-100] * len(question) + ids[len(question) :] for (question, _, _), ids in zip(rows, teacher, strict=True)
    ]
    student = [[SEPARATOR, *answer] for _, _, answer in rows]
    # Theirs counts to the token after the one whose states are matched, for Llama less one.
    at_teacher = [len(question) + len(chain) + len(PREFIX) for question, chain, _ in rows]
    return dict(
        encoder_input_ids=padded([question for question, _, _ in rows], EOS),
        encoder_attention_mask=None,
        decoder_input_ids=padded(student, EOS),
        labels=padded(student, -100),
        ref_input_ids=padded(teacher, EOS),
        ref_labels=padded(labels, -100),
        ref_answer_position=torch.tensor(at_teacher),
        model_answer_position=torch.full((len(rows),), len(PREFIX)),
    )


def record(authors, settings: dict) -> dict[str, np.ndarray]:
    model = build(authors, llama_folder(), settings)
    latents = []

    def keep(module, arguments, options):
        embeds = options.get("inputs_embeds")
        if embeds is not None and embeds.shape[1] == 1:
            latents.append(embeds.detach())

    model.codi.register_forward_pre_hook(keep, with_kwargs=True)
    output = model(**batch(settings.get("include_last_cot", False)))
    assert len(latents) == NUM_LATENTS
    parameters = [*parameters_of(model.codi, "llm"), *parameters_of(model.prj, "projection")]
    losses = {
        name: np.array(float(output[name]), np.float32) for name in ("loss", "ce_loss", "distill_loss", "ref_ce_loss")
    }
    return losses | {"latents": torch.cat(latents, dim=1).numpy()} | gradient_norms(output["loss"], parameters)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    sys.path.insert(0, sys.argv[1])
    torch.set_num_threads(1)
    from src import model as authors

    out = {}
    for name, settings in VARIANTS.items():
        out |= under(name, record(authors, settings))
    write("codi", out)


if __name__ == "__main__":
    main()
