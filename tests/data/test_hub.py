import dataclasses
import gzip
import json
import logging
import re
from pathlib import Path

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colar_jax.data import hub
from colar_jax.data.hub_rows import Unreachable
from colar_jax.data.problems import Problem
from colar_jax.data.sources import load_problems
from colar_jax.data.splits import parse_tests
from colar_jax.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data"

QUESTION = "Janet’s ducks lay 16 eggs per day. How much does she make?"
PLAIN = {"question": QUESTION, "steps": ["<<16-3-4=9>>", "<<9*2=18>>"], "answer": "18"}
PROGRAM = "\ndef solution():\n    result = 2287720 / 2\n    return result\n\n\n"


@pytest.mark.parametrize(
    ("convert", "row", "problem"),
    [
        (hub.convert_plain, PLAIN | {"id": 7}, Problem(QUESTION, ("<<16-3-4=9>>", "<<9*2=18>>"), "18")),
        (
            hub.convert_plain,
            {"question": QUESTION, "cot": "<<16-3-4=9>> <<9 * 2=18>>", "answer": "18"},
            Problem(QUESTION, ("<<16-3-4=9>>", "<<9 * 2=18>>"), "18"),
        ),
        (
            hub.convert_plain,
            {"question": QUESTION, "steps": "It is <<16-3-4=9>>9.\n\nThen 18.", "answer": 18},
            Problem(QUESTION, ("It is <<16-3-4=9>>9.", "Then 18."), "18"),
        ),
        (hub.convert_plain, {"question": QUESTION, "steps": "", "answer": "18"}, Problem(QUESTION, (), "18")),
        (hub.convert_plain, {"question": QUESTION, "id": 1, "answer": "a\n#### 18"}, Problem(QUESTION, ("a",), "18")),
        (hub.convert_asked, {"question": QUESTION, "answer": "18"}, Problem(QUESTION, (), "18")),
        (
            hub.convert_gsm8k,
            {
                "question": "How much is in the bag?  ",
                "answer": "She sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs.\n\nThat is $<<9*200=1800>>1,800.\n#### 1,800",
            },
            Problem(
                "How much is in the bag?  ",
                ("She sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs.", "That is $<<9*200=1800>>1,800."),
                "1,800",
            ),
        ),
        (
            hub.convert_gsm8k,
            {"question": "How many?", "answer": "Think.\n#### a line of the solution\n#### 3"},
            Problem("How many?", ("Think.", "#### a line of the solution"), "3"),
        ),
        (
            hub.convert_gsm_hard,
            {"input": "How many bolts?", "code": PROGRAM, "target": 1143860.0},
            Problem("How many bolts?", (PROGRAM,), "1143860.0"),
        ),
        (
            hub.convert_svamp,
            {
                "ID": "chal-1",
                "Body": "Each pack of dvds costs 76 dollars. If there is a discount of 25 dollars on each pack",
                "Question": " How much do you have to pay to buy each pack?",
                "Equation": "( 76.0 - 25.0 )",
                "Answer": 51.0,
            },
            Problem(
                "Each pack of dvds costs 76 dollars. If there is a discount of 25 dollars on each pack. "
                "How much do you have to pay to buy each pack?",
                ("( 76.0 - 25.0 )",),
                "51.0",
            ),
        ),
        (
            hub.convert_multiarith,
            {"question": " How many cats do they have left? ", "final_ans": "8"},
            Problem("How many cats do they have left?", (), "8"),
        ),
        (
            hub.convert_math,
            {
                "problem": "How many vertical asymptotes does the graph have?",
                "level": "Level 2",
                "type": "Algebra",
                "solution": "It factors into $(x-2)(x+3)$. Therefore, it has $\\boxed{2}$ vertical asymptotes.\n",
            },
            Problem(
                "How many vertical asymptotes does the graph have?",
                ("It factors into $(x-2)(x+3)$. Therefore, it has $$ vertical asymptotes.",),
                "2",
            ),
        ),
    ],
)
def test_converts_a_row(convert, row, problem):
    assert convert(row) == problem


