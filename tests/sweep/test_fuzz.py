"""Files of a finished evaluation, damaged: read as they are meant, or one sentence with the file's name.

COLAR_FUZZ_EXAMPLES=20000 for the long form.
"""

import json
import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report.test_ledger import run_of
from sweep.test_store import decoded

from colar_jax.errors import UserError
from colar_jax.report.ledger import compare_run
from colar_jax.report.published_results import PUBLISHED
from colar_jax.runs.sweep.store import Store, StoredDecode

FUZZ = settings(
    max_examples=int(os.environ.get("COLAR_FUZZ_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


@st.composite
def damaged(draw, value):
    """The value with some other JSON, or nothing, in one of its places."""
    value = json.loads(json.dumps(value))
    path = draw(st.sampled_from(list(places(value))))
    if not path:
        return draw(JSON)
    at = value
    for key in path[:-1]:
        at = at[key]
    if draw(st.booleans()):
        del at[path[-1]]
    else:
        at[path[-1]] = draw(JSON)
    return value


def bytes_of(draw_value):
    """A value as a line of a file, now and then with some bytes overwritten."""
    return st.tuples(draw_value, st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=4)), max_size=2)).map(
        lambda drawn: _overwritten(json.dumps(drawn[0]).encode(), drawn[1])
    )


def _overwritten(data: bytes, changes) -> bytes:
    for place, new in changes:
        data = data[:place] + new + data[place + len(new) :]
    return data


def outcome_of(read):
    """What a reader gives, and what it says where it refuses."""
    try:
        return read(), ""
    except UserError as error:
        return None, str(error)


RECORD = {"cell": "key", "depends_on": {"seed": 1}, "outcome": decoded(1).as_json()}


@FUZZ
@given(bytes_of(damaged(RECORD)))
def test_cells(line):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.jsonl"
        path.write_bytes(json.dumps(RECORD).encode() + b"\n" + line + b"\n")
        store, refusal = outcome_of(lambda: Store(path))
        assert store is not None or str(path) in refusal
        if store is None:
            return
        for key in store._outcomes:
            found = StoredDecode.from_json(store[key])
            count = len(found.predictions)
            assert count and all(isinstance(text, str) for text in found.predictions)
            for name in ("right_N", "forced_stop_N"):
                assert (getattr(found, name).dtype, getattr(found, name).shape) == (bool, (count,))
            for name in ("lengths_N", "answer_tokens_N", "prompt_tokens_N"):
                assert getattr(found, name).dtype.kind == "i" and (getattr(found, name) >= 0).all()
                assert getattr(found, name).shape == (count,)


CONFIG, REPORT = run_of(next(row for row in PUBLISHED if row.name == "CoLaR c=5"))


@FUZZ
@given(st.one_of(bytes_of(damaged(REPORT)).map(lambda data: ("report.json", data)),
                 bytes_of(damaged(CONFIG)).map(lambda data: ("config.json", data))))  # fmt: skip
def test_the_ledger_of_a_damaged_run(file):
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (("config.json", CONFIG), ("report.json", REPORT)):
            (Path(folder) / name).write_text(json.dumps(content))
        (Path(folder) / file[0]).write_bytes(file[1])
        table, refusal = outcome_of(lambda: compare_run(Path(folder)))
        assert folder in refusal if table is None else "| within |" in table
