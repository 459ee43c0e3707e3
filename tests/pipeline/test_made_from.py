"""What a model said of a stage's problems is kept, but not for a stage that would be told something else by now."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from parallel.processes import ended, free_address
from pipeline.tiny import ROOT, tiny_config_dict

from colar_jax.config import resolve, stage_defaults
from colar_jax.runs import made_from, speed_labels
from colar_jax.runs.made_from import Parts, is_kept, keep
from colar_jax.runs.run import Run, prepare
from colar_jax.runs.speed_labels import RIGHT_FILE, RIGHT_LATER_FILE, labelled
from colar_jax.runs.starts import adopt, finished_identity
from colar_jax.training.checkpoints import Checkpoints
from colar_jax.training.stage import CHECKPOINTS_FOLDER


def config_dict(workdir, **overrides):
    config = tiny_config_dict(workdir, run="colar,auto")
    config.stages.colar.latent.update(speeds="1..6", conditioning="number")
    config.stages.rl.latent.update(speeds="1..6", conditioning="number")
    config.stages.auto = stage_defaults(method="own_speed", init_from="colar", steps=3, rows=2)
    config.stages.auto.own_speed.update(grid="1,2,4", num_labelled=10)
    config.update_from_flattened_dict(overrides)
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """One whose stage colar is there."""
    run = prepare(resolve(config_dict(tmp_path_factory.mktemp("made") / "run")))
    adopt(run, "colar", run.initial_parameters())
    return run


def like(run: Run, **overrides) -> Run:
    """The run with other settings; its problems, where `data` changes, are loaded anew."""
    config = resolve(config_dict(run.workdir, **overrides))
    return prepare(config) if any("data." in name for name in overrides) else dataclasses.replace(run, config=config)


OTHERS = {
    "stages.auto.own_speed.grid": "1,2,5",
    "stages.auto.own_speed.num_labelled": 20,
    "seed": 3,
    "decode.max_latents": 3,
    "data.train_limit": 50,
    "data.verifier": "exact",
    "model.dtype": "bfloat16",
}
SAME = {
    "stages.auto.optimizer.learning_rate": 0.5,
    "model.remat": "full",
    "data.num_test": 3,
    "eval.seeds": 1,
    "decode.speed_certainty": 0.5,  # labels are of speeds that are told, and greedy
    "decode.top_p": 0.5,
}


@pytest.mark.slow
def test_a_file_is_of_its_settings_until_the_stage_has_learned_from_it(run, monkeypatch):
    path = run.workdir / "auto" / RIGHT_FILE
    keep(run, "auto", path, lambda unfinished: unfinished.write_bytes(b"labels"))
    assert path.read_bytes() == b"labels" and is_kept(run, "auto", path)
    assert not list(path.parent.glob(".*")), "nothing unfinished is left"
    for name, value in SAME.items():
        assert is_kept(like(run, **{name: value}), "auto", path), name
    for name, value in OTHERS.items():
        assert not is_kept(like(run, **{name: value}), "auto", path), name
    with monkeypatch.context() as patch:
        patch.setattr(made_from, "finished_identity", lambda folder: finished_identity(folder) | {"step": 7})
        assert not is_kept(run, "auto", path), "the stage that it starts from was trained on"
    monkeypatch.setattr(made_from, "latest_step", lambda folder: 1)
    assert is_kept(like(run, seed=3), "auto", path), "what may change then is another's to say"


@pytest.fixture
def based(run, tmp_path, monkeypatch):
    """The run on a base model and a tokenizer, named as they are asked for, from the folder where both lie."""
    for name in ("llama", "words", "adapter"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)

    def named(base="llama", tokenizer="words", adapter="adapter", weights="1", **settings) -> Run:
        settings |= {"model.base": base, "data.tokenizer": tokenizer}
        settings |= {"model.lora.rank": 2, "model.lora.init_from": adapter}
        config = resolve(config_dict(run.workdir, **settings))
        identity = {"name": base.rpartition("/")[2], "config": "1", "weights": weights}
        return dataclasses.replace(run, config=config, base_identity=identity)

    return named


def test_a_base_model_is_known_by_its_content_and_a_place_however_it_is_written(based, tmp_path):
    path = tmp_path / "kept" / RIGHT_FILE
    keep(based(), "auto", path, lambda unfinished: unfinished.write_bytes(b"labels"))
    note = path.with_name("right_at_speeds.made_from.json")
    assert json.loads(note.read_text())["model"]["base"] == "llama", "notes of earlier versions say this, too"
    moved = {"base": "/elsewhere/renamed", "model.preset": "pico"}
    written_otherwise = {"tokenizer": f"{tmp_path}/words", "adapter": f"{tmp_path}/adapter"}
    for named in (moved, written_otherwise):
        assert is_kept(based(**named), "auto", path), named
    assert not is_kept(based(base="/elsewhere/renamed", weights="2"), "auto", path)
    for other in ({"tokenizer": "llama"}, {"adapter": "llama"}, {"model.lora.alpha": 1.0}):
        assert not is_kept(based(**other), "auto", path), other
    note.write_text("[]")
    assert not is_kept(based(), "auto", path)


def test_what_was_answered_before_a_kill_is_of_the_same_base_model_where_that_has_moved(based, tmp_path):
    path = tmp_path / "kept" / RIGHT_FILE
    Parts(based(), "auto", path).keep("first", lambda unfinished: unfinished.write_bytes(b"labels"))
    assert Parts(based(base="/elsewhere/renamed"), "auto", path).has("first")
    assert not Parts(based(weights="2"), "auto", path).has("first")


def test_a_file_that_a_kill_cut_short_or_an_earlier_version_left_is_made_again(run):
    path = run.workdir / "auto" / RIGHT_FILE
    keep(run, "auto", path, lambda unfinished: unfinished.write_bytes(b"labels"))

    def killed(unfinished):
        unfinished.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep(run, "auto", path, killed)
    assert path.read_bytes() == b"labels" and not is_kept(run, "auto", path)


@pytest.mark.parametrize("is_first", [True, False])
def test_all_processes_open_the_same_checkpoints(run, tmp_path, monkeypatch, is_first):
    """To open them is a collective: one that the first process does alone waits for the others for ever."""
    path, opened, waited, written = tmp_path / "kept" / RIGHT_FILE, [], [], []

    def opening(checkpoints, folder, **options):
        opened.append(folder)
        open_alone(checkpoints, folder, **options)

    open_alone = Checkpoints.__init__
    monkeypatch.setattr(Checkpoints, "__init__", opening)
    monkeypatch.setattr(made_from, "is_first", lambda: is_first)
    monkeypatch.setattr(made_from, "wait_for_all", lambda what: waited.append((what, len(opened))))
    if not is_first:
        (tmp_path / "kept" / f".{path.stem}.parts").mkdir(parents=True)  # by the first
    parts = Parts(run, "auto", path)
    parts.keep("1.npy", lambda unfinished: (written.append("part"), unfinished.write_bytes(b"part")))
    keep(run, "auto", path, lambda unfinished: (written.append("whole"), unfinished.write_bytes(b"labels")))
    parts.remove()
    assert opened == [run.workdir / "colar" / CHECKPOINTS_FOLDER] * 2
    assert waited == [("looked for .right_at_speeds.parts", 1), ("kept right_at_speeds.npy", 2)]
    assert written == (["part", "whole"] if is_first else [])


# python -c DRIVER <workdir> <address> <process>: labels and chains of their own for two processes of one run.
DRIVER = """
import sys
import numpy as np
from colar_jax.config import resolve, stage_defaults
from colar_jax.parallel import hosts
from colar_jax.runs import own_chains, speed_labels
from colar_jax.runs.run import Run, prepare
from colar_jax.runs.starts import adopt
from pipeline.test_made_from import config_dict

