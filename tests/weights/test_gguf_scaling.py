"""The scalings of rotary embeddings that a GGUF file may have, as llama.cpp reads them."""

import numpy as np
import pytest
from weights.gguf_files import random_arrays, tiny, write_gguf

from colar_jax.errors import UserError
from colar_jax.model.rope import inverse_frequencies
from colar_jax.model.rope_scaling import LinearScaling, Llama3Scaling, YarnScaling
from colar_jax.weights.hf_config import read_config

pytest.importorskip("gguf")


def test_the_scaling_of_llama_3_comes_back(tmp_path):
    """llama.cpp keeps it as what it divides each frequency by."""
    for scaling in (Llama3Scaling(), Llama3Scaling(factor=8.0)):
        config = tiny("llama", rope_theta=500_000.0, rope_scaling=scaling)
        plain, scaled = (inverse_frequencies(16, 500_000.0, of) for of in (None, scaling))
        extra = {"rope_freqs.weight": (plain / scaled).astype(np.float32)}
        assert read_config(write_gguf(tmp_path / "a.gguf", config, random_arrays(config), extra=extra)) == config
    extra = {"rope_freqs.weight": np.linspace(1, 9, 8, dtype=np.float32)}
    path = write_gguf(tmp_path / "b.gguf", config, random_arrays(config), extra=extra)
    with pytest.raises(UserError, match=r"b\.gguf: rope_freqs\.weight is not of Llama 3's scaling"):
        read_config(path)


SCALINGS = [
    ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, LinearScaling(4.0)),
    ({"rope.scaling.factor": 4.0}, LinearScaling(4.0)),  # linear, unless a file says another
    ({"rope.scale_linear": 4.0}, LinearScaling(4.0)),  # its old name
    ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, None),
    ({"rope.scaling.type": "linear", "rope.scaling.finetuned": True}, None),
    ({"rope.scale_linear": 1.0}, None),
]


@pytest.mark.parametrize(("says", "scaling"), SCALINGS)
def test_a_scaling_is_read_as_llama_cpp_reads_it(says, scaling, tmp_path):
    config = tiny("llama", rope_scaling=scaling)
    assert read_config(write_gguf(tmp_path / "a.gguf", config, random_arrays(config), says=says)) == config


@pytest.mark.parametrize("name", ["attn_factor", "yarn_log_multiplier", "yarn_beta_fast"])
def test_a_scaling_with_more_than_is_read_is_refused(name, tmp_path):
    config = tiny("llama")
    says = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64}
    path = write_gguf(tmp_path / "a.gguf", config, random_arrays(config), says=says)
    assert isinstance(read_config(path).rope_scaling, YarnScaling)
    path = write_gguf(tmp_path / "b.gguf", config, random_arrays(config), says=says | {f"rope.scaling.{name}": 0.5})
    with pytest.raises(UserError, match=rf"b\.gguf: rope\.scaling\.{name} is set, and a scaling with it is not supp"):
        read_config(path)
