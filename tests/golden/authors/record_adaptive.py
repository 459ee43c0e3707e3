"""Records the losses and gradient norms of adaptive latents' own code on the small case.

    python tests/golden/authors/record_adaptive.py <folder of github.com/apning/adaptive-latent-reasoning>

Its START and END have the embedding of `###`, which ours has in their places. CONTINUE and STOP are the two rows of the
choice; of the rest of the vocabulary only START is known to the head, so the case has it, too.
"""

import importlib
import sys
from types import SimpleNamespace

import numpy as np
import torch
from torch_case import (
    EOS,
    PREFIX,
    SEPARATOR,
    VOCABULARY,
    case,
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

START, GO_ON, STOP, END = range(VOCABULARY, VOCABULARY + 4)
MOST, BASE = 4, 1  # a chain of s steps has BASE + s latents, no more than MOST
# Shorter where all are right, longer where not, as they are released.
LENGTHS = dict(relative_length_penalty=1e-4, relative_length_accuracy_requirement=1.0, relative_length_reward=0.1)
NUM_GROUPS, GROUP = 6, 5
TRAINING = SimpleNamespace(
    is_latent=True, latent_loss_calc_mode="smooth_l1", latent_loss_norm_mode="layerwise_std", mean_reasoning_loss=None,
    codi_loss=20.0, intermediate_block_latent_loss_range=None, min_latent_thinking_steps=None,
    max_latent_thinking_steps=None,
)  # fmt: skip


def build(modeling, settings):
    """Their model, not in its adapters' mode, where the rows of its own tokens lie in the embedding."""
    base = AutoModelForCausalLM.from_pretrained(llama_folder(num_tokens=VOCABULARY))
    base.resize_token_embeddings(VOCABULARY + 4)
    ids = dict(start_token_id=START, continue_token_id=GO_ON, stop_token_id=STOP, end_token_id=END)
    own = settings.LatentThinkingModelSettings(recurrent_filter_mode="MLP", **ids)
    model = modeling.LatentThinkingModel(base_model=base, settings=own, verbose=False)
    rows = torch.from_numpy(case()["llm.model.embed_tokens.weight"])
    choice = torch.from_numpy(case()["stop_choice.rows"])
    separator = rows[SEPARATOR][None]
    load(model.base_model, "llm", embedding=torch.cat([rows, separator, choice, separator]))
    load(layers_of(model), "projection")
    return model


def layers_of(model) -> torch.nn.Sequential:
    """Its projection's layers, in their order."""
    own = model.recurrent_filter
    return torch.nn.Sequential(own.input_layer, own.output_layer, own.norm)


def batch() -> dict[str, torch.Tensor]:
    """What their collator makes of the problems."""
    teacher, teacher_labels, at_teacher, student, student_labels, at_student = [], [], [], [], [], []
    for problem in problems():
        start, chain = [*problem.question, SEPARATOR], problem.chain(0, -1)
        thoughts = [GO_ON] * min(MOST, BASE + len(problem.steps)) + [STOP]
        teacher.append([*start, *chain, SEPARATOR, *problem.answer])
        teacher_labels.append([-100] * len(start) + teacher[-1][len(start) :])
        at_teacher.append(len(start) + len(chain) + len(PREFIX))
        student.append([*problem.question, START, *thoughts, *problem.answer])
        student_labels.append([-100] * len(start) + student[-1][len(start) :])
        at_student.append(len(start) + len(thoughts) - 1 + len(PREFIX))

    def maps(rows, places):
        return padded([[place == at for place in range(len(row))] for row, at in zip(rows, places, strict=True)], False)

    out = {}
    for prefix, rows, labels in (("", teacher, teacher_labels), ("latent_", student, student_labels)):
        out[f"{prefix}input_ids"], out[f"{prefix}labels"] = padded(rows, EOS), padded(labels, -100)
        out[f"{prefix}attention_mask"] = padded([[1] * len(row) for row in rows], 0)
    out["target_token_map"], out["latent_target_token_map"] = maps(teacher, at_teacher), maps(student, at_student)
    nowhere = {"reasoning_map": "target_token_map", "latent_continue_map": "latent_target_token_map"}
    return out | {name: torch.zeros_like(out[like]) for name, like in nowhere.items()}


def rewards(authors, rng) -> dict[str, np.ndarray]:
    """Of groups of rollouts: one all right, one without a right one, one of one length, and others."""
    right = rng.rand(NUM_GROUPS, GROUP) < 0.6
    right[0], right[1] = True, False
    lengths = rng.randint(1, 11, (NUM_GROUPS, GROUP))
    lengths[2] = 4
    texts = [str(number) for number in range(NUM_GROUPS * GROUP)]
    rewarder = authors.RelativeLengthRewarder(
        tokenizer=SimpleNamespace(batch_decode=lambda ids: texts),
        num_generations=GROUP,
        format_verifier=lambda **one: True,
        answer_verifier=lambda completion, **one: bool(right.flat[int(completion)]),
        length_judge=lambda completion, **one: int(lengths.flat[int(completion)]),
        **LENGTHS,
    )
    groups = np.repeat(np.arange(NUM_GROUPS), GROUP).tolist()
    found = rewarder(texts, texts, [[0]] * len(texts), groups, texts)
    found = np.array(found, np.float32).reshape(right.shape)
    return under("rewards", {"right": right, "lengths": lengths, "found": found})


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    sys.path.insert(0, sys.argv[1])
    torch.set_num_threads(1)
    stand_in("datasets", load_dataset=None, Dataset=None, DatasetDict=None)
    stand_in("torch.utils.tensorboard", SummaryWriter=None)
    training, modeling, settings = (
        importlib.import_module(f"src.{name}") for name in ("training", "modeling", "settings")
    )
    model = build(modeling, settings)
    loss, parts, _, _ = training.get_loss_for_batch(model, batch(), TRAINING)
    of_llama = dict(parameters_of(model.base_model, "llm"))
    parameters = [*of_llama.items(), *parameters_of(layers_of(model), "projection")]
    out = {name: np.array(part, np.float32) for name, part in parts.items()} | gradient_norms(loss, parameters)
    (of_embedding,) = torch.autograd.grad(loss, [of_llama["llm.model.embed_tokens.weight"]])
    out["choice_norm"] = np.array(of_embedding[[GO_ON, STOP]].norm().item(), np.float32)
    write("adaptive", out | rewards(importlib.import_module("src.rl.rewards"), np.random.RandomState(0)))


if __name__ == "__main__":
    main()
