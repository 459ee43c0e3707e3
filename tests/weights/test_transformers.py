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

KINDS = ("llama", "qwen2", "qwen3", "smollm3", "mistral", "ministral", "olmo2", "gemma3_text")
NUM_MODELS = 48
TOLERANCE = 1e-4  # of the largest logit


def drawn_settings(number: int) -> tuple[str, dict]:
    """A model_type, and settings for its config class; every choice is drawn, and every one occurs."""
    rng = np.random.default_rng((3, number))
    kind = KINDS[number % len(KINDS)]
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
        "pad_token_id": None,
        "max_position_embeddings": 256,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(rng.choice([1e4, 5e5]))},
        "initializer_range": 0.3,
        "attn_implementation": "eager",
    }
    settings["rope_parameters"] |= drawn_scaling(kind, rng)
    settings |= drawn_layers(kind, settings, rng)
    if kind == "gemma3_text":
        local = {"rope_type": "default", "rope_theta": 1e3}
        settings["rope_parameters"] = {"full_attention": settings["rope_parameters"], "sliding_attention": local}
    return kind, settings


def drawn_scaling(kind: str, rng) -> dict:
    """Settings of a rotary scaling, or of none."""
    longer = {"factor": 4.0, "original_max_position_embeddings": 16}
    choices = [
        {},
        {"rope_type": "linear", "factor": 2.5},
        {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, **longer},
        {"rope_type": "dynamic", "factor": 3.0},  # plain up to max_position_embeddings
        {"rope_type": "yarn", **longer},
        {"rope_type": "yarn", "beta_fast": 4, "beta_slow": 2, "truncate": False, "mscale": 0.7, **longer},
        {"rope_type": "yarn", "mscale": 1.0, "mscale_all_dim": 0.8, **longer},
    ]
    return choices[int(rng.integers(2 if kind == "gemma3_text" else len(choices)))]


def drawn_layers(kind: str, settings: dict, rng) -> dict:
    """Settings of layers that differ from each other; windows are wider than the rows of the tests."""
    num_layers, window = settings["num_hidden_layers"], int(rng.choice([40, 64]))
    types = [str(rng.choice(["full_attention", "sliding_attention"])) for _ in range(num_layers)]
    match kind:
        case "smollm3":
            return {"no_rope_layers": [int(mark) for mark in rng.integers(2, size=num_layers)]}
        case "mistral":
            return {"sliding_window": (None, window)[int(rng.integers(2))]}
        case "ministral":
            return {"sliding_window": window, "layer_types": types}
        case "qwen2" | "qwen3":
            return {"use_sliding_window": bool(rng.integers(2)), "sliding_window": window, "max_window_layers": 1}
        case "gemma3_text":
            scalar = int(rng.choice([settings["head_dim"], 7]))
            return {"sliding_window": window, "layer_types": types, "query_pre_attn_scalar": scalar}
    return {}


def made_by_transformers(number: int, folder) -> tuple[object, str]:
    """A model with random weights, saved in one file or several, in float32 or bfloat16, in one of the layouts."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    kind, settings = drawn_settings(number)
    torch.manual_seed(number)
    config = transformers.AutoConfig.for_model(kind, **settings)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():  # they begin as zeros and ones
        if "norm" in name or name.endswith("bias"):
            parameter.data += 0.3 * torch.randn_like(parameter)
    dtype = ("float32", "float32", "bfloat16")[number // len(KINDS) % 3]
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size=("5GB", "8KB")[number // 16 % 2])
    if number // len(KINDS) % 2:
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
    if "sliding_attention" in rope:
        raw["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
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
        max_shard_bytes=(10**9, 8000)[number // 16 % 2],
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
        hidden_BTD, _ = llama.run(llama.embed(ids_BT, "float32"), positions_BT, sees, Execution())
        return llama.logits(hidden_BTD)

    return run(parameters)


def test_every_axis_is_drawn():
    """The models cover each choice, alone: nothing above is tested by name only."""
    drawn = [drawn_settings(number) for number in range(NUM_MODELS)]
    facts = [
        {
            (kind, "tied", raw["tie_word_embeddings"]),
            ("rope", str(rope_of_full(raw).keys() - {"rope_theta"}), rope_of_full(raw)["rope_type"]),
            ("square", raw["hidden_size"] == raw["num_attention_heads"] * raw["head_dim"]),
            ("grouped", raw["num_key_value_heads"] < raw["num_attention_heads"]),
            (kind, "window", raw.get("use_sliding_window", raw.get("sliding_window") is not None)),
        }
        for kind, raw in drawn
    ]
    found = set().union(*facts)
    assert {fact[2] for fact in found if fact[0] == "rope"} == {"default", "linear", "llama3", "dynamic", "yarn"}
    assert {kind for kind in KINDS for value in (True, False) if (kind, "tied", value) not in found} == set()
    assert {("qwen3", "window", True), ("qwen3", "window", False), ("mistral", "window", False)} <= found
    assert {("square", True), ("square", False), ("grouped", True), ("grouped", False)} <= found


def rope_of_full(raw: dict) -> dict:
    return raw["rope_parameters"].get("full_attention", raw["rope_parameters"])
