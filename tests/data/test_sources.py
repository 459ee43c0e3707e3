import dataclasses
import gzip
import json
import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colar_jax.config import DataConfig
from colar_jax.data.generators import GENERATORS
from colar_jax.data.problems import Problem
from colar_jax.data.records import parse_problem
from colar_jax.data.sources import load_problems, refuse_overlap
from colar_jax.data.splits import load_splits
from colar_jax.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="the real files lie in ../shared/data")

EGGS = {"question": "How many eggs?", "steps": ["<<16-3-4=9>>", "<<9*2=18>>"], "answer": "18"}
FORM = '; expected {"question": "...", "steps": ["...", ...], "answer": "..."}'


def problem(question):
    return Problem(question, (), "1")


def write(path, *records):
    data = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def fails_with(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize("name", ["some.jsonl", "some.jsonl.gz"])
def test_reads_a_file_in_order(tmp_path, name):
    path = write(tmp_path / name, EGGS, {"question": "¿Cuántos?", "steps": [], "answer": 3})
    expected = [Problem("How many eggs?", ("<<16-3-4=9>>", "<<9*2=18>>"), "18"), Problem("¿Cuántos?", (), "3")]
    assert load_problems(str(path), "train") == expected
    assert load_problems(str(path), "test", limit=1) == expected[:1]
    assert load_problems(str(path), "test", limit=9) == expected


def test_a_folder_gives_the_file_of_the_split(tmp_path):
    write(tmp_path / "train.jsonl.gz", EGGS | {"answer": "train"})
    write(tmp_path / "val.jsonl", EGGS | {"answer": "val"})
    assert [load_problems(str(tmp_path), split)[0].answer for split in ("train", "val")] == ["train", "val"]
    with fails_with(f"{tmp_path} has no test.jsonl or test.jsonl.gz, only train.jsonl.gz, val.jsonl"):
        load_problems(str(tmp_path), "test")
    write(tmp_path / "val.jsonl.gz", EGGS)
    with fails_with(f"{tmp_path} has both val.jsonl and val.jsonl.gz: remove one"):
        load_problems(str(tmp_path), "val")


def test_a_folder_without_any_split_says_so(tmp_path):
    with fails_with(f"{tmp_path} has no train.jsonl or train.jsonl.gz, only other files"):
        load_problems(str(tmp_path), "train")


@given(
    st.text().filter(str.strip),
    st.lists(st.text()),
    st.text().filter(str.strip) | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
)
def test_any_well_formed_line_survives(tmp_path_factory, question, steps, answer):
    path = write(
        tmp_path_factory.mktemp("lines") / "some.jsonl", {"question": question, "steps": steps, "answer": answer}
    )
    assert load_problems(str(path), "train") == [Problem(question, tuple(steps), str(answer))]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{'question': 1}", "not JSON: Expecting property name enclosed in double quotes (column 2)"),
        (b'{"question": "a', "not JSON: Unterminated string starting at (column 14)"),
        (b'{"question": "\xff"}', "not UTF-8: invalid start byte at byte 14"),
        (b"[1, 2]", "a list: write one object a line; expected"),
        (b"7", "7 is not an object; expected"),
        (b'{"question": "a", "answer": "1"}', "key 'steps' is missing; expected"),
        (b'{"question": " ", "steps": [], "answer": "1"}', "question is ' ', not a text with something in it"),
        (b'{"question": 5, "steps": [], "answer": "1"}', "question is 5, not a text with something in it"),
        (b'{"question": "a", "steps": [1], "answer": "1"}', "steps is [1], not a list of texts"),
        (b'{"question": "a", "steps": [], "answer": ""}', "answer is '', not a text with something in it and not"),
        (b'{"question": "a", "steps": [], "answer": null}', "answer is None, not a text"),
        (b'{"question": "a", "steps": [], "answer": true}', "answer is True, not a text"),
        (b'{"question": "a", "steps": [], "answer": NaN}', "answer is nan, not a text"),
    ],
)
def test_a_broken_line_is_named_with_what_is_wrong(tmp_path, line, fault):
    path = tmp_path / "some.jsonl"
    path.write_bytes(json.dumps(EGGS).encode() + b"\n" + line + b"\n")
    with pytest.raises(ValueError, match="^" + re.escape(f"{path}:2: {fault}")) as caught:
        load_problems(str(path), "train")
    assert str(caught.value).endswith(FORM)
    assert len(load_problems(str(path), "train", limit=1)) == 1  # the broken line is never reached


