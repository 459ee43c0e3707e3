"""Command lines and run folders at random: accepted as they are meant, or one line and exit status 2; nothing else.

COLAR_FUZZ_EXAMPLES=20000 for the long form.
"""

import contextlib
import copy
import dataclasses
import functools
import io
import json
import os
from pathlib import Path

import huggingface_hub
import pytest
from command_line.program import call
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from colar_jax import evaluate, export, generate, import_published, plan
from colar_jax.command_line import ASKED, CONFIG, RUN, RUNS
from colar_jax.config import Config, StageConfig, plain, reference
from colar_jax.methods import METHODS

NUM_EXAMPLES = int(os.environ.get("COLAR_FUZZ_EXAMPLES", "60"))
fuzz = settings(
    max_examples=NUM_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None, print_blob=False
)

# What each program declares, and where its config comes from.
PROGRAMS = {
    "train": (None, CONFIG),
    "plan": (plan.Flags, CONFIG),
    "import_published": (import_published.Flags, CONFIG),
    "evaluate": (evaluate.Flags, RUNS),
    "export": (export.Flags, RUN),
    "generate": (generate.Flags, ASKED),
}
# What a CoT stage has: not the settings of other methods, nor of reinforcement learning.
_OTHERS = tuple(f"stages.cot.{group}." for group in ("rl", *(method.group for method in METHODS.values())) if group)
_PATHS = [found.path.replace("<stage>", "cot") for found in reference.settings()]
SETTINGS = [path for path in _PATHS if not path.startswith(_OTHERS)]
SAVED = json.loads(json.dumps(plain(Config(run="cot", stages={"cot": StageConfig()}))))


ONE_STAGE = """
from colar_jax.config import defaults, stage_defaults

def get_config(argument):
    config = defaults()
    config.run = "cot"
    config.stages.cot = stage_defaults()
    return config
"""


@pytest.fixture(scope="module", autouse=True)
def no_hub():
    """A folder that is not there may be a hub id: nothing is asked of the network."""

    def download(repository, **_):
        raise OSError(f"no network for {repository}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub, "snapshot_download", download)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a config file tiny.py and a run `a`, which is the current one."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "tiny.py").write_text(ONE_STAGE, encoding="utf-8")
    (folder / "a").mkdir()
    (folder / "a" / "config.json").write_text(json.dumps(SAVED), encoding="utf-8")
    with contextlib.chdir(folder):
        yield folder


