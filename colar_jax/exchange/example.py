"""A question that shows what a trained stage can be asked."""

import json
from pathlib import Path
from typing import Any

from colar_jax.data.example_questions import EXAMPLE
from colar_jax.runs.sweep.sweep import SAMPLES_FILE

_LONGEST = 300  # characters, to be read in a command


def example_question(workdir: Path, stage: str) -> str:
    """A question of a run's own test set, else of its validation set, that the stage answered, rightly where it can be.

    Of a run that was never evaluated it is one of the embedded problems.

    Args:
        workdir: of the run.
    """
    found = ""
    for path in (workdir / SAMPLES_FILE, workdir / stage / SAMPLES_FILE):
        if not path.is_file():
            continue
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                sample = _sample(line)
                if sample.get("stage", stage) != stage or not _is_shown(sample.get("question")):
                    continue
                if sample.get("right"):
                    return sample["question"]
                found = found or sample["question"]
    return found or EXAMPLE.question


def _sample(line: str) -> dict[str, Any]:
    try:
        sample = json.loads(line)
    except ValueError:  # half of a line, or no sample
        return {}
    return sample if isinstance(sample, dict) else {}


def _is_shown(question: Any) -> bool:
    """Whether a question can stand in a line of code on a page."""
    if not isinstance(question, str) or not 0 < len(question) <= _LONGEST:
        return False
    return question.isprintable() and "`" not in question
