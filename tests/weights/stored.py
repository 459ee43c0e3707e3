"""Weights of a tiny model as a folder holds them, in one file or in shards."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from colar_jax.model.presets import PRESETS
from colar_jax.weights.hf_config import to_hf
from colar_jax.weights.loading import load_llama
from colar_jax.weights.table import llama_weights

TIED = dataclasses.replace(PRESETS["pico"], vocab_size=37)
UNTIED = dataclasses.replace(TIED, tied_head=False, qkv_bias=True, family="qwen2")
INDEX = "model.safetensors.index.json"


def stored_arrays(config, dtype=np.float32) -> dict[str, np.ndarray]:
    """A different random array for every name of Hugging Face's."""
    rng = np.random.default_rng(0)
    named = {name: weight.shape for weight in llama_weights(config) for name in weight.names}
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in named.items()}


def make_folder(folder, config, arrays):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(to_hf(config)))
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_sharded(folder, config, arrays, num_shards=3):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(to_hf(config)))
    weight_map = {name: f"part-{number % num_shards}.safetensors" for number, name in enumerate(arrays)}
    for file in set(weight_map.values()):
        part = {name: array for name, array in arrays.items() if weight_map[name] == file}
        safetensors.numpy.save_file(part, folder / file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def expected_tree(config, arrays) -> dict:
    """The tree by NumPy: transposed, stacked."""
    tree = {}
    for weight in llama_weights(config):
        parts = [arrays[name].T if weight.is_kernel else arrays[name] for name in weight.names]
        node = tree
        for key in weight.path[:-1]:
            node = node.setdefault(key, {})
        node[weight.path[-1]] = np.stack(parts) if weight.is_stacked else parts[0]
    return tree


def assert_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def refused(folder, config=TIED):
    with pytest.raises(ValueError, match=re.escape(str(folder))) as error:
        load_llama(folder, config)
    return str(error.value)
