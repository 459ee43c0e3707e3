import gzip
import itertools
import json
import logging
import re
import runpy
from pathlib import Path

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colar_jax.config import DataConfig, resolve
from colar_jax.data.arithmetic import generate_problems
from colar_jax.data.sources import load_problems
from colar_jax.data.splits import change_tests, load_splits, load_tests, parse_tests
from colar_jax.errors import UserError


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
    splits = load_splits(DataConfig(train=file, held_out=3, train_limit=3, num_val=2, num_test=1))
    assert questions(splits.train) == ["Q 0?", "Q 1?", "Q 2?"]
    assert questions(splits.val) == ["Q 4?", "Q 5?"]
    assert questions(splits.tests["test"]) == ["Q 7?"]


def test_a_files_splits_are_a_function_of_the_file_alone(file, folder, tmp_path, caplog):
    """Whatever is named besides, no problem moves from one of its sets to another."""
    compressed = tmp_path / "all.jsonl.gz"
    compressed.write_bytes(gzip.compress((tmp_path / "all.jsonl").read_bytes()))
    settings = [
        {name: value for name, value in zip(("val", "test"), values, strict=True) if value}
        for values in itertools.product(("", folder, "arithmetic"), ("", folder, f"a={folder}; b=arithmetic"))
    ]
    for setting, limit, source in itertools.product(settings, (0, 4, 9), (file, str(compressed))):
        with caplog.at_level(logging.INFO):
            splits = load_splits(DataConfig(train=source, held_out=3, train_limit=limit, num_test=2, **setting))
        assert questions(splits.train) == numbered("Q", 4)
        if "val" not in setting:
            assert questions(splits.val) == ["Q 4?", "Q 5?", "Q 6?"]
        if "test" not in setting:
            assert {name: questions(of) for name, of in splits.tests.items()} == {"test": ["Q 7?", "Q 8?"]}
        else:
            assert "its last 3 problems and the 3 before are its own test and validation set, and not" in caplog.text
        caplog.clear()


def test_all_of_a_file_is_trained_on_only_where_that_is_said(file, folder):
    splits = load_splits(DataConfig(train=file, held_out=0, val=folder, test=folder))
    assert questions(splits.train) == numbered("Q", 10)
    for named in ({}, {"val": folder}, {"test": folder}):
        with pytest.raises(UserError, match=f"^data.held_out=0 leaves no problems of {re.escape(file)} for data"):
            load_splits(DataConfig(train=file, held_out=0, **named))


@pytest.mark.parametrize(("size", "count"), [(10, 1), (19, 1), (600, 60), (5000, 500), (9000, 500)])
def test_a_tenth_is_held_out_and_no_more_than_500(tmp_path, size, count):
    path = write(tmp_path / "all.jsonl", numbered("Q", size))
    splits = load_splits(DataConfig(train=path, num_val=1000))
    assert (len(splits.train), len(splits.val), len(splits.tests["test"])) == (size - 2 * count, count, count)


@pytest.mark.parametrize("named", [(), ("val",), ("test",), ("val", "test")])
@pytest.mark.parametrize(
    ("size", "held_out", "wanted", "choice"),
    [
        (5, -1, "a tenth", "data.held_out to a number from 1 to 2, or "),
        (9, -1, "a tenth", "data.held_out to a number from 1 to 4, or "),
        (4, -1, "a tenth", "data.held_out to 1, or "),
        (2, -1, "a tenth", ""),
        (10, 5, "data.held_out=5", "data.held_out to a number from 1 to 4, or "),
    ],
)
def test_too_few_to_hold_out(tmp_path, folder, size, held_out, wanted, choice, named):
    path = write(tmp_path / "few.jsonl", numbered("Q", size))
    message = f"{path} has {size} problems, too few to set {wanted} aside for validation and as many for testing: set "
    with pytest.raises(UserError, match=f"^{re.escape(message)}{choice}data.held_out to 0 and name data.val and"):
        load_splits(DataConfig(train=path, held_out=held_out, **dict.fromkeys(named, folder)))
    for number in map(int, re.findall("[0-9]+", choice)):  # what is advised works
        assert load_splits(DataConfig(train=path, held_out=number)).train