def called(words: list[str], flags, source):
    """What the program got, its exit status, and the lines on standard error."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        config, own, status = call(words, flags=flags, source=source)
    return config, own, status, errors.getvalue().splitlines()


def names_of(flags, source) -> list[str]:
    own = [field.name for field in dataclasses.fields(flags)] if flags else []
    return [*own, source.name, "help", "config", "workdir", *(f"config.{path}" for path in SETTINGS)]


VALUES = st.one_of(
    st.sampled_from(
        ["", "0", "1", "-1", "2.5", "true", "no", "cot", "colar", "float32", "bfloat16", "a", "tiny.py", "x"]
    ),
    st.text(max_size=6).filter(lambda text: "\0" not in text),
)


@st.composite
def command_lines(draw):
    """A program, and words: mostly what it knows, in both forms, and some that nobody knows."""
    name = draw(st.sampled_from(sorted(PROGRAMS)))
    flags, source = PROGRAMS[name]
    right = {"config": "tiny.py", "workdir": "a"}[source.name]
    words = draw(st.sampled_from([[f"--{source.name}={right}"], [f"--{source.name}", right], []]))
    known = st.sampled_from(names_of(flags, source))
    stranger = st.one_of(st.text(max_size=8), known.map(lambda text: text[:-1]), known.map(lambda text: f"no{text}"))
    for _ in range(draw(st.integers(0, 5))):
        flag = draw(st.one_of(known, known, stranger).filter(lambda text: "\0" not in text))
        dashes = draw(st.sampled_from(["--", "--", "-", ""]))
        form = draw(st.integers(0, 2))
        value = draw(VALUES)
        words += [[f"{dashes}{flag}={value}"], [f"{dashes}{flag}", value], [f"{dashes}{flag}"]][form]
    return name, words


def told_apart(words: list[str], is_switch) -> dict[str, str | None] | None:
    """A strict reading of a command line by another hand: the last value of each flag, None where it has none; None
    for the whole where something is neither a flag nor the value of one."""
    read, place = {}, 0
    while place < len(words):
        word = words[place]
        place += 1
        if not word.startswith("-") or word == "-":
            return None
        name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        if equals:
            read[name] = value
        elif is_switch(name):
            read[name] = "true"
        elif name.startswith("no") and is_switch(name[2:]):
            read[name[2:]] = "false"
        elif place < len(words):
            read[name] = words[place]
            place += 1
        else:
            return None
    return read


def agrees(value, text: str) -> bool:
    """Whether a flag or setting of this value was given as this text."""
    if isinstance(value, bool):
        return value is (text.lower() in ("true", "t", "1"))
    if isinstance(value, int | float):
        return value == type(value)(text)
    return value == text


@fuzz
@given(line=command_lines())
def test_a_command_line_is_read_whole_or_refused_in_one_line(folder, line):
    program, words = line
    flags, source = PROGRAMS[program]
    own = {field.name: field.default for field in dataclasses.fields(flags)} if flags else {}
    config, given_flags, status, errors = called(words, flags, source)
    if status:
        assert (status, len(errors), config) == (2, 1, None), errors
        assert errors[0].startswith("error: ")
        return
    assert errors == []
    if config is None:  # whatever else was there, it asked for help
        assert any("help" in word for word in words)
        return
    defaults = {f"config.{path}": value_at(SAVED, path) for path in SETTINGS}
    read = told_apart(words, lambda name: name == "help" or isinstance((own | defaults).get(name), bool))
    assert read is not None, "something was neither a flag nor a value"
    assert read.keys() <= own.keys() | defaults.keys() | {source.name, "help"}, "an unknown flag was ignored"
    (config,) = config if isinstance(config, list) else (config,)
    for name, text in read.items():
        if name in own:
            assert agrees(getattr(given_flags, name), text), name
        elif name in defaults:
            assert agrees(value_at(plain(config), name.removeprefix("config.")), text), name


def value_at(tree, path: str):
    for part in path.split("."):
        tree = tree[part]
    return tree


# A run's config.json


def paths_of(tree, path=()) -> list[tuple]:
    """The places of everything in a tree of dicts."""
    found = [(*path, key) for key in tree]
    return found + [
        deeper for key, item in tree.items() if isinstance(item, dict) for deeper in paths_of(item, (*path, key))
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def damaged_settings(draw):
    """A run's settings after some changes, as bytes, which may be cut or overwritten too."""
    tree = copy.deepcopy(SAVED)
    for _ in range(draw(st.integers(0, 3))):
        *groups, key = draw(st.sampled_from(paths_of(tree)))
        node = tree
        for group in groups:
            node = node[group]
        action = draw(st.integers(0, 2))
        if action == 0:
            del node[key]
        else:
            node[key if action == 1 else draw(st.text(max_size=5))] = draw(JSON)
    data = json.dumps(tree).encode("utf-8")
    if draw(st.integers(0, 3)) == 0:
        data = data[: draw(st.integers(0, len(data)))]
    if draw(st.integers(0, 3)) == 0:
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        data = data[:place] + draw(st.binary(max_size=3)) + data[place + 1 :]
    return data


@fuzz
@given(data=damaged_settings())
def test_a_runs_config_is_read_as_it_stands_or_refused_by_name(folder, data):
    (folder / "b").mkdir(exist_ok=True)
    (folder / "b" / "config.json").write_bytes(data)
    config, _, status, errors = called(["--workdir=b"], None, RUN)
    if status:
        assert (status, len(errors), config) == (2, 1, None), errors
        assert errors[0].startswith(f"error: {Path('b/config.json')}"), errors
        return
    expected = plain(config) | {"workdir": "b"}
    read = json.loads(data)
    for path in paths_of(read):
        asked, got = (functools.reduce(lambda node, part: node[part], path, tree) for tree in (read, expected))
        assert isinstance(asked, dict) or asked == got or path == ("workdir",), path
