"""Parameters into folders, and back."""

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from weights.stored import INDEX, TIED, UNTIED, assert_equal, expected_tree, stored_arrays

from colar_jax.weights.hf_folder import save_llama
from colar_jax.weights.loading import load_llama


@pytest.mark.parametrize("max_shard_bytes", [10**9, 20_000])
@pytest.mark.parametrize("config", [TIED, UNTIED])
def test_saved_and_loaded_again(config, max_shard_bytes, tmp_path):
    arrays = stored_arrays(config)
    parameters = expected_tree(config, arrays)
    save_llama(parameters, config, tmp_path / "out", max_shard_bytes=max_shard_bytes)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    if max_shard_bytes == 10**9:
        assert files == ["config.json", "model.safetensors"]
        stored = safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")
        jax.tree.map(np.testing.assert_array_equal, stored, arrays)
    else:
        assert INDEX in files and len(files) > 3
        sizes = [path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors")]
        assert max(sizes) < 20_000 + 5_000  # a header comes on top
    assert_equal(load_llama(tmp_path / "out", config), parameters)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_export_leaves_nothing(tmp_path):
    parameters = expected_tree(TIED, stored_arrays(TIED))
    adapted = parameters | {"blocks": parameters["blocks"] | {"query": parameters["blocks"]["query"] | {"lora_a": 1}}}
    with pytest.raises(ValueError, match="no place for blocks/query/lora_a: merge adapters"):
        save_llama(adapted, TIED, tmp_path / "out")
    parameters["final_norm"]["scale"] = np.ones(31, np.float32)
    with pytest.raises(ValueError, match=r"final_norm/scale is \(31,\), the model's config says \(32,\)"):
        save_llama(parameters, TIED, tmp_path / "out")
    parameters["final_norm"]["scale"] = Unreadable()
    with pytest.raises(RuntimeError, match="half way"):
        save_llama(parameters, TIED, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


class Unreadable:
    """An array that fails when its turn comes."""

    shape = (32,)

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("half way")


def test_a_folder_with_something_in_it_is_not_written_over(tmp_path):
    (tmp_path / "kept").write_text("")
    with pytest.raises(ValueError, match="exists and is not empty"):
        save_llama(expected_tree(TIED, stored_arrays(TIED)), TIED, tmp_path)
