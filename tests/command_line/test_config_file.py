"""Whatever is wrong with a config file, or with a run's config.json, is one line that says where."""

import json
import re

import pytest
from command_line.program import CONFIG_FILE

from colar_jax.command_line import RUN
from colar_jax.config import Config, DecodeConfig, StageConfig


def assert_refused(ran, pattern: str):
    assert (ran.status, len(ran.errors), ran.config) == (2, 1, None), ran.errors
    assert re.fullmatch(f"error: {pattern}", ran.errors[0]), ran.errors[0]


BODY = "    config = defaults()\n"


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("x = 1\n", "wrong.py has no function get_config\\(argument\\)"),
        ("get_config = 3\n", "wrong.py has no function get_config\\(argument\\)"),
        ("def get_config(argument):\n    pass\n", "wrong.py: get_config returned NoneType: return the config that .*"),
        ("def get_config(argument):\n    return {}\n", "wrong.py: get_config returned dict: return the config that .*"),
        ("def get_config(argument):\n    return 'x'\n", "wrong.py: get_config returned str: .*"),
        ("def get_config(argument):\n    return 1 +\n", "wrong.py, line 2: invalid syntax"),
        ("def get_config(argument):\nreturn\n", "wrong.py, line 2: expected an indented block .*"),
        ("x = '\n", "wrong.py, line 1: unterminated string literal.*"),
        ("x = '\0'\n", "wrong.py.*null bytes.*"),
        ("x = " + "(" * 300 + "\n", "wrong.py, line 1: too many nested parentheses"),
        ("import no_such_package\n", "wrong.py, line 1: ModuleNotFoundError: No module named 'no_such_package'"),
        ("\nfrom colar_jax.config import no_such\n", "wrong.py, line 2: ImportError: cannot import name 'no_such' .*"),
        ("1 / 0\n", "wrong.py, line 1: ZeroDivisionError: division by zero"),
        ("\ndef f():\n    return f()\nf()\n", "wrong.py, line 3: RecursionError: maximum recursion depth exceeded.*"),
        ("import sys\nsys.exit(0)\n", "wrong.py, line 2: SystemExit: 0"),
        ("assert False, 'not\\nnow'\n", "wrong.py, line 1: AssertionError: not now"),
        ("def get_config(a):\n    return {}['some']\n", "wrong.py, line 2: KeyError: some"),
        ("def get_config(a):\n    raise ValueError(f'I know no {a}')\n", "I know no small"),
        ("def get_config():\n    pass\n", "wrong.py: get_config takes no argument, and 'small' was given"),
        ("def get_config(a, b):\n    pass\n", "wrong.py: get_config takes no argument, and 'small' was given"),
        ("def get_config(*, a):\n    pass\n", "wrong.py: get_config takes no argument, and 'small' was given"),
    ],
)
def test_what_is_no_config_file(run, tmp_path, text, pattern):
    (tmp_path / "wrong.py").write_text(text)
    assert_refused(run("--config=wrong.py:small"), pattern)


def test_a_file_that_is_not_utf8_and_says_so_or_not(run, tmp_path):
    (tmp_path / "wrong.py").write_bytes(b"# \xe9\n" + CONFIG_FILE.encode())
    assert_refused(run("--config=wrong.py"), "wrong.py: invalid or missing encoding declaration")
    (tmp_path / "latin.py").write_bytes(b"# coding: latin-1\n# \xe9\n" + CONFIG_FILE.encode())
    assert run("--config=latin.py").status == 0


def test_get_config_without_a_parameter(run, tmp_path):
    (tmp_path / "plain.py").write_text(CONFIG_FILE.replace('argument=""', "").replace("argument or", ""))
    assert run("--config=plain.py").config.title == "whole"
    assert_refused(run("--config=plain.py:small"), "plain.py: get_config takes no argument, and 'small' was given")


def test_a_frozen_config_can_be_changed_by_flags(run, tmp_path):
    frozen = "    import ml_collections\n    return ml_collections.FrozenConfigDict(config)\n"
    (tmp_path / "frozen.py").write_text(CONFIG_FILE.replace("    return config\n", frozen))
    assert run("--config=frozen.py", "--config.seed=3").config.seed == 3


def test_where_the_file_is(run, tmp_path):
    assert_refused(
        run("--config=tinny.py:smoke"), "--config=tinny.py:smoke: there is no file tinny.py. Did you .*'tiny.py'."
    )
    assert_refused(run("--config=none/such.py"), "--config=none/such.py: there is no file none/such.py.")
    (tmp_path / "a:b").mkdir()
    (tmp_path / "a:b" / "x.py").write_text(CONFIG_FILE)
    assert run("--config=a:b/x.py").config.title == "whole"
    assert run("--config=a:b/x.py:c:d").config.title == "c:d"
    assert_refused(run("--config=a:b"), "--config=a:b: a:b is a folder; name a file in it")
    (tmp_path / "without_ending").write_text(CONFIG_FILE)
    assert run("--config=without_ending:some").config.title == "some"
    assert_refused(run("--config=" + "x" * 5000), ".*x: there is no file x+\\.")


