"""config.json of both layouts, with what it leaves out, and everything that we refuse in it."""

import dataclasses
import json

import pytest
from golden.base_folders import QWEN2
from golden.published import llama_config, recorded

from colar_jax.model.hf_config import carried_over, from_hf, read_config, to_hf
from colar_jax.model.presets import PRESETS, LlamaConfig, RopeScaling

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 40,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
}
QWEN = LLAMA | {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}


def without(raw, *names):
    return {name: value for name, value in raw.items() if name not in names}


@pytest.mark.parametrize("key", ["config_json", "config_json_transformers5"])
def test_the_recorded_llama_in_both_layouts(key):
    assert from_hf(json.loads(str(recorded("weights")[key]))) == llama_config(640)


def test_the_recorded_qwen2_in_both_layouts():
    expected = LlamaConfig(640, 64, 2, 4, 2, 16, 128, rope_theta=10000.0, tied_head=False, qkv_bias=True)
    assert read_config(QWEN2) == expected
    assert from_hf(json.loads((QWEN2 / "config_transformers5.json").read_text())) == expected


def test_what_a_config_leaves_out():
    raw = without(LLAMA, "architectures", "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "rope_theta")
    config = from_hf(without(raw, "tie_word_embeddings"))
    assert config == LlamaConfig(100, 24, 3, 6, 6, 4, 40, rope_theta=10000.0, norm_eps=1e-6, tied_head=False)
    assert from_hf(LLAMA | {"num_key_value_heads": None, "head_dim": None}).num_kv_heads == 6
    assert from_hf(LLAMA).head_dim == 8


@pytest.mark.parametrize(
    "raw",
    [
        LLAMA | {"rope_scaling": LLAMA3},
        LLAMA | {"rope_scaling": without(LLAMA3, "rope_type") | {"type": "llama3"}},
        without(LLAMA, "rope_theta") | {"rope_parameters": LLAMA3 | {"rope_theta": 500000.0}},
    ],
)
def test_llama3_rope(raw):
    config = from_hf(raw)
    assert (config.rope_theta, config.rope_scaling) == (500000.0, RopeScaling(8.0, 1.0, 4.0, 1024))


def test_a_qwen2_that_could_slide_but_does_not():
    """As DeepSeek-R1-Distill-Qwen-1.5B has it."""
    assert from_hf(QWEN | {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 21}).qkv_bias
    assert from_hf(QWEN | {"sliding_window": None, "layer_types": ["full_attention"] * 3}).qkv_bias


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (LLAMA | {"model_type": "mistral"}, "model_type='mistral' .* not supported: model.base takes llama .*, qwen2"),
        (LLAMA | {"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        (without(LLAMA, "model_type"), "model_type=None"),
        (LLAMA | {"hidden_act": "gelu"}, "hidden_act='gelu': only silu"),
        (LLAMA | {"attention_bias": True}, "attention_bias=true"),
        (LLAMA | {"mlp_bias": True}, "mlp_bias=true"),
        (LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type='linear'"),
        (LLAMA | {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type='yarn'"),
        (LLAMA | {"rope_scaling": without(LLAMA3, "factor")}, "needs a number factor, not None"),
        (LLAMA | {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        (LLAMA | {"quantization_config": {"bits": 4}}, "quantization_config"),
        (QWEN | {"use_sliding_window": True, "sliding_window": 64}, "use_sliding_window=true"),
        (QWEN | {"layer_types": ["full_attention", "sliding_attention"]}, "use_sliding_window=true"),
        (LLAMA | {"hidden_size": 0}, "hidden_size=0: expected a whole number above 0"),
        (without(LLAMA, "vocab_size"), "vocab_size=None"),
        (without(LLAMA, "head_dim") | {"hidden_size": 25}, "hidden_size=25 is no multiple of num_attention_heads=6"),
        (LLAMA | {"num_key_value_heads": 4}, "num_kv_heads=4 does not divide num_heads=6"),
        (LLAMA | {"head_dim": 7}, "head_dim=7 is odd"),
    ],
)
def test_what_is_refused(raw, told):
    with pytest.raises(ValueError, match=f"(?s)somewhere.*{told}"):
        from_hf(raw, "somewhere")


def test_all_faults_are_one_error():
    raw = QWEN | {"hidden_act": "relu", "use_sliding_window": True, "rope_scaling": {"rope_type": "yarn"}}
    with pytest.raises(ValueError, match=r"(?s)hidden_act.*use_sliding_window.*rope_type='yarn'"):
        from_hf(raw)


def test_no_config_or_no_json(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"holds a list"):
        read_config(tmp_path)


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_written_is_read_again(preset):
    config = dataclasses.replace(PRESETS[preset], tied_head=preset != "nano")
    raw = json.loads(json.dumps(to_hf(config)))
    assert from_hf(raw) == config
    assert raw["model_type"] == ("qwen2" if config.qkv_bias else "llama")
    assert "rope_parameters" not in raw and "dtype" not in raw


def test_facts_of_the_base_are_handed_on():
    raw = LLAMA | {"eos_token_id": [7, 8], "bos_token_id": None, "max_position_embeddings": 777, "use_cache": False}
    written = to_hf(from_hf(raw), carried=carried_over(raw))
    assert (written["eos_token_id"], written["max_position_embeddings"]) == ([7, 8], 777)
    assert "bos_token_id" not in written
