"""Runs with adapters, tiny ones: what they train and save, that stopping one changes nothing, and whom they refuse."""

import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util
from pipeline.tiny import tiny_config, untimed_metrics, without_times

from colar_jax.model.lora import LoraConfig, split_base
from colar_jax.report.files import read_report
from colar_jax.runs import pipeline
from colar_jax.runs.identity import identity_of
from colar_jax.runs.run import prepare
from colar_jax.runs.starts import finished_parameters, start_parameters
from colar_jax.training.checkpoints import Checkpoints
from colar_jax.training.interruption import Interrupted
from colar_jax.weights import peft

pytestmark = pytest.mark.slow  # CI runs them

STAGES = ("cot", "colar")
LORA = {
    "run": "cot,colar",
    "model.lora.rank": 4,
    "model.lora.dropout": 0.25,
    "model.lora.targets": "v_proj,q_proj",
    "model.base_dtype": "bfloat16",
    "eval.seeds": 0,
    **{f"stages.{name}.latent.conditioning": "text" for name in ("colar", "rl")},  # no module besides the two heads
    **{f"stages.{name}.steps": 4 for name in STAGES},
    **{f"stages.{name}.{field}": 0 for name in STAGES for field in ("eval_every", "save_every")},
}


def lora_config(workdir, **overrides):
    return tiny_config(workdir, **(LORA | overrides))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a run that was never stopped. Not to be changed."""
    workdir = tmp_path_factory.mktemp("lora") / "run"
    pipeline.train(lora_config(workdir))
    return workdir


def flat(tree) -> dict:
    return traverse_util.flatten_dict(tree)


def saved_paths(workdir: Path, name: str) -> dict[str, tuple]:
    """The shapes of all that a stage's latest checkpoint holds."""
    with Checkpoints(workdir / name / "checkpoints") as checkpoints:
        saved = checkpoints._metadata(checkpoints.latest_step()).metadata
        return {path: tuple(leaf.shape) for path, leaf in saved.items()}


def test_a_checkpoint_has_no_base(finished):
    for name in STAGES:
        saved = saved_paths(finished, name)
        parameters = {path for path in saved if path.startswith("parameters/")}
        adapters = {
            f"parameters/llama/blocks/{target}/adapter/{leaf}" for target in ("query", "value") for leaf in "ab"
        }
        assert adapters <= parameters and "parameters/latent_head/embed_std" in parameters
        assert all(path in adapters or path.startswith("parameters/latent_head/") for path in parameters)
        moments = {path for path in saved if "/mu/" in path}
        assert len(moments) == (4 if name == "cot" else len(parameters) - 1)


def test_only_adapters_and_the_latent_head_change(finished):
    run = prepare(lora_config(finished))
    own, base = split_base(run.initial_parameters())
    for name in STAGES:
        after_own, after_base = split_base(finished_parameters(run, finished / name))
        for path, leaf in flat(after_base).items():
            assert leaf is flat(base)[path] and leaf.dtype == "bfloat16", "the base is held once, and never written"
        for path, leaf in flat(after_own).items():
            is_trained = "adapter" in path or (name == "colar" and path[-1] != "embed_std")
            assert np.any(leaf != flat(own)[path]) == is_trained, path


def test_a_stage_goes_on_from_the_adapters_of_the_one_before(finished):
    run = prepare(lora_config(finished))
    start, before = (start_parameters(run, "colar"), finished_parameters(run, finished / "cot"))
    jax.tree.map(np.testing.assert_array_equal, split_base(start)[0], split_base(before)[0])