def test_a_cut_off_gzip_file_says_so(tmp_path):
    path = write(tmp_path / "some.jsonl.gz", *[EGGS] * 50)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=f"^{path}: cannot be read .*is it whole"):
        load_problems(str(path), "train")
    path.write_text("plain text\n")
    with pytest.raises(ValueError, match=f"^{path}: cannot be read .*is its ending right"):
        load_problems(str(path), "train")


def test_a_folder_as_gsm8k_has_it_is_told_to_name_its_training_file(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / f"{split}.jsonl", EGGS)
    hint = (
        f"Name the files, --config.data.train={tmp_path}/train.jsonl and --config.data.test={tmp_path}/test.jsonl: "
        "then a tenth of the training file is the validation set (data.held_out)"
    )
    with fails_with(f"{tmp_path} has no val.jsonl or val.jsonl.gz, only test.jsonl, train.jsonl. {hint}"):
        load_problems(str(tmp_path), "val")
    (tmp_path / "test.jsonl").unlink()
    with fails_with(f"{tmp_path} has no test.jsonl or test.jsonl.gz, only train.jsonl"):
        load_problems(str(tmp_path), "test")


@pytest.mark.parametrize("name", ["validation.jsonl", "valid.jsonl.gz", "dev.jsonl"])
def test_a_validation_set_may_be_called_as_on_the_hub(tmp_path, name):
    write(tmp_path / "train.jsonl", EGGS)
    write(tmp_path / name, EGGS | {"answer": "val"})
    assert load_problems(str(tmp_path), "val")[0].answer == "val"
    write(tmp_path / "val.jsonl", EGGS | {"answer": "ours"})
    assert load_problems(str(tmp_path), "val")[0].answer == "ours"


def test_only_what_is_learned_from_has_to_have_steps(tmp_path):
    path = write(tmp_path / "some.jsonl", {"question": "a", "answer": "1"})
    for split in ("val", "test"):
        assert load_problems(str(path), split) == [Problem("a", (), "1")]
    with pytest.raises(UserError, match=":1: key 'steps' is missing"):
        load_problems(str(path), "train")


def test_another_ending_is_refused(tmp_path):
    path = write(tmp_path / "some.json", EGGS)
    with fails_with(f"{path}: a file of problems is JSON Lines and its name ends in .jsonl or .jsonl.gz"):
        load_problems(str(path), "train")


def test_an_empty_set_says_so(tmp_path):
    path = write(tmp_path / "some.jsonl")
    with fails_with(f"data source '{path}' has no problem in split 'val': name one that has"):
        load_problems(str(path), "val")


def test_repeated_questions_are_logged_with_count_and_place(tmp_path, caplog):
    questions = ["What is 3 + 4?", "What is 3 * 4?", "Why?", " what  is 3 + 4", "Why?"]
    path = write(tmp_path / "some.jsonl", *[EGGS | {"question": question} for question in questions])
    assert len(load_problems(str(path), "train")) == 5
    assert caplog.messages == [
        f"data source '{path}', split 'train': 2 of 5 questions repeat an earlier one; "
        "the first: problem 4 repeats 1, ' what  is 3 + 4'"
    ]
    caplog.clear()
    load_problems(str(path), "train", limit=3)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("arithmatic", "'arithmatic' is no file, no folder and no known name; did you mean 'arithmetic'?"),
        ("gsm8k", "'gsm8k' is no file, no folder and no known name; did you mean 'hub:gsm8k'"),
        ("/nowhere/x", "'/nowhere/x' is no file, no folder and no known name. A source is a .jsonl or .jsonl.gz file"),
    ],
)
def test_an_unknown_source_gets_the_nearest_names(source, message):
    with pytest.raises(ValueError, match=re.escape(f"data source {message}")):
        load_problems(source, "train")


