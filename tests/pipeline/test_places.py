"""A run is opened from any folder: what its settings name is found where it was when the run was written."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
import transformers
from pipeline.test_base import TWO_STEPS, make_base
from pipeline.tiny import tiny_config_dict

from colar_jax.config import defaults, plain, resolve
from colar_jax.data.sources import load_problems
from colar_jax.data.tokenizers import EMBEDDED, load_tokenizer
from colar_jax.errors import UserError
from colar_jax.runs import pipeline
from colar_jax.runs.identity import other_settings
from colar_jax.runs.places import change_places, is_same, moved_path, whole_path
from colar_jax.runs.run import prepare
from colar_jax.runs.run_folder import saved_config
from colar_jax.runs.starts import finished_identity, finished_parameters

# As they are typed in the folder of the project.
GIVEN = {
    "model.base": "models/base",
    "model.lora.rank": 2,
    "data.tokenizer": "models/words",
    "data.train": "renumbered:odd.jsonl",
    "data.test": "near=near.jsonl; arithmetic:seed=5",
}


def given_config(workdir="runs/own", **overrides):
    return resolve(tiny_config_dict(workdir, **TWO_STEPS | GIVEN | overrides))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A project in whose folder a run was trained. Not to be changed."""
    project = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        make_base(Path("models/base"))
        load_tokenizer(EMBEDDED).save("models/words")
        for name, split, limit in (("odd", "train", 60), ("near", "test", 4)):
            problems = load_problems("arithmetic:max_number=30", split, limit=limit)
            lines = (json.dumps({key: getattr(p, key) for key in ("question", "steps", "answer")}) for p in problems)
            Path(f"{name}.jsonl").write_text("\n".join(lines))
        pipeline.train(given_config())
    return project


@pytest.fixture
def project(trained, tmp_path, monkeypatch) -> Path:
    """A copy of it, and the working folder is another one."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return Path(shutil.copytree(trained, tmp_path / "project"))


@pytest.mark.slow
def test_a_run_says_where_things_are_and_its_checkpoints_what_was_given(trained):
    saved = json.loads((trained / "runs/own/config.json").read_text())
    assert saved["model"]["base"] == f"{trained}/models/base"
    assert saved["data"]["tokenizer"] == f"{trained}/models/words"
    assert saved["data"]["train"] == f"renumbered:{trained}/odd.jsonl"
    assert saved["data"]["test"] == f"near={trained}/near.jsonl; arithmetic=arithmetic:seed=5"
    assert finished_identity(trained / "runs/own/colar")["settings"]["data.tokenizer"] == "models/words"


def open_run(workdir):
    """The run with its tests, after its adapters were read."""
    run = prepare(resolve(saved_config(workdir)), sets="tests", for_training=False)
    assert list(run.tests) == ["near", "arithmetic"]
    finished_parameters(run, run.workdir / "colar")
    return run


@pytest.mark.slow
def test_it_is_opened_from_another_folder(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = open_run(trained / "runs/own")
    settings = finished_identity(run.workdir / "colar")["settings"]
    assert other_settings(settings, run, "colar") == {}  # what was decoded is not decoded again


@pytest.mark.slow
@pytest.mark.parametrize("of_before", [False, True])
def test_the_same_command_goes_on(project, monkeypatch, of_before):
    """Nothing is left to do, and nothing is refused; earlier versions wrote what was given."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(pipeline, "sweep_run", lambda run: [])
    if of_before:
        Path("runs/own/config.json").write_text(json.dumps(plain(given_config())))
    pipeline.train(given_config())
    monkeypatch.chdir("runs")
    here = {"workdir": "own", "model.base": "../models/base", "data.tokenizer": f"{project}/models/words"}
    here |= {"data.train": "renumbered:../odd.jsonl", "data.test": "arithmetic"}
    pipeline.train(given_config(**here))
    shutil.copytree("../models/words", "../models/others")
    with pytest.raises(UserError, match=r"data.tokenizer was 'models/words', is '../models/others'"):
        pipeline.train(given_config(**here | {"data.tokenizer": "../models/others"}))


@pytest.mark.slow
def test_it_is_opened_where_all_of_it_was_moved_to(project):
    at = project / "runs/own/config.json"
    at.write_text(at.read_text().replace(os.path.dirname(json.loads(at.read_text())["model"]["base"]), "/gone/models"))
    at.write_text(at.read_text().replace(json.loads(at.read_text())["workdir"], "/gone/runs/own"))
    run = open_run(project / "runs/own")
    assert run.config.model.base == f"{project}/models/base"


