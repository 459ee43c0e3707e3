import json
import logging
import re

import pytest

from colar_jax.config import DataConfig
from colar_jax.data.arithmetic import generate_problems
from colar_jax.data.splits import load_splits, parse_tests


def write(path, questions):
    records = [{"question": question, "steps": ["1"], "answer": "1"} for question in questions]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def numbered(prefix, count):
    return [f"{prefix} {n}?" for n in range(count)]


def questions(problems):
    return [problem.question for problem in problems]


@pytest.fixture
def file(tmp_path):
    """One file of ten questions, Q 0? to Q 9?."""
    return write(tmp_path / "all.jsonl", numbered("Q", 10))


@pytest.fixture
def folder(tmp_path):
    """A folder of three splits, of 6, 4 and 5 questions."""
    path = tmp_path / "folder"
    path.mkdir()
    for split, count in (("train", 6), ("val", 4), ("test", 5)):
        write(path / f"{split}.jsonl", numbered(split, count))
    return str(path)


# A single file has no splits


def test_the_end_of_a_file_is_held_out(file):
    splits = load_splits(DataConfig(train=file, held_out=3))
    assert questions(splits.train) == ["Q 0?", "Q 1?", "Q 2?", "Q 3?"]
    assert questions(splits.val) == ["Q 4?", "Q 5?", "Q 6?"]
    assert {name: questions(problems) for name, problems in splits.tests.items()} == {"test": ["Q 7?", "Q 8?", "Q 9?"]}


def test_limits_choose_from_what_was_held_out(file):
    splits = load_splits(DataConfig(train=file, held_out=3, train_limit=9, num_val=2, num_test=1))
    assert questions(splits.train) == ["Q 0?", "Q 1?", "Q 2?"]
    assert questions(splits.val) == ["Q 3?", "Q 4?"]
    assert questions(splits.tests["test"]) == ["Q 6?"]


@pytest.mark.parametrize("named", ["val", "test"])
def test_only_what_has_no_source_of_its_own_is_held_out(file, folder, named):
    splits = load_splits(DataConfig(train=file, held_out=3, **{named: folder}))
    assert questions(splits.train) == numbered("Q", 7)
    held_out = ["Q 7?", "Q 8?", "Q 9?"]
    [test] = splits.tests.values()
    assert questions(splits.val) == (numbered("val", 4) if named == "val" else held_out)
    assert questions(test) == (numbered("test", 5) if named == "test" else held_out)


def test_nothing_is_held_out_where_all_have_sources(file, folder):
    splits = load_splits(DataConfig(train=file, held_out=50, val=folder, test=folder))
    assert questions(splits.train) == numbered("Q", 10)


@pytest.mark.parametrize(("held_out", "named", "times"), [(5, "", 2), (10, "val", 1), (11, "test", 1)])
def test_too_few_to_hold_out(file, folder, held_out, named, times):
    config = DataConfig(train=file, held_out=held_out, **({named: folder} if named else {}))
    message = f"{file} has 10 problems, too few to set data.held_out={held_out} aside {times} times: lower it, or "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}name data.val and data.test$"):
        load_splits(config)
    at_least_one = (10 - 1) // times
    assert len(load_splits(DataConfig(train=file, held_out=at_least_one, val=config.val, test=config.test)).train) >= 1


# Sources that have splits


def test_a_folder(folder):
    splits = load_splits(DataConfig(train=folder, num_val=3))
    assert questions(splits.train) == numbered("train", 6)
    assert questions(splits.val) == numbered("val", 3)
    assert {name: questions(problems) for name, problems in splits.tests.items()} == {"folder": numbered("test", 5)}


def test_named_test_sets_in_their_order(folder, tmp_path):
    hard = write(tmp_path / "hard.jsonl", numbered("hard", 3))
    splits = load_splits(DataConfig(train=folder, test=f"z={folder}; a={hard};{tmp_path}/hard.jsonl", num_test=2))
    expected = {"z": numbered("test", 2), "a": numbered("hard", 2), "hard": numbered("hard", 2)}
    assert list(splits.tests) == list(expected)
    assert {name: questions(problems) for name, problems in splits.tests.items()} == expected


