"""The size of a base is that of the model that is trained."""

import dataclasses
import json

import numpy as np
import pytest
from pipeline.tiny import tiny_config
from safetensors.numpy import load_file, save_file

from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import build
from colar_jax.planning.model_shape import llama_shape
from colar_jax.weights.hf_folder import save_llama


@pytest.fixture
def base(tmp_path):
    """A base whose `config.json` ties the head to the embedding, and whose files do."""
    config = dataclasses.replace(PRESETS["pico"], vocab_size=60, tied_head=True)
    save_llama(build(config, LatentHeadConfig(8), 0)[1]["llama"], config, tmp_path / "base")
    return tmp_path / "base"


def planned(tmp_path, base):
    return llama_shape(tiny_config(tmp_path / "run", **{"model.base": str(base)}), 60)


def test_a_head_that_is_in_the_files_is_planned(tmp_path, base):
    """A config that ties it is not to be believed then: it is trained as a head of its own."""
    assert json.loads((base / "config.json").read_text())["tie_word_embeddings"]
    assert planned(tmp_path, base).tied_head
    file = base / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"lm_head.weight": 2 * tensors["model.embed_tokens.weight"].astype(np.float32)}, file)
    assert not planned(tmp_path, base).tied_head


def test_a_config_alone_is_enough(tmp_path, base):
    (base / "model.safetensors").unlink()
    assert planned(tmp_path, base).tied_head
