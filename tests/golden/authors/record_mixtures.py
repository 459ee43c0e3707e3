"""Records the losses and gradient norms of RuPLaR's and Latent-SFT's own code on the small case.

    python tests/golden/authors/record_mixtures.py <folder of github.com/xiaocen-luo/RuPLaR> \\
        <folder of github.com/DJC-GO-SOLO/Latent-SFT>

Their `forward` is called on an object with what it reads, for neither class can be made here: RuPLaR's names a variable
that is not there. What latents say is given: tokens of a step with shares of our own, two tokens alike with noise.
"""

import functools
import importlib
import sys
from types import SimpleNamespace

import numpy as np
import peft
import record_coconut
import torch
from torch_case import (
    EOS,
    SEPARATOR,
    VOCABULARY,
    Problem,
    gradient_norms,
    padded,
    parameters_of,
    problems,
    under,
    write,
)

GROUP = 2
STEPS = ("<<16-3+4=17>>", "<<5*12=60>>", "<<2*3+8=14>>", "<<60/15=4>>")
WEIGHTS = dict(ce_w=1.0, kl_w=0.7, sem_w=0.4)


class Wrapped:
    """A Llama as their code has it: below an adapter's wrapper."""

    def __init__(self, llama):
        self.model, self.config = llama, llama.config

    def __call__(self, **inputs):
        return self.model(**inputs)


def shares_of_step(step: list[int]) -> torch.Tensor:
    """Of each token of the vocabulary; some are so small that they are not learned."""
    tokens = sorted(set(step))
    weights = np.exp(-np.array([token % 7 for token in tokens], np.float64))
    shares = torch.zeros(VOCABULARY)
    shares[tokens] = torch.from_numpy((weights / weights.sum()).astype(np.float32))
    return shares


def noise_of(tokens: torch.Tensor) -> torch.Tensor:
    """In place of what is drawn."""
    return (tokens % 10) * 0.45 - 1.5


def steps_of(problem: Problem) -> torch.Tensor:
    """RuPLaR's latents: a step each."""
    return torch.stack([shares_of_step(step) for step in problem.steps])


def groups_of(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """Latent-SFT's: the shares and the ids of a group's tokens."""
    chain = problem.chain()
    groups = [chain[start : start + GROUP] for start in range(0, len(chain), GROUP)]
    ids = padded(groups, 0)
    is_token = padded([[1] * len(group) for group in groups], 0)
    log_shares = torch.log(is_token / is_token.sum(dim=1, keepdim=True)) + noise_of(ids)
    return torch.softmax(log_shares, dim=1), ids


def batch_of(latents: list, counts: list[int]) -> dict:
    """What their collators make of the problems; the token after the question is learned, too, as ours."""
    ids, labels, bounds = [], [], []
    for problem, count in zip(problems(), counts, strict=True):
        question, answer = problem.question, [SEPARATOR, *problem.answer]
        ids.append([*question, SEPARATOR, *[-100] * count, *answer])
        labels.append([*[-100] * len(question), SEPARATOR, *[-100] * count, *answer])
        bounds.append([len(question) + 1, len(question) + 1 + count])
    question_ends = [torch.tensor([len(problem.question) - 1]) for problem in problems()]
    return dict(
        input_ids=padded(ids, EOS),
        attention_mask=padded([[1] * len(row) for row in ids], 0),
        labels=padded(labels, -100),
        latent_state=latents,
        latent_index=bounds,
        q_and_step_index_list=question_ends,
    )


def record(authors, name: str, latents: list, counts: list[int]) -> dict[str, np.ndarray]:
    authors.dist = SimpleNamespace(get_rank=lambda: 1)
    kind, llama = getattr(authors, name), record_coconut.llama()
    own = SimpleNamespace(
        latent_model=Wrapped(llama),
        tokenizer=SimpleNamespace(pad_token_id=EOS),
        loss_ce=torch.nn.CrossEntropyLoss(ignore_index=-100),
        **WEIGHTS,
    )
    if hasattr(kind, "compute_sem_loss"):
        own.compute_sem_loss = functools.partial(kind.compute_sem_loss, own)
    output = kind.forward(own, **batch_of(latents, counts))
    kept = {"loss": np.array(output.loss.item(), np.float32)}
    return kept | gradient_norms(output.loss, parameters_of(llama, "llm"))


class Words(list):
    """As much of a tokenizer as RuPLaR's rules use, a word a token."""

    unk_token_id = -1

    def encode(self, word: str, **options) -> list[int]:
        return [self.index(word)]


def rules(data) -> dict[str, np.ndarray]:
    """The shares that RuPLaR's rules give the numbers and signs of steps, none of which stands twice."""
    own, out = object.__new__(data.Stage2Dataset), {"steps": np.array(STEPS)}
    for number, step in enumerate(STEPS):
        words = Words(own.extract_key_tokens(step))
        config = SimpleNamespace(_name_or_path="llama", vocab_size=len(words))
        model = SimpleNamespace(tokenizer=words, config=config)
        out[f"{number}/words"] = np.array(words)
        out[f"{number}/mix"] = own.build_mixture_target(step, model).float().numpy()
        out[f"{number}/temp"] = own.build_temperature_based_target(step, model).float().numpy()
    return under("rules", out)


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    torch.set_num_threads(1)
    vars(peft).setdefault("TrainableTokensConfig", None)  # RuPLaR's file names it, and does not use it
    out = {}
    for folder, module, name, latents_of in (
        (sys.argv[1], "modeling_RuPLaR", "RuPLaRSoftEmbedding", steps_of),
        (sys.argv[2], "modeling_stage2", "LatentSFTStage2SoftEmbedding", groups_of),
    ):
        sys.path.insert(0, f"{folder}/src/modeling")
        latents = [latents_of(problem) for problem in problems()]
        counts = [len(one[0] if isinstance(one, tuple) else one) for one in latents]
        out |= under(module, record(importlib.import_module(module), name, latents, counts))
    sys.path.insert(0, f"{sys.argv[1]}/src/soft_embedding")
    write("mixtures", out | rules(importlib.import_module("data")))


if __name__ == "__main__":
    main()