def test_a_run_that_is_stopped_goes_on_to_the_same_end(tmp_path, monkeypatch, finished):
    """Told to end in the second step of each stage."""
    workdir, make = tmp_path / "run", pipeline.make_train_step

    def make_stopping(*arguments):
        step = make(*arguments)

        def stopping(state, *others):
            if int(state.step) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(state, *others)

        return stopping

    monkeypatch.setattr(pipeline, "make_train_step", make_stopping)
    for _ in STAGES:
        with pytest.raises(Interrupted):
            pipeline.train(lora_config(workdir))
    pipeline.train(lora_config(workdir))
    for name in STAGES:
        trees = []
        for folder in (workdir, finished):
            with Checkpoints(folder / name / "checkpoints") as checkpoints:
                abstract = {
                    path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
                    for path, leaf in checkpoints._metadata(4).metadata.items()
                }
                trees.append(jax.device_get(checkpoints.restore(4, abstract)))
        assert trees[0].keys() == trees[1].keys()
        for path, leaf in trees[0].items():
            assert np.asarray(leaf).tobytes() == np.asarray(trees[1][path]).tobytes(), (name, path)
        assert untimed_metrics(workdir / name) == untimed_metrics(finished / name)
    assert (workdir / "samples.jsonl").read_text() == (finished / "samples.jsonl").read_text()
    assert without_times(read_report(workdir)) == without_times(read_report(finished))


def test_other_adapters_are_refused(tmp_path, finished):
    for overrides, message in (
        ({"model.lora.rank": 0, "model.base_dtype": "float32"}, "was trained with adapters, and model.lora.rank=0"),
        ({"seed": 5}, "another base.*seed was 0, is 5"),
        ({"model.lora.rank": 8}, "rank was 4, is 8"),
        ({"model.lora.alpha": 8.0}, "alpha was 32.0, is 8.0"),
        ({"model.lora.targets": "query"}, "targets was 'query,value', is 'query'"),
    ):
        run = prepare(lora_config(tmp_path / "other", **{"stages.colar.init_from": str(finished / "cot")} | overrides))
        with pytest.raises(ValueError, match=message):
            start_parameters(run, "colar")
    # In its own folder, before anything is trained or written.
    with pytest.raises(ValueError, match=r"other settings.*model.lora.rank was 4, is 0"):
        pipeline.train(lora_config(finished, **{"model.lora.rank": 0, "model.base_dtype": "float32"}))


def test_a_checkpoint_of_everything_is_no_start_for_adapters(tmp_path):
    full = prepare(tiny_config(tmp_path / "full", run="cot"))
    with Checkpoints(full.workdir / "cot" / "checkpoints") as checkpoints:
        identity = identity_of(full, "cot")
        checkpoints.save(1, {"parameters": full.initial_parameters()}, metrics=None, identity=identity)
    assert not any("lora" in name for name in identity), "as before there were adapters"
    run = prepare(lora_config(tmp_path / "other", **{"stages.colar.init_from": str(full.workdir / "cot")}))
    with pytest.raises(ValueError, match="was trained without adapters, and model.lora.rank=4 here.*model.base"):
        start_parameters(run, "colar")


def test_a_peft_folder_to_start_from(tmp_path, finished):
    run = prepare(lora_config(finished))
    trained = finished_parameters(run, finished / "colar")
    folder, config = tmp_path / "adapter", LoraConfig(4, 32.0, ("query", "value"))
    peft.write_adapter(folder, trained, config)
    started = prepare(lora_config(tmp_path / "run", **{"model.lora.init_from": str(folder)}))
    for path, leaf in flat(started.initial_parameters()["llama"]).items():
        np.testing.assert_array_equal(leaf, flat(trained["llama"])[path])
    with pytest.raises(ValueError, match="has rank 4, alpha 32, targets query,value, and the config asks for 8"):
        prepare(lora_config(tmp_path / "run", **{"model.lora.init_from": str(folder), "model.lora.rank": 8}))
    shutil.rmtree(folder)  # what is trained has the adapters that it started with
    prepare(lora_config(tmp_path / "run", **{"model.lora.init_from": str(folder)}), for_training=False)
    with pytest.raises(ValueError, match=r"adapter"):
        prepare(lora_config(tmp_path / "run", **{"model.lora.init_from": str(folder)}))
