"""Records the losses and gradient norms of SIM-CoT's own code on the small case, on both of its hosts.

    python tests/golden/authors/record_sim_cot.py <folder of github.com/InternLM/SIM-CoT>

On Coconut with a line break between steps, on CODI without. On CODI one problem at a time: in a batch of several their
code cuts every step to the length that it has in the first row.
"""

import functools
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import record_coconut
import record_codi
import torch
from torch_case import (
    EOS,
    LATENT,
    LINE_BREAK,
    PAD,
    SEPARATOR,
    STEP_END,
    STEP_START,
    gradient_norms,
    llama_folder,
    load,
    padded,
    parameters_of,
    stand_in,
    under,
    write,
)

WORDS = {"<<": [STEP_START], ">>": [STEP_END], "\n": [LINE_BREAK], ">>\n": [STEP_END, LINE_BREAK]}
CONFIG = SimpleNamespace(explain_mode="v1_aug", training_method="full", packing=False, **record_coconut.SETTINGS)
NUM_LATENTS, WEIGHT = 2, 0.7
CODI = dict(distill_loss_factor=20.0, distill_loss_div_std=True, explain_loss_factor=WEIGHT)


def on_coconut(authors, dataset, stage: int) -> dict[str, np.ndarray]:
    """All problems in a stage of the curriculum."""
    base, decoder = record_coconut.llama(), record_coconut.llama()
    load(decoder, "decoder")
    words = SimpleNamespace(encode=lambda text, **options: WORDS[text])
    model = authors.CoconutGPT_Same_Word_Embedding(
        base, decoder, words, LATENT, SEPARATOR, SEPARATOR, EOS, STEP_START, CONFIG.c_thought, CONFIG
    )
    make_rows = dataset.get_cot_with_explainable_latent_dataset
    rows = record_coconut.rows_of(make_rows, stage, line_breaks=True)
    of_steps = [[token for step in row["explainable_ids_list"] for token in step] for row in rows]
    output = model(**record_coconut.batch_of(rows), explainable_ids_list=padded(of_steps, 0))
    parameters = [*parameters_of(base, "llm"), *parameters_of(decoder, "decoder")]
    return {"loss": np.array(output.loss.item(), np.float32)} | gradient_norms(output.loss, parameters)


def on_codi(authors, problem: int) -> dict[str, np.ndarray]:
    """One problem."""
    folder = llama_folder()
    model = record_codi.build(authors, folder, CODI | {"num_latent": NUM_LATENTS}, use_decoder=True)
    model.decoder.resize_token_embeddings(model.codi.config.vocab_size)
    load(model.decoder, "decoder")
    batch = {
        name: part if part is None else part[problem : problem + 1] for name, part in record_codi.batch(False).items()
    }
    output = model(**batch)
    modules = ((model.codi, "llm"), (model.prj, "projection"), (model.decoder, "decoder"))
    parameters = [named for module, part in modules for named in parameters_of(module, part)]
    names = ("loss", "ce_loss", "distill_loss", "ref_ce_loss", "explain_loss")
    losses = {name: np.array(float(output[name]), np.float32) for name in names}
    return losses | gradient_norms(output["loss"], parameters)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    torch.set_num_threads(1)
    stand_in("datasets", Dataset=None)
    out = {}
    sys.path.insert(0, str(Path(sys.argv[1], "Coconut")))
    coconut, dataset = importlib.import_module("coconut"), importlib.import_module("dataset")
    for stage in (1, 4):
        out |= under(f"coconut/stage{stage}", on_coconut(coconut, dataset, stage))
    sys.path.insert(0, str(Path(sys.argv[1], "CODI")))
    codi = importlib.import_module("src.model")
    codi.get_steps = functools.partial(
        codi.get_steps, start_ids=(STEP_START,), end_id=STEP_END, eot_id=EOS, pad_id=PAD, stop_ids=(EOS, PAD)
    )
    codi.pad_steps = functools.partial(codi.pad_steps, pad_id=PAD)
    for problem in (0, 3):
        out |= under(f"codi/problem{problem}", on_codi(codi, problem))
    write("sim_cot", out)


if __name__ == "__main__":
    main()
