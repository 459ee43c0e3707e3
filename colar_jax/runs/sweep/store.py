"""What a sweep has decoded so far, on disk: a line of JSON for each cell, so that a killed sweep goes on."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from colar_jax.errors import UserError
from colar_jax.evaluation.evaluator import Outcome
from colar_jax.evaluation.measures import MEASURES
from colar_jax.parallel.hosts import is_first

CELLS_FILE = "cells.jsonl"
CAUSAL_FILE = "causal.jsonl"
_ARRAYS = {"right_N": bool, "lengths_N": int, "forced_stop_N": bool, "answer_tokens_N": int, "prompt_tokens_N": int}


@dataclasses.dataclass(frozen=True, eq=False)
class StoredDecode:
    """What became of `N` questions in a cell, without the whole texts."""

    predictions: list[str]
    right_N: np.ndarray  # bool
    lengths_N: np.ndarray  # int, #L
    forced_stop_N: np.ndarray  # bool
    answer_tokens_N: np.ndarray
    prompt_tokens_N: np.ndarray
    seconds: float
    samples: list[dict]  # rows of samples.jsonl; empty for cells that keep none
    measured: dict[str, np.ndarray]  # [N] each; a file of before something was measured lacks it
    timed_on: dict[str, str | int] | None = None  # as `timed_on.timed_on`; None: of before it was recorded

    @classmethod
    def of(cls, outcome: Outcome, samples: list[dict], timed_on: dict[str, str | int]) -> "StoredDecode":
        """Of an outcome, what a report needs."""
        of_outcome = (f.name for f in dataclasses.fields(cls) if f.name not in ("samples", "timed_on"))
        return cls(**{name: getattr(outcome, name) for name in of_outcome}, samples=samples, timed_on=timed_on)

    @classmethod
    def from_json(cls, values: dict) -> "StoredDecode":
        """The inverse of `as_json`."""
        arrays = {name: np.array(value) for name, value in values.items() if name.endswith("_N")}
        measured = {name: arrays.pop(f"{name}_N") for name in MEASURES if values.get(f"{name}_N") is not None}
        others = {name: value for name, value in values.items() if not name.endswith("_N")}
        return cls(**others, **{name: arrays[name] for name in _ARRAYS}, measured=measured)

    @classmethod
    def is_json(cls, values: Any) -> bool:
        """Whether it is what `as_json` gives: all fields, and in each an entry for each of the same questions."""
        measures = {f"{name}_N": measure.kind for name, measure in MEASURES.items()}
        names = {"predictions", "seconds", "samples", *_ARRAYS}
        if not isinstance(values, dict) or not names <= values.keys() <= names | measures.keys() | {"timed_on"}:
            return False
        predictions, seconds = values["predictions"], values["seconds"]
        return (
            _is_list_of(predictions, str)
            and len(predictions) > 0
            and _is_list_of(values["samples"], dict)
            and type(seconds) in (int, float)
            and 0 <= seconds < math.inf
            and type(values.get("timed_on", {})) is dict
            and all(_is_array(values[name], kind, len(predictions)) for name, kind in _ARRAYS.items())
            # None is what files of before had where nothing was recorded.
            and all(
                values.get(name) is None or _is_array(values[name], kind, len(predictions))
                for name, kind in measures.items()
            )
        )

    def as_json(self) -> dict:
        """Plain numbers and lists; a measure lies beside the other arrays."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "measured"}
        if self.timed_on is None:
            del values["timed_on"]
        values |= {f"{name}_N": value for name, value in self.measured.items()}
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}


def are_causal_rows(values: Any) -> bool:
    """Whether it is what `causal_tests` gives."""
    return _is_list_of(values, dict) and all(
        {"speed", "intervention", "accuracy", "difference", "interval", "p", "used"} <= row.keys() for row in values
    )


def _is_list_of(values: Any, kind: type) -> bool:
    return type(values) is list and all(type(value) is kind for value in values)


def _is_array(values: Any, kind: type, length: int) -> bool:
    """Whether it is a value a question: flags, counts or finite numbers."""
    if not _is_list_of(values, kind) or len(values) != length:
        return False
    if kind is int:
        return all(0 <= value < 2**31 for value in values)
    return kind is bool or all(map(math.isfinite, values))


def key_of(depends_on: dict) -> str:
    """A name in the file: a digest of everything that the outcome depends on."""
    return digest(json.dumps(depends_on, sort_keys=True))


def digest(text: str) -> str:
    """A short name for a text that no other text has."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Store:
    """The outcomes in a file, by key: plain JSON. Opening reads them; a line that a kill cut short is dropped.

    Args:
        path: the file; it and its folder are made with the first outcome.
        is_outcome: whether plain JSON is an outcome as this file has them.

    Raises:
        UserError: a line before the last is none of ours.
    """

    def __init__(self, path: Path, is_outcome: Callable[[Any], bool] = StoredDecode.is_json):
        self._path = path
        self._outcomes: dict[str, Any] = {}
        lines = path.read_bytes().split(b"\n") if path.is_file() else [b""]
        *whole, rest = lines
        for number, line in enumerate(whole, start=1):
            try:
                record = json.loads(line)
                self._outcomes[record["cell"]] = record["outcome"]
                if not is_outcome(record["outcome"]):
                    raise ValueError("its outcome is not what an evaluation writes")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise UserError(f"{path}, line {number} is no decoded cell ({error!r}): remove the file") from None
        if rest and is_first():
            with path.open("r+b") as file:
                file.truncate(sum(len(line) + 1 for line in whole))

    def __contains__(self, key: str) -> bool:
        return key in self._outcomes

    def __getitem__(self, key: str) -> Any:
        return self._outcomes[key]

    def add(self, key: str, depends_on: dict, outcome: Any) -> None:
        """Keep an outcome, on disk at once; `depends_on` is there for people who read the file."""
        record = {"cell": key, "depends_on": depends_on, "outcome": outcome}
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        if is_first():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        self._outcomes[key] = outcome
