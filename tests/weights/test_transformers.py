"""Random small models through transformers' save_pretrained, our loader, our folder, and from_pretrained again."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden.published import largest_difference

from colar_jax.model.execution import Execution
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.reasoner import build_on
from colar_jax.model.visibility import packed
from colar_jax.weights import hf_config
from colar_jax.weights.hf_folder import save_llama
from colar_jax.weights.loading import load_llama

NUM_MODELS = 20
TOLERANCE = 1e-4  # of the largest logit


def drawn_settings(number: int) -> tuple[str, dict]:
    """A model_type, and settings for its config class; every choice is drawn, and every one occurs."""
    rng = np.random.default_rng((3, number))
    kind = ("llama", "qwen2")[number % 2]
    num_heads = int(rng.choice([2, 4, 6]))
    head_dim = int(rng.choice([4, 8, 10]))
    is_square = bool(rng.integers(2))
    settings = {
        "vocab_size": int(rng.integers(30, 90)),
        "hidden_size": num_heads * (head_dim if is_square else int(rng.integers(3, 9))),
        "intermediate_size": int(rng.integers(20, 70)),
        "num_hidden_layers": int(rng.integers(1, 4)),
        "num_attention_heads": num_heads,
        "num_key_value_heads": int(rng.choice([n for n in (1, 2, 3, num_heads) if num_heads % n == 0])),
        "head_dim": head_dim,
        "rms_norm_eps": float(rng.choice([1e-5, 1e-6])),
        "tie_word_embeddings": bool(rng.integers(2)),
        "max_position_embeddings": 256,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(rng.choice([1e4, 5e5]))},
        "initializer_range": 0.3,
        "attn_implementation": "eager",
    }
    if rng.integers(2):
        scaling = dict(factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
        settings["rope_parameters"] |= {"rope_type": "llama3"} | scaling
    return kind, settings


def made_by_transformers(number: int, folder) -> tuple[object, str]:
    """A model with random weights, saved in one file or several, in float32 or bfloat16, in one of the layouts."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    kind, settings = drawn_settings(number)
    torch.manual_seed(number)
    config_class = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config}[kind]
    model = transformers.AutoModelForCausalLM.from_config(config_class(**settings)).eval()
    for name, parameter in model.named_parameters():  # they begin as zeros and ones
        if "norm" in name or name.endswith("bias"):
            parameter.data += 0.3 * torch.randn_like(parameter)
    dtype = ("float32", "float32", "bfloat16")[number % 3]
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size=("5GB", "8KB")[number // 2 % 2])
    if number % 4 < 2:
        to_classic_layout(folder / "config.json")
    # Read again: `model.float()` would leave its rotary frequencies rounded to bfloat16.
    return from_pretrained(folder), dtype


def from_pretrained(folder):
    """What transformers makes of a folder, in float32."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return loaded.eval()


def to_classic_layout(path):
    """What transformers 4 would have written: it splits `rope_parameters`, and calls the dtype `torch_dtype`."""
    raw = json.loads(path.read_text())
    rope = raw.pop("rope_parameters")
    raw["rope_theta"] = rope.pop("rope_theta")
    raw["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    raw["torch_dtype"] = raw.pop("dtype")
    path.write_text(json.dumps(raw))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(NUM_MODELS))
def test_there_and_back(number, tmp_path):
    torch = pytest.importorskip("torch")
    theirs, dtype = made_by_transformers(number, tmp_path / "theirs")
    config = hf_config.read_config(tmp_path / "theirs")
    parameters = load_llama(tmp_path / "theirs", config)
    ids = np.random.default_rng(number).integers(0, config.vocab_size, (2, 40))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids)).logits.numpy()
    assert largest_difference(our_logits(config, parameters, ids), expected) < TOLERANCE

    carried = hf_config.carried_over(hf_config.read_raw(tmp_path / "theirs"))
    save_llama(
        parameters,
        config,
        tmp_path / "ours",
        dtype=dtype,
        max_shard_bytes=(10**9, 8000)[number // 2 % 2],
        carried=carried,
    )
    again = from_pretrained(tmp_path / "ours")
    assert type(again) is type(theirs)
    expected_state, state = theirs.state_dict(), again.state_dict()
    assert state.keys() == expected_state.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected_state.items())
    with torch.no_grad():
        np.testing.assert_array_equal(again(torch.from_numpy(ids)).logits.numpy(), expected)


def our_logits(config, parameters, ids_BT):
    graph, parameters = build_on(config, LatentHeadConfig(8), parameters, seed=0)

    @jax.jit
    def run(parameters):
        llama = nnx.merge(graph, parameters).llama
        positions_BT = jnp.broadcast_to(jnp.arange(ids_BT.shape[1]), ids_BT.shape)
        sees = packed(jnp.ones(ids_BT.shape, jnp.int32), Execution())
        hidden_BTD, _ = llama.run(llama.embedding[...][ids_BT], positions_BT, sees, Execution())
        return llama.logits(hidden_BTD)

    return run(parameters)


def test_every_axis_is_drawn():
    """Twenty models cover each choice, alone: nothing above is tested by name only."""
    drawn = [drawn_settings(number) for number in range(NUM_MODELS)]
    facts = [
        {
            (kind, "tied", raw["tie_word_embeddings"]),
            (kind, "rope", raw["rope_parameters"]["rope_type"]),
            ("square", raw["hidden_size"] == raw["num_attention_heads"] * raw["head_dim"]),
            ("grouped", raw["num_key_value_heads"] < raw["num_attention_heads"]),
        }
        for kind, raw in drawn
    ]
    assert len(set().union(*facts)) == 12