@pytest.mark.parametrize(
    ("solution", "parts"),
    [
        ("\\begin{align*}\nx&=\\boxed{8}\n\\end{align*}", ("\\begin{align*}\nx&=\n\\end{align*}", "8")),
        ("so $\\boxed{\\frac{1}{2}}$.", ("so $$.", "\\frac{1}{2}")),
        ("so $\\boxed{\\{1,2\\}}$ {}", ("so $$ {}", "\\{1,2\\}")),
        ("so $\\boxed{\\left\\{ a, b \\right.}$", ("so $$", "\\left\\{ a, b \\right.")),
        ("so $\\boxed{1 \\\\}$ {}", ("so $$ {}", "1 \\\\")),
        ("no box", None),
        ("\\boxed 5", None),
        ("\\boxed{1} or \\boxed{2}", None),
        ("\\boxed{\\boxed{1}}", None),
        ("\\boxed{never {closed}", None),
    ],
)
def test_box_ends_at_its_matching_brace(solution, parts):
    assert hub.cut_box(solution) == parts


balanced = st.recursive(
    st.text(alphabet="ab $&\n"), lambda inner: st.lists(st.one_of(inner, inner.map(lambda t: f"{{{t}}}"))).map("".join)
)


@given(balanced, balanced, balanced)
def test_box_of_any_balanced_text_is_found(before, answer, after):
    assert hub.cut_box(f"{before}\\boxed{{{answer}}}{after}") == (before + after, answer)


def test_rows_left_out_are_counted(caplog):
    caplog.set_level(logging.INFO)
    rows = [{"problem": "a?", "solution": s} for s in ("\\boxed{1}", "none", "\\boxed{ }", "\\boxed{1}\\boxed{2}")]
    assert hub.convert_rows(rows, hub.convert_math, "hub:math, algebra") == [Problem("a?", ("",), "1")]
    assert caplog.messages == ["hub:math, algebra: left out 3 of 4 rows"]


def test_columns_that_are_not_read_are_one_line(caplog):
    caplog.set_level(logging.INFO)
    hub.convert_rows([PLAIN | {"id": 7}] * 3, hub.convert_plain, "hub:some")
    assert caplog.messages == ["hub:some: a problem is question, steps and answer; not read: 'id'"]


@pytest.mark.parametrize(
    ("convert", "row", "fault"),
    [
        (hub.convert_math, {"question": "a", "answer": "1"}, "no column 'solution', only question, answer"),
        (hub.convert_plain, {"question": "a", "answer": "1"}, "key 'steps' is missing"),
        (hub.convert_asked, {"question": "a", "step": [], "answer": "1"}, "key 'steps' is missing; is it 'step'?"),
        (hub.convert_plain, PLAIN | {"question": ""}, "question is '', not a text with something in it"),
        (hub.convert_plain, PLAIN | {"steps": None}, "steps is None, not a list of texts and not a text"),
        (hub.convert_gsm8k, {"question": "a", "answer": "no mark"}, "no final answer after '####' in 'no mark'"),
    ],
)
def test_a_broken_row_is_named(convert, row, fault):
    with pytest.raises(ValueError, match=f"^hub:some, row 1: {re.escape(fault)}$"):
        hub.convert_rows([row], convert, "hub:some")


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train", "test"], {"train": "train[:90%]", "val": "train[90%:]", "test": "test"}),
        (["train", "validation", "test"], {"train": "train", "val": "validation", "test": "test"}),
        (["train", "valid"], {"train": "train", "val": "valid"}),
        (["dev"], {"val": "dev"}),
        (["test", "other"], {"test": "test"}),
    ],
)
def test_splits_that_a_set_lacks_come_from_train(names, splits):
    assert hub.choose_splits(names) == splits