def test_own_data_as_the_readme_has_it(tmp_path):
    path = Path(__file__).parents[2] / "configs" / "gsm8k_colar.py"
    config = runpy.run_path(str(path))["get_config"]()
    config.data.update(train=write(tmp_path / "my_problems.jsonl", numbered("Q", 600)), test="")
    splits = load_splits(resolve(config).data)
    assert (len(splits.train), len(splits.val), len(splits.tests["test"])) == (480, 60, 60)


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


@pytest.mark.parametrize("missing", ["train_limit", "num_test"])
def test_a_generator_needs_numbers(missing):
    limits = {"train_limit": 30, "num_test": 7} | {missing: 0}
    with pytest.raises(UserError, match=f"'arithmetic' makes any number of problems: data.{missing} must say how many"):
        load_splits(DataConfig(train="arithmetic", **limits))


def test_a_split_that_a_folder_lacks(folder, tmp_path):
    (tmp_path / "folder" / "val.jsonl").unlink()
    with pytest.raises(ValueError, match=r"folder has no val\.jsonl"):
        load_splits(DataConfig(train=folder))


# A hub set without a network


@pytest.fixture
def no_network(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("Couldn't reach the hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


@pytest.mark.usefixtures("no_network")
def test_a_hub_set_that_cannot_be_loaded_is_said_with_its_setting(file, folder):
    advice = "where there is a network, or name a local file"
    instead = r" \(--config.data.{0}=path.jsonl\)"
    of_test = f"^data.test: hub data set 'ChilleD/SVAMP' .*{advice}{instead.format('test')}"
    of_val = f"^data.val: hub data set 'openai/gsm8k' .*{advice}{instead.format('val')}"
    for load in (load_splits, load_tests):
        with pytest.raises(UserError, match=f"{of_test}; --config.data.test= tests on a part of your own file$"):
            load(DataConfig(train=file, test="svamp=hub:svamp"))
    with pytest.raises(
        UserError, match=f"{of_test}; --config.data.test= tests on what data.train={folder} has for it$"
    ):
        load_splits(DataConfig(train=folder, test="hub:svamp"))
    with pytest.raises(UserError, match=f"{of_val}; --config.data.val= validates on a part of your own file$"):
        load_splits(DataConfig(train=file, val="hub:gsm8k"))
    with pytest.raises(UserError, match=f"^data.train: .*{advice}{instead.format('train')}$"):
        load_splits(DataConfig(train="hub:gsm8k", val=folder, test=folder))
    for train in ("hub:gsm8k", "equations:hub:gsm8k"):
        with pytest.raises(UserError, match=f"{of_test}$"):
            load_tests(DataConfig(train=train, test="hub:svamp"))


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


def test_repeats_in_a_single_file_are_to_be_removed_from_it(folder, tmp_path):
    path = write(tmp_path / "all.jsonl", [*numbered("Q", 4), *numbered("Q", 2), "Q 5?", "Q 6?"])
    shared = "'train' and 'val' share 2 questions, for example 'Q 0?': "
    advice = f"they are parts of one file, remove its repeats ({path}), or set data.allow_overlap=True"
    with pytest.raises(UserError, match=f"^{re.escape(shared + advice)}$"):
        load_splits(DataConfig(train=path, held_out=2))
    with pytest.raises(UserError, match=f"^{re.escape(shared)}use sets without shared questions, or"):
        load_splits(DataConfig(train=path, held_out=2, val=write(tmp_path / "val.jsonl", numbered("Q", 2))))
    path = write(tmp_path / "all.jsonl", [*numbered("Q", 6), *numbered("Q", 2)])
    with pytest.raises(UserError, match="^'train' and 'test' share 2 questions, .*: they are parts of one file, "):
        load_splits(DataConfig(train=path, held_out=2))
    with pytest.raises(UserError, match="^'train' and 'a' share 2 questions, .*: use sets without shared questions"):
        load_splits(DataConfig(train=path, held_out=2, test=f"a={write(tmp_path / 'a.jsonl', numbered('Q', 2))}"))


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
        ("a=x.jsonl,b=y.jsonl", {"a": "x.jsonl", "b": "y.jsonl"}),
        ("a=x.jsonl, gsm-hard = y , ", {"a": "x.jsonl", "gsm-hard": "y"}),
        ("hub:svamp,equations:hub:gsm8k", {"svamp": "hub:svamp", "gsm8k": "equations:hub:gsm8k"}),
        ("hub:gsm8k,hub:owner/name", {"gsm8k": "hub:gsm8k", "name": "hub:owner/name"}),
        ("a=arithmetic:min_steps=2,max_steps=4,b=y", {"a": "arithmetic:min_steps=2,max_steps=4", "b": "y"}),
        ("arithmetic,x=arithmetic:seed=1,seed=2", {"arithmetic": "arithmetic", "x": "arithmetic:seed=1,seed=2"}),
        ("seed=a.jsonl,max_steps=b.jsonl", {"seed": "a.jsonl", "max_steps": "b.jsonl"}),
        ("a=x,y.jsonl", {"a": "x,y.jsonl"}),
        ("runs/a, b/x.jsonl", {"x": "runs/a, b/x.jsonl"}),
        ("a=lr=1,seed=2/x.jsonl;", {"a": "lr=1,seed=2/x.jsonl"}),
        ("a=x,b=y;c=z", {"a": "x,b=y", "c": "z"}),
        ("data/.hidden.jsonl", {"hidden": "data/.hidden.jsonl"}),
        ("..", {"..": ".."}),
    ],
)
def test_names_of_test_sets(text, expected):
    assert parse_tests(text) == expected


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("a.jsonl", "a=/a.jsonl"),  # by the name that it has
        ("one=a.jsonl; hub:b", "one=/a.jsonl; b=/hub:b"),
        ("one=a, b.jsonl", "one=/a, b.jsonl"),
        ("my set.jsonl", "/my set.jsonl"),  # whose name cannot be written before it
        ("..", ".."),  # and this one's would be another
        ("", ""),
        ("a=", "a="),  # which is refused where it is read
        ("/a.jsonl, /b.jsonl", "/a.jsonl, /b.jsonl"),  # as nothing of it changes
    ],
)
def test_the_sources_of_a_list_are_changed_and_its_names_are_not(text, changed):
    assert change_tests(text, lambda source: f"/{source.removeprefix('/')}") == changed
    if text and text != "a=":
        assert list(parse_tests(changed)) == list(parse_tests(text))