workdir, address, process = sys.argv[1:]
settings = {"coordinator": address, "num_processes": 2, "process_id": int(process), "heartbeat_seconds": 10}
config = config_dict(workdir, **{f"parallel.{name}": value for name, value in settings.items()})
config.run = "colar,auto,concise"
config.stages.auto.own_speed.update(mid_chain=True, timeline="tokens")
for stage in ("colar", "rl"):
    config.stages[stage].latent.timeline = "tokens"
config.stages.concise = stage_defaults(method="concise", init_from="colar", steps=3, rows=2)

class Evaluator:
    def run_all(self, parameters, requests):
        for request in requests:
            yield request, type("Outcome", (), {"right_N": np.arange(len(request.encoded)) % 2 == 0})

Run.evaluator = lambda self, name, sets, speeds: Evaluator()
speed_labels.start_parameters = lambda *_: None
own_chains._sampled = lambda run, name, parts: run.train_problems[:3]
config = resolve(config)
hosts.initialize(config.parallel)
with hosts.ends_with_its_peers():
    run = prepare(config)
    adopt(run, "colar", run.initial_parameters())
    for _ in range(2):  # made, and found
        labels = speed_labels.labelled(run, "auto")
        assert labels.speed_labels.tolist() == [0b111, 0] * 5 and labels.speed_changes is not None
        assert own_chains.shortest_right(run, "concise") == run.train_problems[:3]
