"""The speed as a number: what it adds, in training as in decoding, and its file."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import fast
from flax import nnx
from model.told_model import DECODE, LLAMA, model, problems
from pico_model import COMPUTE, SEPARATOR

from colar_jax.data.loader import Loader
from colar_jax.decoding.decoder import decode
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.errors import UserError
from colar_jax.methods.colar import Colar, objective_with_noise
from colar_jax.methods.method import count, decode_limits
from colar_jax.model.latent_head import LatentHead
from colar_jax.model.speed_embedding import SpeedEmbeddingConfig
from colar_jax.weights.speed_embedding_file import load_speed_embedding, save_speed_embedding


def added(numbers, **options):
    graph, parameters = model(**options)
    return nnx.merge(graph, parameters).speed(jnp.asarray(numbers, jnp.float32))


def test_at_the_start_nothing_is_added():
    assert not np.any(added([1.0, 2.5, 6.0, 0.0, -1.0], is_trained=False))


def test_speeds_auto_and_nothing():
    one, other, auto, nothing = added([1.0, 1.001, 0.0, -1.0])
    assert np.abs(one - other).max() < 0.1 < np.abs(one - added([2.0])[0]).max()  # smooth, and not constant
    np.testing.assert_array_equal(auto, model()[1]["speed"]["auto"])
    assert not nothing.any()
    assert added(np.ones((2, 3))).shape == (2, 3, LLAMA.hidden_size)


def test_the_phase_of_a_fraction_is_told():
    graph, parameters = model()
    speed = nnx.merge(graph, parameters).speed
    numbers = np.array([2.5, 2.5, 0.0, -1.0], np.float32)
    one, other = speed(numbers, np.float32(0.25)), speed(numbers, np.array([0.75, 0.25, 0.75, 0.75], np.float32))
    differ = np.abs(one - other).max(axis=1) > 0.02
    assert differ.tolist() == [True, False, False, False]
    np.testing.assert_array_equal(one, speed(numbers))  # which is what a model is told when it is asked


def test_a_file_and_back(tmp_path):
    config, parameters = SpeedEmbeddingConfig(), model()[1]["speed"]
    save_speed_embedding(parameters, config, tmp_path)
    loaded = load_speed_embedding(config, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, parameters, loaded)
    with pytest.raises(UserError, match=r"no embedding of a speed that fits: 0.weight has shape \(64, 26\), expected"):
        load_speed_embedding(SpeedEmbeddingConfig(num_waves=4), tmp_path)
    (tmp_path / "speed_embedding.safetensors").unlink()
    with pytest.raises(UserError, match="is missing"):
        load_speed_embedding(config, tmp_path)


def first_latents_in_decoding(recipe, speed):
    encoded, method = problems(), Colar(conditioning=recipe.conditioning)
    thinking = method.thinking(DECODE, SEPARATOR, greedy=True)
    limits = decode_limits(thinking, DECODE, separator_id=SEPARATOR, eos_id=1, greedy=True)
    prompts = [encoded.ask(index, recipe.told(speed)) for index in range(len(encoded))]
    packed = pack_prompts(prompts, shape_for([np.array([len(prompt) for prompt in prompts])]))
    graph, parameters = model()
    keys = jax.random.split(jax.random.key(0), len(prompts))
    run = jax.jit(lambda tree: decode(nnx.merge(graph, tree), packed, keys, thinking.think, limits, COMPUTE))
    return np.asarray(run(parameters).thoughts[:, 0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("conditioning", "auto"),
    fast([("number", 0.0), ("number", 1.0), ("both", 0.0), ("text", 0.0)], ("both", 0.0)),
)
def test_decoding_is_told_what_training_was(conditioning, auto, monkeypatch):
    """The first latent of a chain, which the opening separator predicts: in a packed training row, and in a decode."""
    latent = Colar(speeds="2.5", conditioning=conditioning, auto_probability=auto, random_phase=False)
    recipe = latent.recipe
    loader = Loader(problems(), recipe, seed=0, rows=1, row_positions=128)
    batch = loader.batch(0)
    assert batch.num_examples == len(problems())
    seen = {}

    call = LatentHead.__call__

    def spying(head, hidden):
        seen["mean"] = call(head, hidden).mean
        return call(head, hidden)

    graph, parameters = model()
    reasoner = nnx.merge(graph, parameters)
    monkeypatch.setattr(LatentHead, "__call__", spying)
    noise = np.zeros((*batch.supervised_BM.shape, LLAMA.hidden_size), np.float32)
    objective_with_noise(reasoner, batch, noise, count(batch), latent, COMPUTE)
    monkeypatch.undo()
    openings = np.flatnonzero(batch.latent_mask_BM[0] & ~np.pad(batch.latent_mask_BM[0], (1, 0))[:-1])
    trained = np.asarray(seen["mean"])[0, openings]
    decoded = first_latents_in_decoding(recipe, "auto" if auto else 2.5)
    order = np.argsort([int(np.argmin(np.abs(decoded - one).max(axis=1))) for one in trained])
    np.testing.assert_allclose(trained[order], decoded, atol=1e-4)
    if conditioning != "text":  # and the number is what makes the difference
        other = first_latents_in_decoding(dataclasses.replace(recipe, conditioning="text"), 2.5)
        assert np.abs(other - decoded).max() > 0.05


def test_a_prompt_without_its_number_is_a_bug_of_the_caller():
    graph, parameters = model()
    packed = pack_prompts([np.array([11, 12, SEPARATOR], np.int32)], shape_for([np.array([3])]))
    thinking = Colar().thinking(DECODE, SEPARATOR, greedy=True)
    limits = decode_limits(thinking, DECODE, separator_id=SEPARATOR, eos_id=1, greedy=True)
    with pytest.raises(ValueError, match="told its speed as a number, and these prompts have none"):
        decode(
            nnx.merge(graph, parameters),
            packed,
            jax.random.split(jax.random.key(0), 1),
            thinking.think,
            limits,
            COMPUTE,
        )