@pytest.mark.slow
def test_a_tokenizer_that_is_gone_is_the_runs_own(project, caplog, monkeypatch):
    def no_hub(name):
        raise OSError(f"{name} is not on the hub")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", no_hub)
    saved = project / "runs/own/config.json"
    saved.write_text(saved.read_text().replace(json.loads(saved.read_text())["data"]["tokenizer"], "models/words"))
    run = open_run(project / "runs/own")  # of before, and nothing of that name is here
    assert run.config.data.tokenizer == "models/words"
    assert "data.tokenizer='models/words' cannot be found: the run's copy of it is taken" in caplog.text

    other = resolve(saved_config(project / "runs/own"))
    other = dataclasses.replace(other, data=dataclasses.replace(other.data, tokenizer="models/wordss"))
    with pytest.raises(UserError, match="data.tokenizer='models/wordss' is neither"):
        prepare(other, sets="none", for_training=False)
    shutil.rmtree(project / "runs/own/colar")
    with pytest.raises(UserError, match="data.tokenizer='models/words' is neither"):
        prepare(resolve(saved_config(project / "runs/own")), sets="none", for_training=False)


def test_every_setting_that_names_a_place():
    settings = plain(
        given_config(**{"model.lora.init_from": "x", "eval.trim.verifier": "x", "data.val": "equations:x"})
    )
    settings["stages"]["like"] = {"method": "dropped_steps", "dropped_steps": {"like": "x"}, "init_from": "x"}
    changed = change_places(settings, lambda name: f"<{name}>")
    assert changed["model"]["lora"]["init_from"] == changed["eval"]["trim"]["verifier"] == "<x>"
    assert changed["data"]["val"] == "equations:<x>" and changed["data"]["test"].startswith("near=<near.jsonl>; ")
    assert changed["stages"]["like"] == {
        "method": "dropped_steps",
        "dropped_steps": {"like": "<x>"},
        "init_from": "<x>",
    }
    assert settings["model"]["base"] == "models/base"  # its own settings are left alone


def test_a_name_of_something_else_is_no_place():
    settings = plain(resolve(tiny_config_dict("w", **{"eval.trim.verifier": "cot", "stages.colar.init_from": "cot"})))
    assert change_places(settings, lambda name: name and pytest.fail(name)) == settings
    assert change_places(plain(defaults().to_dict()), lambda name: name and pytest.fail(name)) == defaults().to_dict()


def test_a_whole_path_is_of_what_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    names = {
        "a": f"{tmp_path}/a",
        "./a/": f"{tmp_path}/a",
        "owner/name": "owner/name",
        "": "",
        "~": "~",
        "/a/b": "/a/b",
    }
    assert {name: whole_path(name) for name in names} == names


def test_what_was_moved_along(tmp_path):
    (tmp_path / "b/data").mkdir(parents=True)
    here, was, now = str(tmp_path / "b/data"), str(tmp_path / "a/run"), str(tmp_path / "b/run")
    assert moved_path(str(tmp_path / "a/data"), was, now) == here
    for name in (here, str(tmp_path / "a/other"), "owner/name", ""):
        assert moved_path(name, was, now) == name


@pytest.mark.parametrize(
    ("setting", "was", "value", "same"),
    [
        ("data.tokenizer", "models/words", "{here}/models/words", True),
        ("data.tokenizer", "../models/words", "{here}/models/words", True),
        ("data.tokenizer", "{here}/models/words", "models/words", True),
        ("data.tokenizer", "./models/words/", "models/words", True),
        ("data.tokenizer", "{here}/linked/words", "models/words", True),
        ("data.tokenizer", "other/words", "{here}/models/words", False),
        ("data.tokenizer", "words", "owner/words", False),  # two ids of a hub
        ("data.tokenizer", "", "models/words", False),
        ("data.train", "equations:models/words", "equations:{here}/models/words", True),
        ("data.train", "models/words", "equations:{here}/models/words", False),
        ("stage.init_from", "runs/a/cot", "{here}/runs/a/cot", True),
        ("stage.init_from", "cot", "{here}/runs/a/cot", False),  # the run's own stage
        ("stage.method", "models/words", "{here}/models/words", False),
    ],
)
def test_the_same_place_written_otherwise(setting, was, value, same, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("models/words", "runs/a/cot"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "linked").symlink_to("models")
    assert is_same(setting, was.format(here=tmp_path), value.format(here=tmp_path), ("cot",)) is same
