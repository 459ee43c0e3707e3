"""config.json of both layouts, with what it leaves out, and everything that we refuse in it."""

import dataclasses
import json
import os

import hypothesis
import hypothesis.strategies as st
import pytest
import transformers
from golden.base_folders import QWEN2
from golden.published import llama_config, recorded

from colar_jax.errors import UserError
from colar_jax.model.llama_config import NO_ROPE, SLIDING, LlamaConfig
from colar_jax.model.presets import PRESETS
from colar_jax.model.rope_scaling import DynamicScaling, LinearScaling, Llama3Scaling, YarnScaling
from colar_jax.weights.families import FAMILIES
from colar_jax.weights.hf_config import carried_over, from_hf, read_config, to_hf
from colar_jax.weights.hf_fields import _OPTIONAL, _REQUIRED, unknown_fields

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


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
SLIDING_3 = ["sliding_attention"] * 3


def raw_of(family: str) -> dict:
    """A config.json of a family, in the classic layout, with little in it."""
    named = {"architectures": [FAMILIES[family].architecture], "model_type": family}
    return without(LLAMA, "hidden_act", "rms_norm_eps", "tie_word_embeddings", "rope_theta") | named


def without(raw, *names):
    return {name: value for name, value in raw.items() if name not in names}


@pytest.mark.parametrize("key", ["config_json", "config_json_transformers5"])
def test_the_recorded_llama_in_both_layouts(key):
    assert from_hf(json.loads(str(recorded("weights")[key]))) == llama_config(640)


def test_the_recorded_qwen2_in_both_layouts():
    expected = LlamaConfig(
        640, 64, 2, 4, 2, 16, 128, rope_theta=10000.0, tied_head=False, qkv_bias=True, family="qwen2"
    )
    assert read_config(QWEN2) == expected
    assert from_hf(json.loads((QWEN2 / "config_transformers5.json").read_text())) == expected