def test_a_source_that_is_not_there_is_said_with_its_setting_and_its_place(tmp_path, monkeypatch):
    """Who opens a run may stand in another folder than who trained it."""
    monkeypatch.chdir(tmp_path)
    for name in ("train", "val", "test"):
        settings = {"train_limit": 9, "num_val": 9, "num_test": 9} | {name: "x.jsonl"}
        with pytest.raises(UserError) as caught:
            load_splits(DataConfig(**settings))
        said = str(caught.value)
        assert said.startswith(f"data.{name}: data source 'x.jsonl' is no file") and str(tmp_path) in said
        assert said.endswith(f"--config.data.{name}")


@pytest.mark.parametrize(
    "source", ["x" * 5000, "a\x00b", "~nobody-of-this-name/x.jsonl", "a\nb", "\ud800", "x/" * 3000]
)
def test_a_name_that_no_file_can_have(source):
    with pytest.raises(
        UserError, match="^data.train: data source .* is no file, no folder and no known name"
    ) as caught:
        load_splits(DataConfig(train=source))
    assert str(caught.value).isprintable()


def test_a_misspelt_path_gets_the_nearest_file(tmp_path):
    write(tmp_path / "train.jsonl", EGGS)
    with pytest.raises(ValueError, match=f"did you mean '{tmp_path}/train.jsonl'"):
        load_problems(str(tmp_path / "trian.jsonl"), "train")


def test_only_what_can_be_data_is_suggested(tmp_path):
    for name in ("train.py", "train.jsonl.lock", "trains"):
        (tmp_path / name).mkdir() if name == "trains" else (tmp_path / name).write_text("x")
    with pytest.raises(UserError) as caught:
        load_problems(str(tmp_path / "train"), "train")
    assert "did you mean" not in str(caught.value) and "known name. A source" in str(caught.value)
    (tmp_path / "trains" / "train.jsonl.gz").write_text("x")
    with pytest.raises(UserError, match=f"did you mean '{tmp_path}/trains'[?] A source is"):
        load_problems(str(tmp_path / "train"), "train")


def test_split_and_limit_are_checked(tmp_path):
    path = str(write(tmp_path / "some.jsonl", EGGS))
    with fails_with("split 'vall' is not one of train, val, test; did you mean 'val'?"):
        load_problems(path, "vall")
    with fails_with("limit is 0: it must be at least 1, or None for all problems"):
        load_problems(path, "val", limit=0)
    with fails_with(f"data source {path!r} takes no options, got {{'seed': 1}}: they are for a generator"):
        load_problems(path, "val", seed=1)


class TestArithmetic:
    @pytest.fixture(autouse=True)
    def generator(self, monkeypatch):
        """Stands in for the generator: the one problem it makes says what it was asked for."""
        stand_in = dataclasses.replace(
            GENERATORS["arithmetic"], make=lambda *args, **options: [problem(f"{args} {sorted(options.items())}")]
        )
        monkeypatch.setitem(GENERATORS, "arithmetic", stand_in)

    @pytest.mark.parametrize(
        ("source", "options", "asked"),
        [
            ("arithmetic", {}, []),
            ("arithmetic", {"seed": 3}, [("seed", 3)]),
            ("arithmetic:min_steps=2, max_number=50", {}, [("max_number", 50), ("min_steps", 2)]),
            ("arithmetic:seed=7", {"seed": 3, "min_steps": 1}, [("min_steps", 1), ("seed", 7)]),
        ],
    )
    def test_options_reach_the_generator(self, source, options, asked):
        assert load_problems(source, "val", limit=5, **options) == [problem(f"{('val', 5)} {asked}")]

    def test_limit_is_needed(self):
        with fails_with("data source 'arithmetic' makes any number of problems: data.train_limit must say how many"):
            load_problems("arithmetic", "train")

    @pytest.mark.parametrize(("source", "options"), [("arithmetic:max_step=4", {}), ("arithmetic", {"max_step": 4})])
    def test_a_misspelt_option_gets_the_nearest_name(self, source, options):
        known = ", ".join(GENERATORS["arithmetic"].options)
        with pytest.raises(
            ValueError, match=f"^arithmetic has no option 'max_step', only {known}. Did you mean 'max_s"
        ):
            load_problems(source, "train", limit=1, **options)

    @pytest.mark.parametrize("option", ["max_steps=many", "max_steps", "max_steps=1.5"])
    def test_an_option_is_an_integer(self, option):
        with fails_with(f"arithmetic option {option!r} is not of the form name=integer"):
            load_problems(f"arithmetic:{option}", "train", limit=1)


