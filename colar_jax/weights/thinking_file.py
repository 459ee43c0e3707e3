"""`thinking.json` of an exported folder: how the model in it thinks, besides its weights."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from colar_jax.errors import UserError
from colar_jax.json_object import read_json_object

THINKING_FILE = "thinking.json"


@dataclasses.dataclass(frozen=True)
class ThinkingFacts:
    """What a program has to know to think with an exported model.

    `colar_torch.py` reads all but `base`, `trainer` and `verifier`.
    """

    method: str  # a name of `methods.METHODS`, or package.module:NAME
    way: str  # one of `exchange.ways.WAYS`
    prompt: str  # with {question} and {speed} in it
    speeds: list[str]  # that were trained
    answer_prefix: str
    separator_id: int
    eos_id: int
    max_thoughts: int
    min_thoughts: int
    max_answer_tokens: int
    base: str  # "" unless the folder holds adapters of it, or was trained from it
    stage: str = ""  # of the run, which was exported; "": a folder of an earlier version, as below
    method_settings: dict[str, Any] | None = None  # of the method; None likewise
    decode: dict[str, Any] | None = None  # the run's settings of decoding; None likewise
    trainer: str = "sft"  # what the stage learned with; of earlier versions nobody knows
    has_speed: bool = True  # whether there is a speed to choose; of earlier versions the file does not say
    verifier: str = ""  # by which the run judges answers, one of `data.answers.VERIFIERS`; "" likewise

    def save(self, folder: Path) -> None:
        """Write `thinking.json` into a folder."""
        (folder / THINKING_FILE).write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")


def read_thinking(folder: Path) -> ThinkingFacts:
    """What `ThinkingFacts.save` wrote; UserError where a fact is missing, or is not what it should be."""
    path = folder / THINKING_FILE
    found = read_json_object(path)
    kinds = {"speeds": list, "separator_id": int, "eos_id": int, "method_settings": dict | None, "decode": dict | None}
    kinds["has_speed"] = bool
    kinds |= dict.fromkeys(("max_thoughts", "min_thoughts", "max_answer_tokens"), int)
    facts = {}
    for field in dataclasses.fields(ThinkingFacts):
        value = found.get(field.name, field.default)
        if value is dataclasses.MISSING:
            raise UserError(f"{path} does not say {field.name!r}: export the model again")
        kind = kinds.get(field.name, str)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise UserError(f"{path}: {field.name} is {value!r:.80}, which it cannot be: export the model again")
        facts[field.name] = value
    return ThinkingFacts(**facts)