def test_a_setting_that_does_not_exist(run, tmp_path):
    wrong = CONFIG_FILE.replace("steps=10", "stepz=10")
    (tmp_path / "wrong.py").write_text(wrong)
    assert_refused(
        run("--config=wrong.py"), "config.stages.cot.stepz is no setting. Did you mean 'steps'?".replace("?", "\\?")
    )
    (tmp_path / "wrong.py").write_text(CONFIG_FILE.replace("config.title =", "config.learning_rate ="))
    assert_refused(
        run("--config=wrong.py"),
        "config.learning_rate is no setting. The setting is config.stages.<stage>.optimizer.learning_rate\\.",
    )


@pytest.mark.parametrize("line", ["config.seed = 1.5", "config.seed = '1'", "config.data = 3", "config.stages.cot = 3"])
def test_a_wrong_type(run, tmp_path, line):
    (tmp_path / "wrong.py").write_text(CONFIG_FILE.replace('config.title = argument or "whole"', line))
    assert_refused(run("--config=wrong.py"), "(wrong.py, line [67]: |config.stages.cot=3: expected).*")


# A run's config.json


def written(folder, text: bytes):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(text)


def settings(**changes) -> dict:
    plain = json.loads(json.dumps({"stages": {"cot": {}}, "run": "cot"}))
    return plain | changes


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        (b"", "a/config.json is not JSON: .*line 1 column 1.*"),
        (b"[]", "a/config.json holds a list, not an object.*"),
        (b"null", "a/config.json holds a NoneType, not an object.*"),
        (b"{", "a/config.json is not JSON: .*line 1 column 2.*"),
        (b"\xff{}", "a/config.json is not JSON: .*"),
        (b"[" * 100_000, "a/config.json is not readable JSON: it is nested too deeply"),
        (b'{"seed": 1, "seed": 2}', "a/config.json is not JSON: it has 'seed' twice"),
        (json.dumps(settings(seed="1")).encode(), "a/config.json: config.seed='1' is of type str: expected int"),
        (json.dumps(settings(data=[])).encode(), r"a/config.json: config.data=\[\]: expected a group of settings \(.*"),
        (json.dumps(settings(stages=[])).encode(), r"a/config.json: config.stages=\[\]: expected groups .*"),
        (json.dumps(settings(stages={"cot": 3})).encode(), "a/config.json: config.stages.cot=3: expected a group .*"),
        (json.dumps(settings(unknown=3)).encode(), "a/config.json: config.unknown is no setting.*"),
        (json.dumps(settings(seed=10**20)).encode(), "a/config.json: config.seed=10+ has more than 32 bits"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "a/config.json is not JSON: Exceeds the limit.*"),
        (json.dumps(settings(title="\ud800")).encode(), "a/config.json: config.title=.* is no valid text: .*"),
    ],
)
def test_a_runs_config_that_is_damaged(run, tmp_path, text, pattern):
    written(tmp_path / "a", text)
    assert_refused(run("--workdir=a", source=RUN), pattern)


def test_a_runs_config_that_is_right(run, tmp_path):
    written(tmp_path / "a", json.dumps(settings(seed=4)).encode())
    config = run("--workdir=a", source=RUN).config
    of_before = DecodeConfig(greedy_stop="argmax")  # a file that does not say it was written before there was a choice
    assert config == Config(run="cot", seed=4, workdir="a", stages={"cot": StageConfig()}, decode=of_before)


# Numbers that no device counts in, and folders that are none


@pytest.mark.parametrize(
    ("flag", "pattern"),
    [
        ("--config.seed=99999999999999999999", "config.seed=9+ has more than 32 bits"),
        ("--config.seed=-1", "seed=-1 is negative"),
        ("--config.seed=4294967296", "config.seed=4294967296 has more than 32 bits"),
        ("--config.stages.cot.steps=2147483648", "config.stages.cot.steps=2147483648 has more than 32 bits"),
        ("--config.stages.cot.steps=-9999999999", "config.stages.cot.steps=-9999999999 has more than 32 bits"),
        ("--config.eval.seeds=9999999999", "config.eval.seeds=9999999999 has more than 32 bits"),
        ("--config.seed=" + "9" * 5000, "flag --config.seed=9+: Exceeds the limit.*"),
        ("--config.workdir=", "workdir='' names no folder: .*"),
        ("--config.workdir= ", "workdir=' ' names no folder: .*"),
    ],
)
def test_a_number_or_a_folder_that_cannot_be(run, flag, pattern):
    assert_refused(run("--config=tiny.py", flag), pattern)


@pytest.mark.parametrize("name", ["a b", "../up", "a/b", "", "-"])
def test_the_name_of_a_stage_is_that_of_a_folder(run, tmp_path, name):
    (tmp_path / "wrong.py").write_text(CONFIG_FILE.replace("config.stages.cot =", f"config.stages[{name!r}] ="))
    ran = run("--config=wrong.py")
    assert (ran.status, len(ran.errors)) == (2, 1)


def test_the_largest_seed(run):
    assert run("--config=tiny.py", "--config.seed=4294967295").config.seed == 2**32 - 1
