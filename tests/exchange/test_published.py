"""A checkpoint as the published code writes it: what we take over, evaluate and train on."""

import jax
import numpy as np
import pytest
from exchange.tiny_run import larger, tiny_config
from flax import traverse_util

from colar_jax.errors import UserError
from colar_jax.exchange.published import import_checkpoint, published_parameters
from colar_jax.runs import pipeline
from colar_jax.runs.run import prepare
from colar_jax.runs.starts import finished_parameters
from colar_jax.runs.sweep.sweep import sweep_run
from colar_jax.weights.latent_head_file import to_published

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")
LORA = {"rank": 3, "alpha": 12.0, "targets": "query,value"}
THEIRS = {"query": "q_proj", "value": "v_proj"}


def published(path, parameters, **others):
    """Write a `.ckpt` with the adapters and the latent head of `parameters`, under the published names."""
    state = {f"latent_policy.{name}": array for name, array in to_published(parameters["latent_head"]).items()}
    for target, theirs in THEIRS.items():
        adapter = parameters["llama"]["blocks"][target]["adapter"]
        for layer in range(2):
            module = f"llm.base_model.model.model.layers.{layer}.self_attn.{theirs}"
            state[f"{module}.lora_A.default.weight"] = np.asarray(adapter["a"][layer]).T
            state[f"{module}.lora_B.default.weight"] = np.asarray(adapter["b"][layer]).T
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in (state | others).items()}
    torch.save({"state_dict": tensors, "global_step": 7}, path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return prepare(tiny_config(tmp_path_factory.mktemp("run"), lora=LORA))


def test_adapters_and_head_are_taken_and_the_base_stays(run, tmp_path):
    trained = larger(jax.device_get(run.initial_parameters()))
    read = published_parameters(run, published(tmp_path / "a.ckpt", trained), embed_std=0.018)
    flat, wanted = traverse_util.flatten_dict(read), traverse_util.flatten_dict(trained)
    initial = traverse_util.flatten_dict(run.initial_parameters())
    for path, value in flat.items():
        if path[-1] == "embed_std":
            assert value == np.float32(0.018)
        else:
            is_taken = "adapter" in path or path[0] == "latent_head"
            np.testing.assert_array_equal(value, wanted[path] if is_taken else initial[path])
    measured = published_parameters(run, tmp_path / "a.ckpt")["latent_head"]["embed_std"]
    assert measured == run.initial_parameters()["latent_head"]["embed_std"]


def test_latents_without_their_head_are_refused(run, tmp_path):
    tensors = torch.load(published(tmp_path / "a.ckpt", run.initial_parameters()), weights_only=True)["state_dict"]
    words_alone = {name: tensor for name, tensor in tensors.items() if "latent_policy" not in name}
    torch.save({"state_dict": words_alone}, tmp_path / "cot.ckpt")
    with pytest.raises(UserError, match="cot.ckpt holds no latent head, and the stage draws its latents from one"):
        import_checkpoint(run, "colar", tmp_path / "cot.ckpt")


def test_told_the_speed_as_a_number_too_it_answers_as_before(run, tmp_path):
    """What a new embedding of the speed adds is nothing, until it is trained."""
    trained = larger(jax.device_get(run.initial_parameters()))
    published(tmp_path / "a.ckpt", trained)
    told = prepare(tiny_config(tmp_path / "told", lora=LORA, latent={"conditioning": "both"}))
    outcomes = [
        (one.evaluator("colar", [one.val], (speed,)).run(parameters, one.val, speed, seed=None), "speed" in parameters)
        for one, speed in ((run, 2.0), (told, 2.0))
        if (parameters := published_parameters(one, tmp_path / "a.ckpt"))
    ]
    (plain, has_none), (with_number, has_one) = outcomes
    assert not has_none and has_one
    assert plain.texts == with_number.texts and plain.lengths_N.tolist() == with_number.lengths_N.tolist()


def test_it_evaluates_and_trains_on(run, tmp_path):
    trained = larger(jax.device_get(run.initial_parameters()))
    import_checkpoint(run, "colar", published(tmp_path / "a.ckpt", trained))
    [before] = sweep_run(run)
    assert before.num_questions == 4
    start = finished_parameters(run, run.workdir / "colar")
    np.testing.assert_array_equal(start["latent_head"]["mean"]["kernel"], trained["latent_head"]["mean"]["kernel"])
    pipeline.train_stage(run, "colar")
    after = finished_parameters(run, run.workdir / "colar")
    moved = np.abs(after["latent_head"]["mean"]["kernel"] - start["latent_head"]["mean"]["kernel"]).max()
    assert 0 < moved < 1e-3  # two steps of the default learning rate, from there
    with pytest.raises(ValueError, match="has checkpoints already"):
        import_checkpoint(run, "colar", tmp_path / "a.ckpt")


def test_what_does_not_fit(run, tmp_path):
    trained = larger(jax.device_get(run.initial_parameters()))
    extra = {"llm.base_model.model.model.layers.2.self_attn.q_proj.lora_A.default.weight": np.zeros((3, 32), "f4")}
    with pytest.raises(ValueError, match=r"unexpected: base_model\.model\.model\.layers\.2\.self_attn\.q_proj"):
        published_parameters(run, published(tmp_path / "a.ckpt", trained, **extra))
    whole = prepare(tiny_config(tmp_path / "whole"))
    with pytest.raises(ValueError, match=r"set model\.lora\.rank"):
        published_parameters(whole, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="--stage=cot is no stage of this run: colar"):
        import_checkpoint(run, "cot", tmp_path / "a.ckpt")
