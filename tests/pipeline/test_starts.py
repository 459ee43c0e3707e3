"""What a stage starts from: the ladder of its own checkpoint, `init_from`, the stage before it, the initial weights."""

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pipeline.tiny import NUM_STEPS, Captured, capture_stage, captured_by, tiny_config, tiny_config_dict

from colar_jax.config import resolve, stage_defaults
from colar_jax.errors import UserError
from colar_jax.methods import METHODS
from colar_jax.runs import pipeline
from colar_jax.runs.run import prepare
from colar_jax.runs.run_folder import write_config
from colar_jax.runs.start_rules import _has_such_latents
from colar_jax.runs.starts import adopt, start_parameters
from colar_jax.training.checkpoints import Checkpoints
from colar_jax.training.optimizer import make_optimizer
from colar_jax.training.saved_state import saved_tree
from colar_jax.training.state import initial_state, join, partition


def starts_with(monkeypatch, run, name: str) -> dict:
    """The parameters with which a stage takes its first step."""

    def step(state, frozen, batch, key):
        raise Captured(join(state.trainable, frozen))

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "make_train_step", lambda *arguments: step)
        return captured_by(run, name)


def parameters_of(run, value: float, embed_std: float) -> dict:
    """Parameters that can be told apart: `value` everywhere, but in the embedding matrix -value, 0, value, ..."""
    parameters = jax.tree.map(lambda leaf: jnp.full_like(leaf, value), run.initial_parameters())
    embedding = parameters["llama"]["embedding"]
    parameters["llama"]["embedding"] = value * jnp.sign(jnp.arange(embedding.size) % 3 - 1.0).reshape(embedding.shape)
    parameters["latent_head"]["embed_std"] = jnp.float32(embed_std)
    return parameters


def save_stage(folder: Path, parameters: dict, accuracies: dict[int, float], identity: dict) -> None:
    """A stage's checkpoints: the best one has `parameters`, the others zeros."""
    best = max(accuracies, key=accuracies.get)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        for step, accuracy in accuracies.items():
            tree = parameters if step == best else jax.tree.map(jnp.zeros_like, parameters)
            checkpoints.save(step, {"parameters": tree}, metrics={"accuracy": accuracy}, identity=identity)


def told(parameters: dict) -> tuple[float, float]:
    """What `parameters_of` was told."""
    return float(parameters["llama"]["final_norm"]["scale"][0]), float(parameters["latent_head"]["embed_std"])


@pytest.mark.slow
def test_the_ladder_of_starts(tmp_path, monkeypatch):
    config = tiny_config_dict(tmp_path / "run", run="cot,colar,more,words,no_cot")
    common = dict(steps=NUM_STEPS, rows=2, row_positions=160)
    config.stages.more = stage_defaults(method="colar", **common)
    config.stages.words = stage_defaults(method="cot", **common)
    run = prepare(resolve(config))
    calibrated = np.sqrt(2 / 3)  # the standard deviation of -1, 0, 1, ...

    # Nothing before it: the model's initial weights, calibrated to their own embedding matrix.
    for actual, expected in zip(
        *map(jax.tree.leaves, (starts_with(monkeypatch, run, "cot"), run.initial_parameters())), strict=True
    ):
        np.testing.assert_array_equal(actual, expected)
    initial = run.initial_parameters()["llama"]["embedding"]
    assert float(run.initial_parameters()["latent_head"]["embed_std"]) == pytest.approx(
        float(jnp.std(initial)), rel=1e-6
    )

    def finish(name: str, parameters: dict, accuracies: dict[int, float]) -> None:
        save_stage(run.workdir / name, parameters, accuracies, capture_stage(monkeypatch, run, name).identity)

    # The stage before it, at its best. The first latent stage calibrates, and those after it keep what it was trained
    # with.
    finish("cot", parameters_of(run, 2.0, 0.5), {3: 0.1, 6: 0.9, 7: 0.5})
    assert told(starts_with(monkeypatch, run, "colar")) == pytest.approx((2.0, 2 * calibrated), rel=1e-3)
    finish("colar", parameters_of(run, 3.0, 0.25), {7: 0.0})
    assert told(starts_with(monkeypatch, run, "more")) == (3.0, 0.25)
    finish("more", parameters_of(run, 4.0, 0.125), {7: 0.0})
    assert told(starts_with(monkeypatch, run, "words")) == (4.0, 0.125)

    # `init_from` goes before the stage before it: a stage of this run, or a stage's folder of another.
    assert told(starts_with(monkeypatch, run, "no_cot")) == (2.0, 0.5)
    for source, expected in (("cot", (2.0, 2 * calibrated)), ("colar", (3.0, 0.25))):
        elsewhere = Path(shutil.copytree(run.workdir / source, tmp_path / "elsewhere" / source))
        config.stages.more.init_from = str(elsewhere)
        config.workdir = str(tmp_path / "other")
        other = dataclasses.replace(run, config=resolve(config), workdir=Path(config.workdir))
        assert told(starts_with(monkeypatch, other, "more")) == pytest.approx(expected, rel=1e-3), source

    # Its own latest checkpoint goes before everything, the best one included.
    stage = capture_stage(monkeypatch, run, "no_cot")
    trainable, frozen = partition(parameters_of(run, 5.0, 0.5), ("llama",))
    state = initial_state(trainable, make_optimizer(stage.config.optimizer, stage.num_steps, run.logical_axes))
    with Checkpoints(stage.folder / "checkpoints") as checkpoints:
        zeros = jax.tree.map(jnp.zeros_like, saved_tree(state, frozen, stage.config))
        checkpoints.save(3, zeros, metrics={"accuracy": 1.0}, identity=stage.identity)
        checkpoints.save(4, saved_tree(state, frozen, stage.config), metrics=None, identity=stage.identity)
    assert told(starts_with(monkeypatch, run, "no_cot")) == (5.0, 0.5)


