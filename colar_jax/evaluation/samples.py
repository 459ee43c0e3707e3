"""Every question with what the model made of it, as JSON Lines for people and notebooks."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from colar_jax.data.encoding import EncodedProblems
from colar_jax.evaluation.evaluator import Outcome
from colar_jax.evaluation.inspector import Chain


def samples_of(
    encoded: EncodedProblems, outcome: Outcome, chains: Sequence[Chain] | None = None, **facts
) -> Iterator[dict]:
    """A dict for each question; `facts` (step, data set, speed, ...) come first in each.

    What was thought is in `reasoning` (a chain of thought as text, "" for latents) and in `latents`, a list of
    `{"words": [[text, cosine], ...], "std": ..., "p_stop": ...}` ([] for words); both empty without `chains`.
    """
    for index, problem in enumerate(encoded.problems):
        yield facts | {
            "question": problem.question,
            "answer": problem.answer,
            "prediction": outcome.predictions[index],
            "text": outcome.texts[index],
            "right": bool(outcome.right_N[index]),
            "length": int(outcome.lengths_N[index]),
            "forced_stop": bool(outcome.forced_stop_N[index]),
            **{name: of_each_N[index].item() for name, of_each_N in outcome.measured.items()},
            "reasoning": chains[index].reasoning if chains else "",
            "latents": [latent.as_json() for latent in chains[index].latents] if chains else [],
        }


def write_samples(path: Path, samples: Iterator[dict]) -> None:
    """Replace the file at `path`, all at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        for sample in samples:
            file.write(json.dumps(sample, ensure_ascii=False) + "\n")
    os.replace(unfinished, path)
