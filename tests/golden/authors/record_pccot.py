"""Records the losses, latents and gradient norms of PCCoT's own code on the small case.

    python tests/golden/authors/record_pccot.py <folder of github.com/whyNLP/PCCoT>

Its token of a latent in the first pass is `###`, as ours; so are the tokens around the latents and before the answer.
"""

import functools
import sys

import numpy as np
import torch
from torch_case import (
    EOS,
    LLAMA,
    PREFIX,
    SEPARATOR,
    VOCABULARY,
    gradient_norms,
    load,
    padded,
    parameters_of,
    problems,
    under,
    write,
)

NUM_LATENTS = 4
VARIANTS = {
    "two": dict(num_iterations=2, loss_gamma=2.0),
    "none": dict(num_iterations=0, loss_gamma=2.0, loss_alpha=0.5, loss_beta=2.0, use_layerwise_std=False),
}


def batch() -> dict:
    """What their collator makes of the problems, with our separators."""
    questions = [[*problem.question, SEPARATOR] for problem in problems()]
    chains = [problem.chain(0, -1) for problem in problems()]
    answers = [[SEPARATOR, *problem.answer] for problem in problems()]
    rows = list(zip(questions, chains, answers, strict=True))
    teacher = [question + chain + answer for question, chain, answer in rows]
    labels = [[-100] * len(question) + chain + answer for question, chain, answer in rows]
    student = [question + [SEPARATOR] * NUM_LATENTS + answer for question, _, answer in rows]
    start = len(questions[0])
    return dict(
        input_ids=padded(student, EOS),
        labels=padded(answers, -100),
        attention_mask=padded([[1] * len(row) for row in student], 0),
        key_indices=[start, start + NUM_LATENTS, len(PREFIX)],
        cot_input_ids=padded(teacher, EOS),
        cot_labels=padded(labels, -100),
        cot_attention_mask=padded([[1] * len(row) for row in teacher], 0),
        cot_kd_indices=torch.tensor([start + len(chain) + len(PREFIX) for chain in chains]),
    )


def record(authors, config_class, settings: dict) -> dict[str, np.ndarray]:
    of_llama = {name: value for name, value in LLAMA.items() if name not in ("architectures", "model_type")}
    config = config_class(**of_llama, vocab_size=VOCABULARY, use_projection=True, **settings)
    config._attn_implementation = "eager"
    model = authors(config)
    load(model.prj, "projection")
    projection = model.prj
    model.prj = torch.nn.Identity()  # the names of the rest are a Llama's then
    load(model, "llm")
    model.prj = projection
    fed = []

    def keep(module, arguments, options):
        embeds = options.get("inputs_embeds")
        if embeds is not None and embeds.shape[1] == NUM_LATENTS:
            fed.append(embeds.detach())

    model.model.register_forward_pre_hook(keep, with_kwargs=True)
    output = model(**batch(), return_dict=True)
    assert len(fed) == settings["num_iterations"]
    of_llama = ((name, p) for name, p in parameters_of(model, "llm") if not name.startswith("llm.prj."))
    kept = {name: np.array(model._log_cache[name], np.float32) for name in ("cot_loss", "ccot_loss", "kd_loss")}
    kept["loss"] = np.array(output.loss.item(), np.float32)
    if fed:
        kept["latents"] = fed[-1].numpy()
    return kept | gradient_norms(output.loss, [*of_llama, *parameters_of(model.prj, "projection")])


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    sys.path.insert(0, sys.argv[1])
    torch.set_num_threads(1)
    from models.configuration_llama import PCCoTLlamaConfig
    from models.modeling_llama import PCCoTLlamaForCausalLM

    recorder = functools.partial(record, PCCoTLlamaForCausalLM, PCCoTLlamaConfig)
    out = {}
    for name, settings in VARIANTS.items():
        out |= under(name, recorder(settings))
    write("pccot", out)


if __name__ == "__main__":
    main()