def test_a_policy_is_told_its_speed_as_it_has_learned_it(tmp_path):
    """The smoke run's stages are told in both ways: rewards for text alone would be for another policy."""
    run = prepare(tiny_config(tmp_path / "run"))
    adopt(run, "colar", run.initial_parameters())
    settings = {"run": "colar,rl", "stages.rl.init_from": "colar"}
    start_parameters(prepare(tiny_config(tmp_path / "run", **settings)), "rl")
    other = prepare(tiny_config(tmp_path / "run", **settings, **{"stages.rl.latent.conditioning": "text"}))
    with pytest.raises(UserError, match="stages.rl.latent.conditioning='text', and .*colar was trained with 'both'"):
        start_parameters(other, "rl")


def test_a_policy_that_has_read_its_speed_is_not_asked_without_a_word_of_it(tmp_path):
    """An embedding that was never trained says nothing."""
    text = {"stages.colar.latent.conditioning": "text", "stages.rl.latent.conditioning": "text"}
    run = prepare(tiny_config(tmp_path / "run", **text))
    adopt(run, "colar", run.initial_parameters())
    for conditioning, is_refused in (("text", False), ("both", False), ("number", True)):
        settings = {"run": "rl", "stages.rl.init_from": str(tmp_path / "run" / "colar")}
        told = {"stages.colar.latent.conditioning": conditioning, "stages.rl.latent.conditioning": conditioning}
        other = prepare(tiny_config(tmp_path / conditioning, **settings, **told))
        refusal = pytest.raises(UserError, match="conditioning='number', and .*colar was trained with 'text'")
        with refusal if is_refused else contextlib.nullcontext():
            start_parameters(other, "rl")


def test_what_is_built_on_colar_says_under_its_own_name_how_it_was_told(tmp_path):
    config = tiny_config_dict(tmp_path / "run", run="sim_colar")
    config.stages.sim_colar = stage_defaults(method="sim_colar", steps=NUM_STEPS)
    config.stages.sim_colar.sim_colar.update(speeds="2,5", conditioning="number")
    run = prepare(resolve(config))
    adopt(run, "sim_colar", run.initial_parameters())
    settings = {"run": "rl", "stages.rl.init_from": str(tmp_path / "run" / "sim_colar")}
    for conditioning in ("text", "both"):
        other = tiny_config(tmp_path / "rl", **settings, **{"stages.rl.latent.conditioning": conditioning})
        with pytest.raises(
            UserError, match=f"conditioning='{conditioning}', and .*sim_colar was trained with 'number'"
        ):
            start_parameters(prepare(other), "rl")


@pytest.mark.parametrize(
    ("source", "has_learned"), [("adaptive", True), ("codi", False), ("kava", False), ("cot", False)]
)
def test_only_what_has_learned_to_stop_is_a_policy_that_stops(source, has_learned):
    """CODI's latents are those of adaptive latents, but it has no choice between going on and stopping."""
    assert _has_such_latents(METHODS["adaptive"](), METHODS[source]()) == has_learned


def test_rewards_do_not_move_latents_to_another_timeline(tmp_path):
    run = prepare(tiny_config(tmp_path / "run"))
    adopt(run, "colar", run.initial_parameters())
    settings = {"run": "rl", "stages.rl.init_from": str(tmp_path / "run" / "colar")}
    tokens = {f"stages.{name}.latent.timeline": "tokens" for name in ("colar", "rl")}
    other = prepare(tiny_config(tmp_path / "other", **settings, **tokens))
    with pytest.raises(UserError, match="stages.rl.latent.timeline='tokens', and .*colar was trained with 'latents'"):
        start_parameters(other, "rl")


def test_a_source_that_was_not_run_is_an_error(tmp_path, monkeypatch):
    run = prepare(tiny_config(tmp_path / "run"))
    with pytest.raises(ValueError, match="run/cot has no checkpoints: it is no folder of a stage that was run"):
        starts_with(monkeypatch, run, "colar")
    Checkpoints(run.workdir / "cot" / "checkpoints").__exit__()
    with pytest.raises(ValueError, match="run/cot has no finished checkpoint"):
        starts_with(monkeypatch, run, "colar")


def test_a_source_whose_ids_are_other_words_is_refused(tmp_path):
    """Its shapes are the same."""
    run = prepare(tiny_config(tmp_path / "run"))
    adopt(run, "cot", run.initial_parameters())
    other = prepare(tiny_config(tmp_path / "other", **{"stages.colar.init_from": str(tmp_path / "run" / "cot")}))
    start_parameters(other, "colar")
    path = tmp_path / "run" / "tokenizer" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    special = {token["id"] for token in tokenizer["added_tokens"]}
    words = [word for word, number in vocabulary.items() if number not in special]
    vocabulary |= dict(zip(words, [vocabulary[word] for word in words[1:] + words[:1]], strict=True))
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"run/cot was trained with another tokenizer \(.*run/tokenizer\): of the"):
        start_parameters(other, "colar")
    with pytest.raises(UserError, match="was trained with another tokenizer"):  # in its own folder, too
        start_parameters(run, "colar")


def test_another_config_in_a_folder_says_what_is_lost(tmp_path, caplog):
    run = prepare(tiny_config(tmp_path / "run"))
    adopt(run, "cot", run.initial_parameters())
    assert not caplog.messages or "another config" not in caplog.text
    config = tiny_config_dict(tmp_path / "run", run="colar")
    del config.stages.cot
    write_config(prepare(resolve(config)))
    assert "run has been trained in by another config: cot, which this one does not define, cannot be" in caplog.text
