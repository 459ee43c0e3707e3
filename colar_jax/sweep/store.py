"""What a sweep has decoded so far, on disk: a line of JSON for each cell, so that a killed sweep goes on."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np

from colar_jax.evaluation.evaluator import Outcome
from colar_jax.parallel.hosts import is_first

CELLS_FILE = "cells.jsonl"


@dataclasses.dataclass(frozen=True, eq=False)
class Decoded:
    """What became of `N` questions in a cell, without the whole texts."""

    predictions: list[str]
    right_N: np.ndarray  # bool
    lengths_N: np.ndarray  # int, #L
    forced_stop_N: np.ndarray  # bool
    answer_tokens_N: np.ndarray
    prompt_tokens_N: np.ndarray
    seconds: float
    samples: list[dict]  # rows of samples.jsonl; empty for cells that keep none

    @classmethod
    def of(cls, outcome: Outcome, samples: list[dict]) -> "Decoded":
        """Of an outcome, what a report needs."""
        kept = {f.name: getattr(outcome, f.name) for f in dataclasses.fields(cls) if f.name != "samples"}
        return cls(**kept, samples=samples)


def key_of(identity: dict) -> str:
    """A cell's name in the file: a digest of everything that its outcome depends on."""
    return digest(json.dumps(identity, sort_keys=True))


def digest(text: str) -> str:
    """A short name for a text that no other text has."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Store:
    """The cells of a file, by key. Opening reads them; a line that a kill cut short is dropped.

    Args:
        path: the file; it and its folder are made with the first cell.

    Raises:
        ValueError: a line before the last is none of ours.
    """

    def __init__(self, path: Path):
        self._path = path
        self._cells: dict[str, Decoded] = {}
        lines = path.read_bytes().split(b"\n") if path.is_file() else [b""]
        *whole, rest = lines
        for number, line in enumerate(whole, start=1):
            try:
                record = json.loads(line)
                self._cells[record["cell"]] = _from_json(record["outcome"])
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number} is no decoded cell ({error!r}): remove the file") from None
        if rest and is_first():
            with path.open("r+b") as file:
                file.truncate(sum(len(line) + 1 for line in whole))

    def __contains__(self, key: str) -> bool:
        return key in self._cells

    def __getitem__(self, key: str) -> Decoded:
        return self._cells[key]

    def add(self, key: str, identity: dict, decoded: Decoded) -> None:
        """Keep a cell, on disk at once; `identity` is there for people who read the file."""
        record = {"cell": key, "identity": identity, "outcome": _to_json(decoded)}
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        if is_first():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        self._cells[key] = decoded


def _to_json(decoded: Decoded) -> dict:
    values = {f.name: getattr(decoded, f.name) for f in dataclasses.fields(decoded)}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}


def _from_json(values: dict) -> Decoded:
    return Decoded(**{name: np.array(value) if name.endswith("_N") else value for name, value in values.items()})