@pytest.mark.parametrize("folder", ["/x; y", "/x, b=y", "/x=y"])
def test_a_place_that_would_be_read_as_several_is_not_written(folder):
    sources = parse_tests(change_tests("one=a.jsonl", lambda source: f"{folder}/{source}")).values()
    assert list(sources) in (["a.jsonl"], [f"{folder}/a.jsonl"])


def test_a_list_without_a_name():
    with pytest.raises(ValueError, match=r"^data\.test=' ; ' names no set"):
        parse_tests(" ; ")


def test_a_name_without_a_source():
    with pytest.raises(UserError, match="^data\\.test='a=; b=x' gives 'a' no source: write name=source$"):
        parse_tests("a=; b=x")


def test_paths_with_a_comma_between_get_advice(tmp_path):
    with pytest.raises(UserError, match=r"is no file, .* \(a semicolon separates the sets of data.test\)"):
        load_problems(f"{tmp_path}/a.jsonl,{tmp_path}/b.jsonl", "test")


@pytest.mark.parametrize("text", ["a=x; a=y", "data/a.jsonl; a=x"])
def test_a_name_given_twice(text):
    with pytest.raises(ValueError, match=rf"^data\.test='{re.escape(text)}' names 'a' twice"):
        parse_tests(text)


def test_a_set_that_is_called_as_the_mean_of_all():
    for text in ("mean=x; a=y", "data/mean.jsonl; a=x"):
        with pytest.raises(UserError, match="reports call the mean of all sets 'mean'; give that set another name"):
            parse_tests(text)
    assert parse_tests("mean=x") == {"mean": "x"}


PIECES = st.sampled_from(
    ["a", "b=", "=", ",", ";", " ", "hub:", "arithmetic", ":", "seed=1", "max_steps=4", "/x.jsonl", "é"]
)


@given(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=30))
def test_any_text_is_sets_or_one_line(text):
    """Nothing of a text is lost: names, sources and separators are all there is."""
    tests, refusal = {}, ""
    try:
        tests = parse_tests(text)
    except UserError as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith("data.test=") and refusal.isprintable()
    else:
        left = [part for part in re.split(r"[\s,;=]", text) if part]
        found = [part for pair in tests.items() for part in re.split(r"[\s,;=]", "=".join(pair)) if part]
        assert set(left) <= set(found) and all(tests.values())