@pytest.fixture
def calls(monkeypatch):
    """What `datasets.load_dataset` is asked for; every answer is one row."""
    calls = []

    def load_dataset(repository, subset, split):
        calls.append((repository, subset, split))
        return [{"problem": f"{subset}?", "solution": "\\boxed{1}", "question": "q", "answer": "a\n#### 1"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_gsm8k_asks_for_its_configuration_and_cut(calls):
    for split in ("train", "val", "test"):
        assert load_problems("hub:gsm8k", split) == [Problem("q", ("a",), "1")]
    assert calls == [("openai/gsm8k", "main", split) for split in ("train[:90%]", "train[90%:]", "test")]


def test_the_first_problems_are_of_all_parts():
    parts = [
        [Problem(f"{part}{index}", (), "") for index in range(size)] for part, size in (("a", 8), ("b", 4), ("c", 1))
    ]
    joined = [problem.question for problem in hub.interleaved([*parts, []])]
    assert joined == ["a0", "b0", "a1", "a2", "b1", "a3", "c0", "a4", "b2", "a5", "a6", "b3", "a7"]


def test_math_joins_its_subjects(calls):
    problems = load_problems("hub:math", "val")
    assert [p.question for p in problems] == [f"{subject}?" for subject in hub.MATH_SUBJECTS]
    assert calls == [("EleutherAI/hendrycks_math", subject, "train[90%:]") for subject in hub.MATH_SUBJECTS]
    assert len(load_problems("hub:math", "val", limit=3)) == 3


def test_a_split_that_is_not_there_is_refused(calls):
    with pytest.raises(ValueError, match="^hub:gsmhard has no split 'train', only test$"):
        load_problems("hub:gsmhard", "train")
    assert not calls


def test_an_unknown_set_gets_the_nearest_names():
    with pytest.raises(ValueError, match="^hub:gsm8kaug is unknown; did you mean hub:gsm8k_aug or hub:gsm8k"):
        load_problems("hub:gsm8kaug", "train")
    with pytest.raises(ValueError, match="did you mean hub:gsm8k or .*hub:math, or hub:<owner/name>"):
        load_problems("hub:", "train")


@pytest.fixture
def several(monkeypatch):
    """A hub of which each set has the configurations main and socratic; what is asked of it."""
    asked = []

    def require(config):
        if config is None:
            raise ValueError(
                "Config name is missing.\nPlease pick one among the available configs: ['main', 'socratic']"
            )
        if config not in ("main", "socratic"):
            raise ValueError(f"BuilderConfig '{config}' not found. Available: ['main', 'socratic']")

    def get_dataset_split_names(repository, config_name=None):
        require(config_name)
        return ["train", "test"]

    def load_dataset(repository, config, split):
        require(config)
        asked.append((repository, config, split))
        return [{"question": f"{config}?", "answer": "<<0+1=1>>\n#### 1"}]

    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda repository: ["main", "socratic"])
    monkeypatch.setattr(datasets, "get_dataset_split_names", get_dataset_split_names)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_a_configuration_of_a_set_is_named_after_it(several):
    assert load_problems("hub:openai/gsm8k:socratic", "train") == [Problem("socratic?", ("<<0+1=1>>",), "1")]
    assert load_problems("equations:hub:openai/gsm8k:main", "test") == [Problem("main?", ("<<0+1=1>>",), "1")]
    assert several == [("openai/gsm8k", "socratic", "train[:90%]"), ("openai/gsm8k", "main", "test")]
    (problem,) = load_problems("hub:openai/gsm8k:main", "test")
    assert problem.place == "hub:openai/gsm8k, main, test, row 1"
    sets = parse_tests("hub:openai/gsm8k:main, plain=hub:openai/gsm8k:socratic")
    assert sets == {"gsm8k": "hub:openai/gsm8k:main", "plain": "hub:openai/gsm8k:socratic"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "openai/gsm8k",
            "hub:openai/gsm8k has several configurations, main, socratic: name one, as in hub:openai/gsm8k:main",
        ),
        (
            "openai/gsm8k:mian",
            "hub:openai/gsm8k has no configuration 'mian', only main, socratic; did you mean 'main'?",
        ),
        ("openai/gsm8k:other", "hub:openai/gsm8k has no configuration 'other', only main, socratic"),
        ("openai/gsm8k:", "hub:openai/gsm8k: names no configuration after the last colon"),
    ],
)
def test_a_set_of_several_configurations_wants_one_of_them(several, name, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        load_problems(f"hub:{name}", "train")
    assert not several


def test_what_the_library_says_is_one_line(monkeypatch):
    """Also where the set has one configuration, and something else is wrong."""

    def get_dataset_split_names(*args):
        raise ValueError("some\n\tfault")

    monkeypatch.setattr(datasets, "get_dataset_split_names", get_dataset_split_names)
    for names in (lambda repository: ["default"], get_dataset_split_names):
        monkeypatch.setattr(datasets, "get_dataset_config_names", names)
        for name in ("a/b", "a/b:default"):
            with pytest.raises(Unreachable, match=r"^hub data set 'a/b' cannot be loaded \(some fault\): load it"):
                load_problems(f"hub:{name}", "train")


def test_a_failed_load_says_what_to_do(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("Couldn't reach the hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match="'openai/gsm8k' cannot be loaded .*Couldn't reach.*where there is a network"):
        load_problems("hub:gsm8k", "test")


class TestWithTheRealLibrary:
    """`datasets` really loads these folders of files, as it would load the same files from the hub."""

    @pytest.fixture(autouse=True)
    def cache(self, monkeypatch, tmp_path):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
        datasets.disable_progress_bars()

    def test_plain_set_without_validation(self, tmp_path):
        rows = [PLAIN | {"question": f"{i}?"} for i in range(20)]
        for split, part in (("train", rows), ("test", rows[:3])):
            datasets.Dataset.from_list(part).to_parquet(tmp_path / "set" / f"{split}.parquet")
        loaded = {split: load_problems(f"hub:{tmp_path}/set", split) for split in ("train", "val", "test")}
        assert {split: [p.question for p in problems] for split, problems in loaded.items()} == {
            "train": [f"{i}?" for i in range(18)],
            "val": ["18?", "19?"],
            "test": ["0?", "1?", "2?"],
        }
        assert loaded["val"][0].steps == ("<<16-3-4=9>>", "<<9*2=18>>")

    def test_a_set_to_be_asked_may_have_no_steps(self, tmp_path):
        for split in ("train", "test"):
            rows = [{"question": f"{i}?", "answer": "1"} for i in range(10)]
            datasets.Dataset.from_list(rows).to_parquet(tmp_path / "set" / f"{split}.parquet")
        assert load_problems(f"hub:{tmp_path}/set", "test")[0] == Problem("0?", (), "1")
        with pytest.raises(ValueError, match="row 1: key 'steps' is missing"):
            load_problems(f"hub:{tmp_path}/set", "train")

    def test_whole_set_is_test(self, tmp_path, monkeypatch):
        monkeypatch.setitem(
            hub.HUB_SETS, "svamp", dataclasses.replace(hub.HUB_SETS["svamp"], repository=str(tmp_path / "set"))
        )
        (tmp_path / "set").mkdir()
        for split, answer in (("train", 51.0), ("test", 1.0)):
            row = {"Body": "b.", "Question": "q?", "Equation": "( 1 )", "Answer": answer}
            (tmp_path / "set" / f"{split}.json").write_text(json.dumps(row) + "\n")
        assert load_problems("hub:svamp", "test") == [
            Problem("b. q?", ("( 1 )",), "51.0"),
            Problem("b. q?", ("( 1 )",), "1.0"),
        ]

    def test_configurations(self, tmp_path):
        folder, lines = tmp_path / "a:set", ["---", "configs:"]
        for config in ("main", "socratic"):
            rows = [PLAIN | {"question": f"{config}{i}?"} for i in range(10)]
            datasets.Dataset.from_list(rows).to_parquet(folder / f"{config}.parquet")
            lines += [f"- config_name: {config}", "  data_files:", "  - split: train", f"    path: {config}.parquet"]
        (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
        assert load_problems(f"hub:{folder}:socratic", "val")[0].question == "socratic9?"
        with pytest.raises(UserError, match=f"^hub:{folder} has several configurations, main, socratic: name one, as "):
            load_problems(f"hub:{folder}", "train")
        with pytest.raises(UserError, match=f"^hub:{folder} has no configuration 'other', only main, socratic$"):
            load_problems(f"hub:{folder}:other", "train")

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(ValueError, match=f"hub data set '{tmp_path}/nothing' cannot be loaded"):
            load_problems(f"hub:{tmp_path}/nothing", "train")


@pytest.mark.skipif(not SHARED.exists(), reason="the real files lie in ../shared/data")
def test_no_real_math_answer_is_cut_at_a_wrong_brace():
    with gzip.open(SHARED / "math" / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    for record in records:
        # Put the answer back into a box in front of the rest: it must come out alone, whatever braces follow.
        boxed = {"problem": record["question"], "solution": f"\\boxed{{{record['answer']}}}{record['steps'][0]}"}
        problem = hub.convert_math(boxed)
        assert problem == Problem(record["question"], (record["steps"][0].rstrip(),), record["answer"])
    assert len(records) == 6639