def test_embedded_problems():
    splits = load_splits(DataConfig(train="arithmetic", train_limit=30, num_val=5, num_test=7))
    assert splits.train == generate_problems("train", 30)
    assert splits.val == generate_problems("val", 5)
    assert splits.tests == {"arithmetic": generate_problems("test", 7)}


@pytest.mark.parametrize("limits", [{"train_limit": 0, "num_test": 7}, {"train_limit": 30, "num_test": 0}])
def test_a_generator_needs_numbers(limits):
    with pytest.raises(
        ValueError, match="^data source 'arithmetic' makes any number of problems: limit must say how many$"
    ):
        load_splits(DataConfig(train="arithmetic", **limits))


def test_a_split_that_a_folder_lacks(folder, tmp_path):
    (tmp_path / "folder" / "val.jsonl").unlink()
    with pytest.raises(ValueError, match=r"folder has no val\.jsonl"):
        load_splits(DataConfig(train=folder))


# No question in two splits


@pytest.mark.parametrize(("split", "names"), [("val", "'train' and 'val'"), ("test", "'train' and 'folder'")])
def test_a_training_question_elsewhere_is_refused(folder, tmp_path, split, names):
    write(tmp_path / "folder" / f"{split}.jsonl", ["  TRAIN 3", *numbered("other", 3)])
    with pytest.raises(
        ValueError, match=rf"^{names} share 1 questions, for example '  TRAIN 3': .*data\.allow_overlap"
    ):
        load_splits(DataConfig(train=folder))


def test_a_validation_question_in_a_test_set_is_refused(folder, tmp_path):
    write(tmp_path / "folder" / "test.jsonl", numbered("val", 2))
    with pytest.raises(ValueError, match="^'val' and 'folder' share 2 questions"):
        load_splits(DataConfig(train=folder))


def test_overlap_can_be_allowed(folder, tmp_path, caplog):
    write(tmp_path / "folder" / "val.jsonl", numbered("train", 2))
    with caplog.at_level(logging.WARNING):
        splits = load_splits(DataConfig(train=folder, allow_overlap=True))
    assert questions(splits.val) == numbered("train", 2)
    assert "'train' and 'val' share 2 questions" in caplog.text


def test_test_sets_may_share_questions_with_each_other(folder):
    """GSM-Hard and GSM8K do."""
    splits = load_splits(DataConfig(train=folder, test=f"one={folder};two={folder}"))
    assert splits.tests["one"] == splits.tests["two"]


# `name=source; name=source`


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=x.jsonl; b=hub:gsm8k", {"a": "x.jsonl", "b": "hub:gsm8k"}),
        ("a=x.jsonl;", {"a": "x.jsonl"}),
        ("data/gsm8k_aug", {"gsm8k_aug": "data/gsm8k_aug"}),
        ("data/some.test.jsonl.gz", {"some": "data/some.test.jsonl.gz"}),
        ("hub:owner/name", {"name": "hub:owner/name"}),
        ("hub:svamp", {"svamp": "hub:svamp"}),
        ("arithmetic:min_steps=2,max_steps=4", {"arithmetic": "arithmetic:min_steps=2,max_steps=4"}),
        ("long=arithmetic:min_steps=5", {"long": "arithmetic:min_steps=5"}),
    ],
)
def test_names_of_test_sets(text, expected):
    assert parse_tests(text) == expected


def test_a_list_without_a_name():
    with pytest.raises(ValueError, match=r"^data\.test=' ; ' names no set"):
        parse_tests(" ; ")


@pytest.mark.parametrize("text", ["a=x; a=y", "data/a.jsonl; a=x"])
def test_a_name_given_twice(text):
    with pytest.raises(ValueError, match=rf"^data\.test='{re.escape(text)}' names 'a' twice"):
        parse_tests(text)