def test_what_a_config_leaves_out():
    raw = without(LLAMA, "architectures", "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "rope_theta")
    config = from_hf(without(raw, "tie_word_embeddings"))
    assert config == LlamaConfig(100, 24, 3, 6, 6, 4, 40, rope_theta=10000.0, norm_eps=1e-6, tied_head=False)
    assert from_hf(LLAMA | {"num_key_value_heads": None, "head_dim": None}).num_kv_heads == 6
    assert from_hf(LLAMA).head_dim == 8
    assert (
        from_hf(without(QWEN, "num_key_value_heads") | {"num_attention_heads": 64}).num_kv_heads == 32
    )  # as transformers
    assert from_hf(QWEN | {"num_key_value_heads": None}).num_kv_heads == 6


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
    assert (config.rope_theta, config.rope_scaling) == (500000.0, Llama3Scaling(8.0, 1.0, 4.0, 1024))


def test_a_qwen2_that_could_slide_but_does_not():
    """As DeepSeek-R1-Distill-Qwen-1.5B has it."""
    assert from_hf(QWEN | {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 21}).qkv_bias
    assert from_hf(QWEN | {"sliding_window": None, "layer_types": ["full_attention"] * 3}).qkv_bias


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (LLAMA | {"model_type": "gemma2"}, r"model_type='gemma2' .* not supported \(not computed: soft caps"),
        (LLAMA | {"model_type": "mixtral"}, "model_type='mixtral' .* not supported: model.base takes llama .*, qwen2"),
        (LLAMA | {"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        (without(LLAMA, "model_type"), "model_type=None"),
        (LLAMA | {"hidden_act": "gelu"}, "hidden_act='gelu': only silu"),
        (LLAMA | {"attention_bias": True}, "attention_bias=true"),
        (LLAMA | {"mlp_bias": True}, "mlp_bias=true"),
        (LLAMA | {"rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope_type='longrope'"),
        (LLAMA | {"rope_scaling": {"type": "linear"}}, "'linear' needs a number factor above 0, not None"),
        (LLAMA | {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "'yarn' needs a number original_max_pos"),
        (LLAMA | {"rope_scaling": YARN | {"mscale": "1"}}, "mscale='1' of rope_type 'yarn': expected a number"),
        (LLAMA | {"rope_scaling": YARN | {"truncate": 1}}, "truncate=1 of rope_type 'yarn': expected true or false"),
        (LLAMA | {"rope_scaling": YARN, "rope_theta": 1}, "rope_theta=1 of rope_type 'yarn' is not above 1"),
        (LLAMA | {"rope_scaling": YARN | {"low_freq_factor": 1.0}}, "low_freq_factor=1.0 means nothing"),
        (LLAMA | {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic' needs max_position_embeddings"),
        (LLAMA | {"rope_scaling": without(LLAMA3, "factor")}, "needs a number factor above 0, not None"),
        (LLAMA | {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        (LLAMA | {"quantization_config": {"bits": 4}}, "quantization_config"),
        (LLAMA | {"use_sliding_window": True, "sliding_window": 64}, "use_sliding_window=true"),
        (QWEN | {"layer_types": ["full_attention", "sliding_attention"] * 3}, "layer_types names 6 layers"),
        (QWEN | {"layer_types": ["sliding_attention"] * 3}, "there is no sliding window"),
        (QWEN | {"layer_types": ["linear_attention"] * 3}, "layer_types has linear_attention"),
        (raw_of("mistral") | {"layer_types": ["full_attention"] * 3}, "layer_types: a mistral has none"),
        (raw_of("ministral") | {"sliding_window": None, "layer_types": SLIDING_3}, "there is no sliding window"),
        (raw_of("smollm3") | {"use_sliding_window": True}, "use_sliding_window=true"),
        (raw_of("smollm3") | {"no_rope_layers": [1, 0]}, r"no_rope_layers=\[1, 0\]: expected 0"),
        (raw_of("smollm3") | {"no_rope_layers": [1, 0, 2]}, r"no_rope_layers=\[1, 0, 2\]: expected 0"),
        (raw_of("qwen3") | {"attention_bias": True}, "attention_bias=true: a qwen3"),
        (raw_of("olmo2") | {"attention_bias": True}, "attention_bias=true: a olmo2"),
        (raw_of("gemma3_text") | {"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0: soft caps"),
        (raw_of("gemma3_text") | {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0: soft caps"),
        (raw_of("gemma3_text") | {"use_bidirectional_attention": True}, "use_bidirectional_attention=true"),
        (raw_of("gemma3_text") | {"sliding_window": None}, "sliding_window=null: the sliding layers"),
        (raw_of("gemma3_text") | {"hidden_activation": "silu"}, "hidden_activation='silu': only gelu_pytorch_tanh"),
        (raw_of("gemma3_text") | {"rope_scaling": YARN}, "full_attention: rope_type='yarn': only default, linear"),
        (raw_of("gemma3_text") | {"rope_parameters": LLAMA3}, "expected an object for full_attention"),
        (
            raw_of("gemma3_text") | {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "sliding_attention: rope_type='linear': only default",
        ),
        (raw_of("gemma3_text") | {"rope_scaling": {"type": "linear", "factor": 2.0}}, "has a type and no rope_type"),
        (LLAMA | {"model_type": "gemma3", "architectures": None}, "model_type='gemma3' .* not supported"),
        (LLAMA | {"hidden_size": 0}, "hidden_size=0: expected a whole number above 0"),
        (without(LLAMA, "vocab_size"), "vocab_size=None"),
        (without(LLAMA, "head_dim") | {"hidden_size": 25}, "hidden_size=25 is no multiple of num_attention_heads=6"),
        (LLAMA | {"num_key_value_heads": 4}, "num_kv_heads=4 does not divide num_heads=6"),
        (LLAMA | {"head_dim": 7}, "head_dim=7 is odd"),
        (raw_of("qwen3") | {"head_dim": None}, "head_dim=null: a qwen3 has a size of its own, 128 where"),
        # Values of a wrong type, or out of range.
        (LLAMA | {"model_type": ["llama"]}, r"model_type=\['llama'\]"),
        (LLAMA | {"model_type": {"llama": 1}}, "model_type={'llama': 1}"),
        (LLAMA | {"architectures": "LlamaForCausalLM"}, "architectures='LlamaForCausalLM'"),
        (LLAMA | {"architectures": [3]}, r"architectures=\[3\]"),
        (LLAMA | {"rope_scaling": 2.0}, r"rope_scaling=2\.0: expected an object, or null"),
        (LLAMA | {"rope_scaling": [2.0]}, r"rope_scaling=\[2\.0\]: expected an object"),
        (LLAMA | {"rope_parameters": "llama3"}, "rope_parameters='llama3': expected an object"),
        (LLAMA | {"rms_norm_eps": None}, "rms_norm_eps=None: expected a number above 0 and below 1"),
        (LLAMA | {"rms_norm_eps": "1e-5"}, "rms_norm_eps='1e-5': expected a number"),
        (LLAMA | {"rms_norm_eps": float("nan")}, "rms_norm_eps=nan: expected a number"),
        (LLAMA | {"rms_norm_eps": 0}, "rms_norm_eps=0: expected a number above 0"),
        (LLAMA | {"rope_theta": 0}, "rope_theta=0: expected a number above 0"),
        (LLAMA | {"rope_theta": None}, "rope_theta=None: expected a number above 0"),
        (LLAMA | {"rope_theta": True}, "rope_theta=True: expected a number above 0"),
        (LLAMA | {"rope_theta": 10**400}, "rope_theta=1000"),
        (
            LLAMA | {"num_hidden_layers": 10**9},
            "num_hidden_layers=1000000000: expected a whole number from 1 to 10,000",
        ),
        (LLAMA | {"vocab_size": True}, "vocab_size=True: expected a whole number"),
        (LLAMA | {"vocab_size": 100.0}, r"vocab_size=100\.0: expected a whole number"),
        (LLAMA | {"hidden_act": None}, "hidden_act=None: expected a text"),
        (LLAMA | {"tie_word_embeddings": "false"}, "tie_word_embeddings='false': expected true or false"),
        (LLAMA | {"tie_word_embeddings": 1}, "tie_word_embeddings=1: expected true or false"),
        (LLAMA | {"attention_bias": "no"}, "attention_bias='no': expected true or false"),
        (LLAMA | {"layer_types": "full_attention"}, "layer_types='full_attention': expected a list"),
        (LLAMA | {"layer_types": ["full_attention"]}, "layer_types names 1 layers, num_hidden_layers=3"),
        (LLAMA | {"quantization_config": 4}, "quantization_config=4: expected an object"),
        (LLAMA | {"max_position_embeddings": "4096"}, "max_position_embeddings='4096': expected a whole number"),
        # Rotary settings that nothing would read.
        (LLAMA | {"rope_scaling": {"factor": 2.0}}, "rope_scaling={'factor': 2.0} has no rope_type"),
        (LLAMA | {"rope_scaling": without(LLAMA3, "rope_type")}, "has no rope_type: say which scaling it is"),
        (LLAMA | {"rope_parameters": {"factor": 2.0}}, "factor=2.0 means nothing to rope_type='default'"),
        (LLAMA | {"rope_scaling": {"type": "default", "factor": 2.0}}, "factor=2.0 means nothing"),
        (LLAMA | {"rope_scaling": LLAMA3 | {"type": "linear"}}, "rope_type='llama3' and type='linear'"),
        (LLAMA | {"rope_scaling": LLAMA3 | {"rope_type": ["llama3"]}}, r"rope_type=\['llama3'\]: only default"),
        (LLAMA | {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5: rotary embeddings turn all"),
        (
            LLAMA | {"rope_scaling": LLAMA3, "rope_parameters": LLAMA3 | {"factor": 4.0}},
            "differ in factor: 8.0 and 4.0",
        ),
        (LLAMA | {"rope_scaling": LLAMA3 | {"factor": True}}, "needs a number factor above 0, not True"),
        (LLAMA | {"rope_scaling": LLAMA3 | {"factor": 0.5}}, "factor=0.5 of rope_type 'llama3' is below 1"),
        (LLAMA | {"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}}, "low_freq_factor=4.0 is not below"),
        (LLAMA | {"rope_scaling": LLAMA3, "original_max_position_embeddings": 7}, "embeddings=7 is another than that"),
        (LLAMA | {"per_layer_config": {"0": {"head_dim": 4}}}, "per_layer_config: layers that differ"),
    ],
)
def test_what_is_refused(raw, told):
    with pytest.raises(ValueError, match=f"(?s)somewhere.*{told}"):
        from_hf(raw, "somewhere")


def test_all_faults_are_one_error():
    raw = QWEN | {"hidden_act": "relu", "mlp_bias": True, "rope_scaling": {"rope_type": "yarn"}}
    with pytest.raises(ValueError, match=r"(?s)hidden_act.*mlp_bias.*'yarn' needs"):
        from_hf(raw)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"[]", "holds a list, not an object"),
        (b"null", "holds a NoneType"),
        (b'{"model_type": "llama\xff"}', "is not JSON"),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"hidden_size": 1, "hidden_size": 2}', "it has 'hidden_size' twice"),
        (b'{"hidden_size": ' + b"9" * 5000 + b"}", "is not JSON"),
    ],
)
def test_no_json_object(tmp_path, text, told):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(UserError, match=rf"(?s)config\.json .*{told}"):
        read_config(tmp_path)


def test_no_config(tmp_path):
    with pytest.raises(UserError, match=r"has no config\.json"):
        read_config(tmp_path)


def test_fields_that_nobody_knows_are_named(caplog):
    from_hf(LLAMA | {"use_qk_norm": True, "residual_multiplier": 0.5, "temperature": 0.7}, "somewhere")
    [record] = caplog.records
    assert "somewhere has fields that are not known here" in record.message
    assert "'residual_multiplier', 'use_qk_norm'." in record.message
    caplog.clear()
    from_hf(LLAMA | {"attention_dropout": 0.1}, "somewhere")
    assert [record.message for record in caplog.records] == [
        "somewhere: attention_dropout=0.1 is not applied in training"
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_all_fields_of_transformers_are_known(family):
    """A field that a newer transformers adds is looked at before it is called harmless."""
    written = transformers.AutoConfig.for_model(family).to_dict()
    assert not unknown_fields(written, FAMILIES[family].fields)
    assert from_hf(written | {"architectures": None}).num_layers == written["num_hidden_layers"]


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_written_is_read_again(preset):
    config = dataclasses.replace(PRESETS[preset], tied_head=preset != "nano")
    raw = json.loads(json.dumps(to_hf(config)))
    assert from_hf(raw) == config
    assert raw["model_type"] == config.family
    assert "rope_parameters" not in raw and "dtype" not in raw


def test_facts_of_the_base_are_handed_on():
    raw = LLAMA | {"eos_token_id": [7, 8], "bos_token_id": None, "max_position_embeddings": 777, "use_cache": False}
    written = to_hf(from_hf(raw), carried=carried_over(raw))
    assert (written["eos_token_id"], written["max_position_embeddings"]) == ([7, 8], 777)
    assert "bos_token_id" not in written


# A config.json with anything in it is read as transformers reads it, or refused in one sentence that names the file.

FUZZ = hypothesis.settings(
    max_examples=int(os.environ.get("COLAR_FUZZ_EXAMPLES", "150")),
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(1, 64), st.floats(), st.floats(0, 2), st.text(max_size=8),
    st.sampled_from(["llama3", "default", "linear", "dynamic", "yarn", "silu", "full_attention", 1e-6, 8, 10**30]),
)  # fmt: skip
ROPE_KEYS = st.sampled_from([*LLAMA3, "type", "rope_theta", "partial_rotary_factor", "other"])
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(ROPE_KEYS, st.text(max_size=4)), inner)
    ),
    max_leaves=5,
)
OWN = {name for family in FAMILIES.values() for name in family.fields}
FIELDS = st.sampled_from(sorted({*_REQUIRED, *_OPTIONAL, *OWN, "model_type", "architectures", "other"}))
ROPES = st.dictionaries(ROPE_KEYS, LEAVES).map(lambda changes: LLAMA3 | changes)
CHANGES = st.one_of(
    st.dictionaries(FIELDS, VALUES, min_size=1, max_size=3),
    st.dictionaries(st.sampled_from(["rope_scaling", "rope_parameters"]), ROPES, min_size=1),
)


def read_or_refused(folder) -> LlamaConfig | None:
    try:
        return read_config(folder)
    except UserError as refusal:
        message = str(refusal)
    assert "config.json" in message
    return None


@FUZZ
@hypothesis.given(
    base=st.sampled_from([LLAMA, QWEN, *map(raw_of, FAMILIES)]), changes=CHANGES, removed=st.sets(FIELDS, max_size=2)
)
def test_any_value_is_read_as_transformers_reads_it_or_refused(tmp_path_factory, base, changes, removed):
    folder = tmp_path_factory.getbasetemp() / "any_value"
    folder.mkdir(exist_ok=True)
    raw = without(base, *removed) | changes
    (folder / "config.json").write_text(json.dumps(raw))
    ours = read_or_refused(folder)
    if ours is None:
        return
    hypothesis.assume(ours.hidden_size % ours.num_heads == 0)  # transformers wants it of a Llama with head_dim as well
    theirs = transformers.AutoConfig.from_pretrained(folder)
    assert ours.vocab_size == theirs.vocab_size and ours.hidden_size == theirs.hidden_size
    assert ours.num_layers == theirs.num_hidden_layers and ours.intermediate_size == theirs.intermediate_size
    assert (ours.num_heads, ours.num_kv_heads) == (theirs.num_attention_heads, theirs.num_key_value_heads)
    assert (ours.norm_eps, ours.tied_head) == (theirs.rms_norm_eps, theirs.tie_word_embeddings)
    assert ours.head_dim == getattr(theirs, "head_dim", None) or ours.head_dim == ours.hidden_size // ours.num_heads
    if ours.family == "gemma3_text":
        assert (theirs.hidden_activation, ours.query_scalar) == ("gelu_pytorch_tanh", theirs.query_pre_attn_scalar)
        if SLIDING in ours.kinds:
            assert ours.sliding_rope_theta == theirs.rope_parameters["sliding_attention"]["rope_theta"]
    else:
        assert theirs.hidden_act == "silu"
    if SLIDING in ours.kinds:
        assert ours.window == theirs.sliding_window
    if ours.family == "smollm3":
        assert [kind != NO_ROPE for kind in ours.kinds] == list(map(bool, theirs.no_rope_layers[: ours.num_layers]))
    elif (types := getattr(theirs, "layer_types", None)) is not None and ours.family not in (
        "llama",
        "olmo2",
        "mistral",
    ):
        assert [kind == SLIDING for kind in ours.kinds] == [kind == "sliding_attention" for kind in types]
    rope = theirs.rope_parameters
    rope = rope["full_attention"] if ours.family == "gemma3_text" else rope
    assert ours.rope_theta == rope["rope_theta"] and rope.get("partial_rotary_factor", 1.0) == 1.0
    scaling = ours.rope_scaling
    kinds = {Llama3Scaling: "llama3", LinearScaling: "linear", DynamicScaling: "dynamic", YarnScaling: "yarn"}
    assert rope["rope_type"] == kinds.get(type(scaling), "default")
    if scaling is not None:
        assert scaling.factor == rope["factor"]
    if isinstance(scaling, Llama3Scaling | YarnScaling):
        assert scaling.original_max_positions == rope["original_max_position_embeddings"]


@FUZZ
@hypothesis.given(place=st.floats(0, 1), damage=st.binary(max_size=6), cut=st.booleans())
def test_any_damage_is_read_or_refused(tmp_path_factory, place, damage, cut):
    folder = tmp_path_factory.getbasetemp() / "any_damage"
    folder.mkdir(exist_ok=True)
    text = json.dumps(LLAMA | {"rope_scaling": LLAMA3}).encode()
    at = int(place * len(text))
    (folder / "config.json").write_bytes(text[:at] + damage + (b"" if cut else text[at + len(damage) :]))
    read_or_refused(folder)


def test_two_bases_of_the_rotary_embedding_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"rope_parameters": LLAMA3 | {"rope_theta": 1}}))
    with pytest.raises(UserError, match="rope_theta is said more than once, as 1 and 500000.0: keep one of them"):
        read_config(tmp_path)
