"""Records the losses, latents and gradient norms of Coconut's own code on the small case.

    python tests/golden/authors/record_coconut.py <folder of github.com/facebookresearch/coconut>

Their dataset makes the rows, stage by stage. `###` ends the question and the steps, with no markers besides; or it is
their markers, too (`marked`, of the problems that have steps left, where ours has the same).
"""

import random
import sys
from types import SimpleNamespace

import numpy as np
import torch
from torch_case import (
    EOS,
    LATENT,
    LINE_BREAK,
    SEPARATOR,
    VOCABULARY,
    gradient_norms,
    llama_folder,
    load,
    padded,
    parameters_of,
    problems,
    stand_in,
    under,
    write,
)
from transformers import AutoModelForCausalLM

SETTINGS = dict(max_latent_stage=3, c_thought=2, uniform_prob=0.0, no_cot=False)
VARIANTS = {
    "stage3": dict(stage=3),
    "unpadded": dict(stage=4, pad_latent_to_max=False),
    "marked": dict(stage=1, markers=True, first=1),
}


class Problems(list):
    """Just as much of a `datasets.Dataset` as they use."""

    features: tuple = ()

    def map(self, function, **options):
        return Problems(map(function, self))


def rows_of(make_rows, stage: int, *, pad_latent_to_max=True, markers=False, first=0, line_breaks=False) -> list[dict]:
    """Theirs of one stage, of the problems from the `first` on; a line break stands between two steps, if wanted."""
    ends = [LINE_BREAK] * line_breaks
    tokenized = Problems(
        dict(
            question_tokenized=problem.question + [SEPARATOR] * (not markers),
            steps_tokenized=[*(step + ends for step in problem.steps[:-1]), problem.steps[-1]],
            answer_tokenized=[SEPARATOR, *problem.answer],
            idx=number,
        )
        for number, problem in enumerate(problems()[first:])
    )
    configs = SimpleNamespace(**SETTINGS, pad_latent_to_max=pad_latent_to_max)
    random.seed(0)
    return make_rows(stage, tokenized, configs, SEPARATOR, LATENT, SEPARATOR, no_special_marker=not markers)


def batch_of(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Padded on the right alone: questions are of one length, so the first latents stand side by side."""
    return dict(
        input_ids=padded([row["input_ids"] for row in rows], EOS),
        labels=padded([row["labels"] for row in rows], -100),
        attention_mask=padded([row["attention_mask"] for row in rows], 0),
        position_ids=padded([row["position_ids"] for row in rows], 0),
    )


def llama():
    """The case's model, with all its words."""
    model = AutoModelForCausalLM.from_pretrained(llama_folder(num_tokens=VOCABULARY), attn_implementation="eager")
    load(model, "llm")
    return model


def latents_of(embeds: torch.Tensor, ids: torch.Tensor) -> np.ndarray:
    """What was fed at the places of latents, `[N, L, D]`; nan where a problem has fewer."""
    rows = [of_row[own == LATENT] for of_row, own in zip(embeds.detach(), ids, strict=True)]
    return with_nans(rows).numpy()


def with_nans(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=float("nan"))


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    sys.path.insert(0, sys.argv[1])
    torch.set_num_threads(1)
    stand_in("datasets", Dataset=None)
    import coconut
    import dataset

    out = {}
    for name, variant in VARIANTS.items():
        base, batch = llama(), batch_of(rows_of(dataset.get_cot_latent_dataset, **variant))
        model = coconut.Coconut(base, LATENT, SEPARATOR, SEPARATOR, EOS)
        output = model(**batch)
        kept = {"loss": np.array(output.loss.item(), np.float32)}
        kept["latents"] = latents_of(output.inputs_embeds, batch["input_ids"])
        out |= under(name, kept | gradient_norms(output.loss, parameters_of(base, "llm")))
    write("coconut", out)


if __name__ == "__main__":
    main()
