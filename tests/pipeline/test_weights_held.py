"""How many copies of the weights are there at a time, and which are never loaded."""

import gc
import json

import jax
import numpy as np
import pytest
from pipeline.test_base import config_of, make_base
from pipeline.test_lora import lora_config
from pipeline.tiny import STAGES, Captured, capture_stage, captured_by, copy_of, tiny_config

from colar_jax.config import stage_defaults
from colar_jax.errors import UserError
from colar_jax.evaluation.evaluator import Evaluator
from colar_jax.exchange import folder as exported
from colar_jax.model.lora import ADAPTER, split_base
from colar_jax.model.reasoner import PARTS
from colar_jax.runs import pipeline
from colar_jax.runs.run import prepare
from colar_jax.runs.run_model import RunModel
from colar_jax.runs.stage_batches import num_steps_of
from colar_jax.runs.starts import adopt, finished_parameters, start_parameters
from colar_jax.runs.sweep.sweep import sweep
from colar_jax.training.checkpoints import Checkpoints
from colar_jax.training.trainer import SftTrainer

pytestmark = pytest.mark.slow


class Counted:
    """The buffers of the embedding's shape that live now and did not when this was made."""

    def __init__(self, config):
        self._shape = prepare(config, sets="none").shapes["llama"]["embedding"].shape
        self._before = self._live()

    def _live(self) -> list[jax.Array]:
        gc.collect()
        return [array for array in jax.live_arrays() if array.shape == self._shape]

    def copies(self) -> int:
        """Views of one buffer, such as an array's shard, count once."""
        now, before = ({array.unsafe_buffer_pointer() for array in arrays} for arrays in (self._live(), self._before))
        return len(now - before)


def stop_at(monkeypatch, owner, name: str, counted: Counted) -> None:
    """Ends what runs where this function is called, with the number of copies."""

    def stop(*arguments, **options):
        raise Captured(counted.copies())

    monkeypatch.setattr(owner, name, stop)


def test_evaluating_holds_one_copy(finished, tmp_path, monkeypatch):
    config = tiny_config(finished)
    stop_at(monkeypatch, Evaluator, "run_all", Counted(config))
    with pytest.raises(Captured) as captured:
        sweep([config], tmp_path / "report")
    assert captured.value.args == (1,)


def test_exporting_holds_one_copy(finished, tmp_path, monkeypatch):
    config = tiny_config(finished)
    stop_at(monkeypatch, exported, "write_llama", Counted(config))
    with pytest.raises(Captured) as captured:
        exported.export_stage(prepare(config, sets="none"), "colar", tmp_path / "out")
    assert captured.value.args == (1,)


def test_resuming_holds_parameters_and_moments_once(finished, tmp_path, monkeypatch):
    """Three copies: as many as a stage that begins has."""
    config = tiny_config(copy_of(finished, tmp_path), **{"stages.colar.steps": 9})
    stop_at(monkeypatch, SftTrainer, "steps", Counted(config))
    assert captured_by(prepare(config), "colar") == 3


@pytest.mark.parametrize("length", [{}, {"steps": 0, "epochs": 0.05}])
def test_a_finished_stage_loads_nothing(length, finished, monkeypatch):
    def never(*arguments):
        raise AssertionError("read")

    for method in ("restore", "restore_part"):
        monkeypatch.setattr(Checkpoints, method, never)
    monkeypatch.setattr(RunModel, "initial_parameters", never)
    run = prepare(tiny_config(finished, **{f"stages.cot.{name}": value for name, value in length.items()}))
    pipeline.train_stage(run, "cot")


def test_a_later_stage_resumes_without_its_source(finished, tmp_path, monkeypatch):
    """What it holds is in its own checkpoint, what it leaves as it was included."""
    run = prepare(tiny_config(copy_of(finished, tmp_path), **{"stages.no_cot.steps": 9}))

    def stop(trainer, state, frozen, *others):
        raise Captured(frozen)

    expected = finished_parameters(run, run.workdir / "no_cot")["latent_head"]
    (run.workdir / "colar").rename(tmp_path / "moved")
    monkeypatch.setattr(SftTrainer, "steps", stop)
    frozen = captured_by(run, "no_cot")
    jax.tree.map(np.testing.assert_array_equal, frozen["latent_head"], expected)


def test_the_base_is_loaded_once_for_all_stages(tmp_path, monkeypatch):
    # In text: no module of a speed is made anew.
    told = {f"stages.{name}.latent.conditioning": "text" for name in ("colar", "rl")}
    run = prepare(lora_config(tmp_path / "run", **told))
    for name in ("cot", "colar"):
        adopt(run, name, run.initial_parameters())
    monkeypatch.setattr(RunModel, "_random", None)  # from here on nothing is made anew
    one, other = finished_parameters(run, run.workdir / "cot"), start_parameters(run, "colar")
    for a, b in zip(*(jax.tree.leaves(split_base(tree)[1]) for tree in (one, other)), strict=True):
        assert a is b


def test_the_reference_has_only_what_is_trained(tmp_path, monkeypatch):
    """It shares the frozen base with the policy, whose update compares the two (`rl.beta`)."""
    rl = stage_defaults(method="colar", trainer="grpo", steps=2)
    rl.rl.beta = 0.1
    settings = {"stages.rl": rl, "stages.rl.rl.num_questions": 4, "stages.colar.latent.conditioning": "text"}
    run = prepare(lora_config(tmp_path / "run", run="colar,rl", **settings))
    adopt(run, "colar", run.initial_parameters())

    def stop(engine, stage, optimizer, reference):
        raise Captured(reference)

    monkeypatch.setattr(pipeline, "make_grpo_trainer", stop)
    reference = captured_by(run, "rl")
    paths = [path for path, _ in jax.tree.leaves_with_path(reference["llama"])]
    assert reference.keys() == set(PARTS)
    assert paths and all(any(getattr(entry, "key", None) == ADAPTER for entry in path) for path in paths)


def test_what_is_wrong_with_a_base_is_said_before_it_is_loaded(tmp_path):
    base = make_base(tmp_path / "base")
    config = config_of(tmp_path / "work", base)
    counted = Counted(config)
    run = prepare(config)
    assert counted.copies() == 0 and run.shapes["llama"]
    hf_config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(hf_config | {"num_hidden_layers": 3}))
    with pytest.raises(UserError, match=r"does not hold the weights that its config.json describes:\n  missing: "):
        prepare(config)


@pytest.mark.parametrize("name", STAGES)
def test_the_length_of_a_stage_in_epochs_is_known_before_it_is_made(tmp_path, monkeypatch, name):
    """A finished stage is skipped by it."""
    of_epochs = {f"stages.{name}.steps": 0, f"stages.{name}.epochs": 2.0, f"stages.{name}.init_from": ""}
    run = prepare(tiny_config(tmp_path, run=name, **of_epochs))
    assert num_steps_of(run, name) == capture_stage(monkeypatch, run, name).num_steps > 2