class TestRefuseOverlap:
    splits = {
        "train": [problem("How many   apples?"), problem("Why, Tom?")],
        "val": [problem("What is 3 - 4?")],
        "test": [problem("What is 3 + 4?"), problem("how many apples"), problem("why Tom")],
    }

    def test_names_splits_count_example_and_field(self):
        with fails_with(
            "'train' and 'test' share 2 questions, for example 'how many apples': "
            "use sets without shared questions, or set data.allow_overlap=True"
        ):
            refuse_overlap(self.splits, allow=False)

    def test_names_every_pair(self):
        with pytest.raises(ValueError, match="^'a' and 'b' share 1 .*; 'a' and 'c' share 1 .*; 'b' and 'c' share 1 "):
            refuse_overlap({name: [problem("Why?")] for name in "abc"}, allow=False)

    def test_allowed_overlap_is_logged(self, caplog):
        refuse_overlap(self.splits, allow=True)
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "'train' and 'test' share 2 questions" in caplog.text

    def test_operators_make_another_question(self, caplog):
        refuse_overlap({"train": [problem("3 + 4")], "val": [problem("3 - 4")], "test": [problem("3 * 4")]}, False)
        assert not caplog.messages


def test_parse_problem_takes_what_is_not_from_json():
    assert parse_problem({"question": "a", "steps": [], "answer": 1e16}).answer == "1e+16"


@needs_shared
@pytest.mark.parametrize(
    ("source", "split", "count", "repeats"),
    [
        ("gsm8k_aug", "train", 1000, 0),
        ("gsm8k_eq", "train", 6973, 0),
        ("gsm8k", "test", 660, 0),
        ("multiarith", "test", 300, 15),
        ("math", "train", 6639, 1),
        ("prosqa", "val", 300, 0),
    ],
)
def test_reads_the_real_sets(source, split, count, repeats, caplog):
    assert len(load_problems(str(SHARED / source), split)) == count
    found = re.search(rf": (\d+) of {count} questions repeat", caplog.text)
    assert int(found[1] if found else 0) == repeats


@needs_shared
def test_the_real_splits_do_not_overlap_but_two_cuts_of_gsm8k_do():
    eq, words = str(SHARED / "gsm8k_eq"), str(SHARED / "gsm8k")
    splits = {split: load_problems(eq, split) for split in ("train", "val", "test")}
    refuse_overlap(splits, allow=False)
    refuse_overlap({split: load_problems(str(SHARED / "math"), split) for split in ("train", "val", "test")}, False)
    with pytest.raises(ValueError, match="'train' and 'val' share 445 questions"):
        refuse_overlap(splits | {"train": load_problems(words, "train")}, allow=False)


def test_steps_without_text_are_logged_with_count_and_place(tmp_path, caplog):
    path = tmp_path / "split.jsonl"
    steps = (["a"], ["a", ""], [" "], [])
    lines = [{"question": f"{n}?", "steps": of_one, "answer": "1"} for n, of_one in enumerate(steps)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    load_problems(str(path), "train")
    assert "2 of 4 problems have a step without text, the first problem 2: " in caplog.text
