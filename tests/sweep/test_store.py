import dataclasses

import jax
import numpy as np
import pytest

from colar_jax.runs.sweep.store import Store, StoredDecode, key_of
from colar_jax.runs.sweep.timed_on import are_timed_on


def decoded(number: int) -> StoredDecode:
    return StoredDecode(
        predictions=["7", 'a "quoted"\nline\u2028'],
        right_N=np.array([True, False]),
        lengths_N=np.array([number, 2]),
        forced_stop_N=np.array([False, True]),
        answer_tokens_N=np.array([2, 3]),
        prompt_tokens_N=np.array([9, 8]),
        seconds=0.1 + number,
        samples=[{"question": "How many?", "right": True}],
        measured={"cut_answer": np.array([True, False])},
    )


def test_cells_come_back_and_a_line_cut_short_is_dropped(tmp_path):
    path = tmp_path / "new" / "cells.jsonl"
    store = Store(path)
    for number in range(3):
        store.add(f"cell {number}", {"seed": number}, decoded(number).as_json())
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])  # killed while it wrote the last
    again = Store(path)
    assert "cell 1" in again and "cell 2" not in again
    jax.tree.map(np.testing.assert_array_equal, vars(StoredDecode.from_json(again["cell 1"])), vars(decoded(1)))
    assert StoredDecode.from_json(again["cell 1"]).right_N.dtype == bool
    again.add("cell 2", {"seed": 2}, decoded(2).as_json())
    assert path.read_bytes() == whole


def test_a_line_of_before_cut_answers_were_recorded_does_not_say_that_there_were_none():
    older = decoded(1).as_json()
    del older["cut_answer_N"]
    assert StoredDecode.from_json(older).measured == {}
    assert StoredDecode.is_json(older) and StoredDecode.from_json(older).as_json() == older
    assert StoredDecode.is_json(older | {"cut_answer_N": None}), "as some of those files have it"
    assert StoredDecode.from_json(older | {"cut_answer_N": None}).measured == {}


def test_where_a_cell_was_timed_comes_back_and_a_line_of_before_does_not_say():
    older = decoded(1)
    assert "timed_on" not in older.as_json()
    timed = dataclasses.replace(older, timed_on={"device": "cpu", "batch_size": 4})
    assert StoredDecode.is_json(timed.as_json()) and not StoredDecode.is_json(older.as_json() | {"timed_on": "cpu"})
    assert StoredDecode.from_json(timed.as_json()).timed_on == timed.timed_on
    here, other = {"device": "cpu", "batch_size": 4}, {"device": "cpu", "batch_size": 1}
    assert are_timed_on([older, timed], here) and not are_timed_on([older, timed], other)


def test_a_file_of_something_else_is_named(tmp_path):
    path = tmp_path / "cells.jsonl"
    path.write_text('{"question": "How many?"}\n')
    with pytest.raises(ValueError, match=r"cells.jsonl, line 1 is no decoded cell.*remove the file"):
        Store(path)


def test_a_key_depends_on_every_part_and_on_no_order():
    assert key_of({"a": 1, "b": {"c": 2}}) == key_of({"b": {"c": 2}, "a": 1})
    assert len({key_of({"a": 1}), key_of({"a": 2}), key_of({"b": 1})}) == 3