"""


@pytest.mark.slow
def test_two_processes_make_them_together(tmp_path):
    address = free_address()
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "JAX_PLATFORMS": "cpu"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(tmp_path / "run"), address, str(process)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    of_processes = ended(started, 150)
    assert [status for status, _ in of_processes] == [0, 0], of_processes
    for file in (f"auto/{RIGHT_FILE}", f"auto/{RIGHT_LATER_FILE}", "concise/own_chains.jsonl"):
        assert (tmp_path / "run" / file).is_file(), file
    assert not list((tmp_path / "run").glob("*/.*.parts"))


@pytest.fixture
def asked(run, monkeypatch) -> list[float]:
    """The speeds that the model is asked to answer at: every other problem is right. At the speed 7 it is killed."""
    asked = []
    shutil.rmtree(run.workdir / "auto", ignore_errors=True)

    class Evaluator:
        def run_all(self, parameters, requests):
            for request in requests:
                asked.append(request.speed)
                if request.speed == 7.0 and asked.count(7.0) == 1:
                    raise KeyboardInterrupt
                yield request, type("Outcome", (), {"right_N": np.arange(len(request.encoded)) % 2 == 0})

    monkeypatch.setattr(Run, "evaluator", lambda self, name, sets, speeds: Evaluator())
    monkeypatch.setattr(speed_labels, "start_parameters", lambda *_: None)
    return asked


def test_what_was_answered_before_a_kill_is_not_asked_again(run, asked):
    interrupted = like(run, **{"stages.auto.own_speed.grid": "1,3,7,9"})
    with pytest.raises(KeyboardInterrupt):
        labelled(interrupted, "auto")
    labels = labelled(interrupted, "auto").speed_labels.tolist()
    assert asked == [1.0, 3.0, 7.0, 7.0, 9.0] and labels == [0b1111, 0] * 5
    assert not list((run.workdir / "auto").glob(".*")), "nothing unfinished is left"


def test_what_was_answered_before_a_kill_of_another_model_is_asked_again(run, asked):
    with pytest.raises(KeyboardInterrupt):
        labelled(like(run, **{"stages.auto.own_speed.grid": "1,3,7"}), "auto")
    labelled(like(run, **{"stages.auto.own_speed.grid": "1,3,7", "decode.max_latents": 3}), "auto")
    assert asked == [1.0, 3.0, 7.0, 1.0, 3.0, 7.0]


def test_labels_are_those_of_the_grid_of_now(run, asked):
    assert len(labelled(run, "auto").speed_labels) == 10
    assert asked == [1.0, 2.0, 4.0]
    labelled(run, "auto")
    assert asked == [1.0, 2.0, 4.0], "once"
    other = like(run, **{"stages.auto.own_speed.grid": "1,3", "stages.auto.own_speed.num_labelled": 6})
    assert labelled(other, "auto").speed_labels.tolist() == [0b11, 0] * 3
    assert asked == [1.0, 2.0, 4.0, 1.0, 3.0]
