"""PEFT folders in and out: exactly, and one error for all that is wrong with one."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from golden.published import llama_config, lora_config, published_model, recorded
from safetensors.flax import save_file as save_jax
from safetensors.numpy import load_file, save_file

from colar_jax.model import peft
from colar_jax.model.lora import LoraConfig

LLAMA = llama_config(640)


def published_folder(folder, family="llama", **changes):
    """The recorded adapter as PEFT wrote it, with other settings."""
    adapters = recorded("adapters")
    tensors = {
        name.removeprefix(f"{family}/"): array for name, array in adapters.items() if name.startswith(f"{family}/")
    }
    save_file(tensors, folder / peft.WEIGHTS_FILE)
    config = json.loads(str(adapters[f"{family}_config_json"])) | changes
    (folder / peft.CONFIG_FILE).write_text(json.dumps(config))
    return tensors


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_what_peft_wrote_is_read_and_written_exactly(tmp_path, family):
    tensors = published_folder(tmp_path, family)
    config, adapters = peft.read_adapter(tmp_path, llama_config(640, family))
    assert config == lora_config(family) == LoraConfig(8, 32.0, ("query", "value"), 0.0)
    blocks = published_model(family=family, adapter=True)[1]["llama"]["blocks"]
    for target in config.targets:
        for leaf in "ab":
            ours = adapters["llama"]["blocks"][target]["adapter"][leaf]
            np.testing.assert_array_equal(ours, blocks[target]["adapter"][leaf])
            assert ours.dtype == np.float32

    peft.write_adapter(tmp_path / "ours", adapters, config, base_name="a/base")
    written = load_file(tmp_path / "ours" / peft.WEIGHTS_FILE)
    assert written.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(written[name], array)
    theirs, ours = (json.loads((at / peft.CONFIG_FILE).read_text()) for at in (tmp_path, tmp_path / "ours"))
    same = ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "bias", "use_rslora", "use_dora")
    assert all(ours[name] == theirs[name] for name in same)
    assert ours["base_model_name_or_path"] == "a/base"
    assert not [path for path in (tmp_path / "ours").iterdir() if "unfinished" in path.name]


def test_every_projection_goes_there_and_back(tmp_path):
    config = LoraConfig(3, 4.5, ("query", "key", "value", "out", "gate", "up", "down"), 0.1)
    rng, sizes = np.random.default_rng(0), peft._shape_of_name(LLAMA, config)
    save_file({name: rng.normal(size=shape).astype(np.float32) for name, shape in sizes.items()}, tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / peft.WEIGHTS_FILE)
    description = {"peft_type": "LORA", "r": 3, "lora_alpha": 4.5, "lora_dropout": 0.1, "target_modules": "all-linear"}
    (tmp_path / peft.CONFIG_FILE).write_text(json.dumps(description))
    read, adapters = peft.read_adapter(tmp_path, LLAMA, expected=dataclasses.replace(config, dropout=0.5))
    assert read == config
    peft.write_adapter(tmp_path / "again", adapters, config)
    again, first = load_file(tmp_path / "again" / peft.WEIGHTS_FILE), load_file(tmp_path / peft.WEIGHTS_FILE)
    assert again.keys() == first.keys() and all(np.array_equal(again[name], first[name]) for name in first)


def test_bfloat16_matrices_become_float32(tmp_path):
    tensors = published_folder(tmp_path)
    save_jax({name: jnp.asarray(array, jnp.bfloat16) for name, array in tensors.items()}, tmp_path / peft.WEIGHTS_FILE)
    _, adapters = peft.read_adapter(tmp_path, LLAMA)
    ours = adapters["llama"]["blocks"]["query"]["adapter"]["a"]
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
    np.testing.assert_array_equal(ours[1].T, np.asarray(jnp.asarray(tensors[name], jnp.bfloat16), np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_rslora": True, "bias": "all"}, "not supported: use_rslora=True; bias='all'. Merge"),
        ({"use_dora": True}, "use_dora=True"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save=\['lm_head'\]"),
        ({"rank_pattern": {"q_proj": 4}}, r"rank_pattern=\{'q_proj': 4\}"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out=True"),
        ({"layers_to_transform": [0]}, r"layers_to_transform=\[0\]"),
        ({"layers_to_transform": 0}, "layers_to_transform=0"),
        ({"peft_type": "IA3"}, "peft_type='IA3'"),
        ({"target_modules": ".*q_proj"}, r"target_modules='\.\*q_proj' \(a list of q_proj"),
        ({"target_modules": ["q_proj", "lm_head"]}, r"target_modules=\['q_proj', 'lm_head'\]"),
        ({"r": 0}, "r=0"),
        ({"r": None}, "is no description of a LoRA adapter"),
    ],
)
def test_what_we_do_not_compute_is_refused(tmp_path, changes, message):
    published_folder(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as error:
        peft.read_adapter(tmp_path, LLAMA)
    assert str(tmp_path / peft.CONFIG_FILE) in str(error.value)


def test_all_wrong_tensors_are_one_error(tmp_path):
    tensors = published_folder(tmp_path)
    prefix = "base_model.model.model.layers"
    del tensors[f"{prefix}.0.self_attn.q_proj.lora_A.weight"]
    tensors[f"{prefix}.2.self_attn.q_proj.lora_A.weight"] = np.zeros((8, 64), np.float32)
    tensors[f"{prefix}.1.self_attn.v_proj.lora_B.weight"] = np.zeros((64, 8), np.float32)
    tensors[f"{prefix}.1.self_attn.v_proj.lora_A.weight"] = np.zeros((8, 64), np.int32)
    save_file(tensors, tmp_path / peft.WEIGHTS_FILE)
    with pytest.raises(ValueError, match="adapter_model.safetensors is not of this model") as error:
        peft.read_adapter(tmp_path, LLAMA)
    assert str(error.value).splitlines()[1:] == [
        f"  missing: {prefix}.0.self_attn.q_proj.lora_A.weight [8, 64]",
        f"  {prefix}.1.self_attn.v_proj.lora_A.weight: is I32, must be one of F32, F16, BF16",
        f"  {prefix}.1.self_attn.v_proj.lora_B.weight: is [64, 8], must be [32, 8]",
        f"  unexpected: {prefix}.2.self_attn.q_proj.lora_A.weight [8, 64]",
    ]


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="is no adapter's folder: it has no adapter_config.json"):
        peft.read_adapter(tmp_path, LLAMA)
    published_folder(tmp_path)
    weights = tmp_path / peft.WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is no safetensors file, or is cut short"):
        peft.read_adapter(tmp_path, LLAMA)
    weights.unlink()
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="does not exist. adapter_model.bin is a pickle, which is not read"):
        peft.read_adapter(tmp_path, LLAMA)
    (tmp_path / peft.CONFIG_FILE).write_text("{")
    with pytest.raises(ValueError, match="is no description of a LoRA adapter"):
        peft.read_adapter(tmp_path, LLAMA)


def test_another_adapter_than_the_config_asks_for(tmp_path):
    published_folder(tmp_path)
    expected = LoraConfig(8, 16.0, ("query", "value"))
    with pytest.raises(ValueError, match="has rank 8, alpha 32, targets query,value, and the config asks for 8, 16, q"):
        peft.read_adapter(tmp_path, LLAMA, expected=expected)
