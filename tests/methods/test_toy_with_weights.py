"""A method with a setting and weights of its own, written here: it registers, trains, saves, resumes, exports, decodes.

Nothing of the package changes.

"Gated": every embedding goes through two matrices, and so does each hidden state that is fed as a thought.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from pipeline.tiny import tiny_config_dict
from safetensors.numpy import load_file, save_file

from colar_jax.config import resolve, stage_defaults
from colar_jax.data.prompts import AUTO_SPEED
from colar_jax.data.recipe import Recipe
from colar_jax.decoding.thinking import Thought
from colar_jax.errors import UserError
from colar_jax.exchange.folder import export_stage
from colar_jax.methods import METHODS
from colar_jax.methods.method import Method, Thinking, count, embed, language_loss, supervised_hidden
from colar_jax.metrics import Metric
from colar_jax.model.linear import Linear
from colar_jax.model.reasoner import OwnModule
from colar_jax.runs import pipeline
from colar_jax.runs.run import prepare
from colar_jax.runs.run_folder import saved_config
from colar_jax.runs.starts import finished_parameters


@dataclasses.dataclass(frozen=True)
class GateSizes:
    inner: int


class Gate(nnx.Module):
    def __init__(self, llama, sizes, *, rngs):
        self.into = Linear(llama.hidden_size, sizes.inner, ("embed", "gate"), bias=False, rngs=rngs)
        self.back = Linear(sizes.inner, llama.hidden_size, ("gate", "embed"), bias=False, rngs=rngs)

    def __call__(self, x):
        return x + self.back(self.into(x))


def save_gate(parameters, sizes, folder):
    arrays = {name: np.asarray(parameters[name]["kernel"]) for name in ("into", "back")}
    save_file(arrays, folder / "gate.safetensors")


@dataclasses.dataclass(frozen=True)
class Gated(Method):
    group = "gated"
    trains = ("llama", "gate")

    num_thoughts: int = 2
    inner: int = 4

    @property
    def modules(self):
        return {"gate": OwnModule(Gate, GateSizes(self.inner), save_gate)}

    @property
    def recipe(self) -> Recipe:
        return Recipe(speeds=(1.0,), prompt_speed=AUTO_SPEED)

    def objective(self, model, batch, keys_B, counts, compute):
        hidden_BMD = supervised_hidden(model, model.gate(embed(model, batch, compute)), batch, compute, keys_B)
        loss, right = language_loss(model, hidden_BMD, batch.label_ids_BM, compute)
        own = count(batch)
        metrics = {"cross_entropy": Metric(loss, own.labels), "label_accuracy": Metric(right, own.labels)}
        return loss / counts.labels, metrics

    def thinking(self, decode, separator_id, *, greedy):
        def think(model, hidden_BD, keys_B):
            zeros_B = jnp.zeros(len(hidden_BD), jnp.float32)
            embed_BD = model.gate(hidden_BD)
            return Thought(embed_BD, embed_BD, zeros_B, jnp.ones(len(hidden_BD), bool), zeros_B)

        return Thinking(think, max_thoughts=self.num_thoughts, min_thoughts=self.num_thoughts)


def config_of(workdir, **settings):
    config = tiny_config_dict(workdir, run="gated")
    config.stages.gated = stage_defaults(method="gated", steps=3, rows=2, row_positions=160, log_every=1, save_every=1)
    config.stages.gated.gated.update(num_thoughts=3, **settings)
    return resolve(config)


@pytest.mark.slow
def test_it_trains_saves_resumes_exports_and_decodes(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "gated", Gated)
    config = config_of(tmp_path / "run")
    (greedy, _) = pipeline.train(config)
    assert (greedy.stage, greedy.method) == ("gated", "gated") and (greedy.lengths_SN == 3).all()
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["stages"]["gated"]
    assert saved["gated"] == {"num_thoughts": 3, "inner": 4} and "latent" not in saved
    assert resolve(saved_config(tmp_path / "run")).stages["gated"].bound_method == Gated(num_thoughts=3)
    pipeline.train(config)  # the same command again: there is nothing to do, and the checkpoint is its own
    run = prepare(config)
    trained = finished_parameters(run, tmp_path / "run" / "gated")
    changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), trained["gate"], run.initial_parameters()["gate"])
    assert all(jax.tree.leaves(changed))
    folder = export_stage(run, "gated", tmp_path / "out")
    written = load_file(folder / "gate.safetensors")
    np.testing.assert_array_equal(written["into"], trained["gate"]["into"]["kernel"])
    with pytest.raises(UserError, match="gated.inner was 4, is 8"):
        pipeline.train(config_of(tmp_path / "run", inner=8))


def test_two_stages_with_one_module_of_two_sizes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "gated", Gated)
    config = tiny_config_dict(tmp_path / "run", run="a,b")
    config.stages.a, config.stages.b = stage_defaults(method="gated"), stage_defaults(method="gated")
    config.stages.b.gated.inner = 5
    with pytest.raises(UserError, match="stages.a and stages.b each have a part 'gate' of the model, and they differ"):
        prepare(resolve(config))


def test_another_methods_settings_are_an_error_that_says_which_are_its_own(tmp_path):
    config = tiny_config_dict(tmp_path / "run")
    config.stages.cot.latent = {"weight": 2.0}
    with pytest.raises(UserError, match=r"stages.cot.latent: the stage's method is 'cot', and it has no settings"):
        resolve(config)
    config = tiny_config_dict(tmp_path / "run")
    config.stages.colar.codi = {"num_latents": 3}
    with pytest.raises(UserError, match=r"its settings are config.stages.colar.latent"):
        resolve(config)
