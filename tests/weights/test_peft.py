"""PEFT folders in and out: exactly, and one error for all that is wrong with one."""

import dataclasses
import json
import os

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from golden.published import llama_config, lora_config, published_model, recorded
from safetensors.flax import save_file as save_jax
from safetensors.numpy import load_file, save_file

from colar_jax.errors import UserError
from colar_jax.model.lora import LoraConfig
from colar_jax.weights import peft

LLAMA = llama_config(640)


def published_folder(folder, family="llama", **changes):
    """The recorded adapter as PEFT wrote it, with other settings."""
    adapters = recorded("adapters")
    tensors = {
        name.removeprefix(f"{family}/"): array for name, array in adapters.items() if name.startswith(f"{family}/")
    }
    save_file(tensors, folder / peft.ADAPTER_WEIGHTS_FILE)
    config = json.loads(str(adapters[f"{family}_config_json"])) | changes
    (folder / peft.ADAPTER_CONFIG_FILE).write_text(json.dumps(config))
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
    written = load_file(tmp_path / "ours" / peft.ADAPTER_WEIGHTS_FILE)
    assert written.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(written[name], array)
    theirs, ours = (json.loads((at / peft.ADAPTER_CONFIG_FILE).read_text()) for at in (tmp_path, tmp_path / "ours"))
    same = ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "bias", "use_rslora", "use_dora")
    assert all(ours[name] == theirs[name] for name in same)
    assert ours["base_model_name_or_path"] == "a/base"
    assert not [path for path in (tmp_path / "ours").iterdir() if "unfinished" in path.name]


def test_every_projection_goes_there_and_back(tmp_path):
    config = LoraConfig(3, 4.5, ("query", "key", "value", "out", "gate", "up", "down"), 0.1)
    rng, sizes = np.random.default_rng(0), peft._shape_of_name(LLAMA, config)
    save_file({name: rng.normal(size=shape).astype(np.float32) for name, shape in sizes.items()}, tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / peft.ADAPTER_WEIGHTS_FILE)
    description = {"peft_type": "LORA", "r": 3, "lora_alpha": 4.5, "lora_dropout": 0.1, "target_modules": "all-linear"}
    (tmp_path / peft.ADAPTER_CONFIG_FILE).write_text(json.dumps(description))
    read, adapters = peft.read_adapter(tmp_path, LLAMA, expected=dataclasses.replace(config, dropout=0.5))
    assert read == config
    peft.write_adapter(tmp_path / "again", adapters, config)
    again, first = (
        load_file(tmp_path / "again" / peft.ADAPTER_WEIGHTS_FILE),
        load_file(tmp_path / peft.ADAPTER_WEIGHTS_FILE),
    )
    assert again.keys() == first.keys() and all(np.array_equal(again[name], first[name]) for name in first)


def test_bfloat16_matrices_become_float32(tmp_path):
    tensors = published_folder(tmp_path)
    save_jax(
        {name: jnp.asarray(array, jnp.bfloat16) for name, array in tensors.items()},
        tmp_path / peft.ADAPTER_WEIGHTS_FILE,
    )
    _, adapters = peft.read_adapter(tmp_path, LLAMA)
    ours = adapters["llama"]["blocks"]["query"]["adapter"]["a"]
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
    np.testing.assert_array_equal(ours[1].T, np.asarray(jnp.asarray(tensors[name], jnp.bfloat16), np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_rslora": True, "bias": "all"}, "not supported: bias='all'; use_rslora=True. Merge"),
        ({"use_dora": True}, "use_dora=True"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save=\['lm_head'\]"),
        ({"rank_pattern": {"q_proj": 4}}, r"rank_pattern=\{'q_proj': 4\}"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out=True"),
        ({"layers_to_transform": [0]}, r"layers_to_transform=\[0\]"),
        ({"layers_to_transform": 0}, "layers_to_transform=0"),
        ({"peft_type": "IA3"}, "peft_type='IA3'"),
        ({"target_modules": ".*q_proj"}, r"target_modules='\.\*q_proj' \(a list of q_proj"),
        ({"target_modules": ["q_proj", "lm_head"]}, r"target_modules=\['q_proj', 'lm_head'\]"),
        ({"target_modules": ["q_proj", ["v_proj"]]}, r"target_modules=\['q_proj', \['v_proj'\]\]"),
        ({"target_modules": []}, r"target_modules=\[\] \(a list"),
        ({"target_modules": None}, "target_modules=None"),
        ({"r": 0}, "r=0"),
        ({"r": None}, r"r=None \(a whole number above 0 is\)"),
        ({"r": 8.5}, r"r=8\.5"),
        ({"r": "8"}, "r='8'"),
        ({"r": True}, "r=True"),
        ({"lora_alpha": None}, r"lora_alpha=None \(a number above 0 is\)"),
        ({"lora_alpha": float("nan")}, "lora_alpha=nan"),
        ({"lora_alpha": "32"}, "lora_alpha='32'"),
        ({"lora_dropout": 1.0}, r"lora_dropout=1\.0"),
        ({"lora_dropout": "0.1"}, r"lora_dropout='0\.1'"),
        # Initialisations that change the base's weights.
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights='olora'"),
        ({"init_lora_weights": "corda"}, "init_lora_weights='corda'"),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "init_lora_weights='loftq'"),
        ({"init_lora_weights": "eva", "eva_config": {"rho": 2.0}}, "init_lora_weights='eva'"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights='lora_ga'"),
        ({"init_lora_weights": 1}, "init_lora_weights=1"),
        # Settings that are younger than this package, today's and tomorrow's.
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora={'nblocks': 2}"),
        ({"arrow_config": {"top_k": 3}}, "arrow_config={'top_k': 3}"),
        ({"kasa_config": {}, "ensure_weight_tying": True}, "ensure_weight_tying=True; kasa_config={}. Merge"),
        ({"of_the_future": True, "another_one": 3}, "not supported: another_one=3; of_the_future=True. Merge"),
    ],
)
def test_what_we_do_not_compute_is_refused(tmp_path, changes, message):
    published_folder(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as error:
        peft.read_adapter(tmp_path, LLAMA)
    assert str(tmp_path / peft.ADAPTER_CONFIG_FILE) in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"init_lora_weights": True},
        {"init_lora_weights": False},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal"},
        {"of_the_future": None, "another_one": False, "a_third": [], "rank_pattern": {}},
        {
            "peft_version": "0.99",
            "revision": "main",
            "task_type": None,
            "runtime_config": {"ephemeral_gpu_offload": True},
        },
    ],
)
def test_what_changes_nothing_is_accepted(tmp_path, changes):
    published_folder(tmp_path, **changes)
    assert peft.read_adapter(tmp_path, LLAMA)[0].rank == 8


# The fields of PEFT's LoraConfig that are on by default in one way or another; checked below where PEFT is installed.
ON_BY_DEFAULT = {"r", "lora_alpha", "init_lora_weights", "megatron_core", "qalora_group_size", "runtime_config"}


# All fields of PEFT 0.21's LoraConfig that must be off, for where PEFT is not installed.
MUST_BE_OFF = """
    alora_invocation_tokens alpha_pattern arrow_config bias corda_config ensure_weight_tying eva_config
    exclude_modules fan_in_fan_out kasa_config layer_replication layers_pattern layers_to_transform
    loftq_config lora_bias lora_ga_config megatron_config modules_to_save monteclora_config rank_pattern
    target_parameters trainable_token_indices use_bdlora use_dora use_qalora use_rslora velora_config
"""


@pytest.mark.parametrize("name", [*MUST_BE_OFF.split(), "init_lora_weights"])
def test_every_recorded_field_is_refused_where_it_is_on(name):
    for value in ("something", True, 1, {"a": 1}, [1]):
        is_plain = name == "init_lora_weights" and value is True
        assert peft._unsupported({"r": 8, name: value}) == ([] if is_plain else [name])


def test_the_record_is_whole():
    installed = pytest.importorskip("peft")
    fields = {field.name for field in dataclasses.fields(installed.LoraConfig)}
    assert fields - peft._FREE - {"init_lora_weights"} == set(MUST_BE_OFF.split())


def test_every_field_of_the_installed_peft_is_read_or_refused_where_it_is_on(tmp_path):
    installed = pytest.importorskip("peft")
    default = installed.LoraConfig(r=8, lora_alpha=32, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    default.save_pretrained(tmp_path)
    written = json.loads((tmp_path / peft.ADAPTER_CONFIG_FILE).read_text())
    assert not peft._unsupported(written)
    fields = {field.name for field in dataclasses.fields(installed.LoraConfig)}
    assert fields <= written.keys() | {"runtime_config"}
    on = {name for name in fields - peft._FREE if not peft._is_off(name, written.get(name))} | (fields & ON_BY_DEFAULT)
    assert on == ON_BY_DEFAULT
    assert fields >= peft._FREE
    for name in fields - peft._FREE:
        assert peft._unsupported(written | {name: "something"}) == [name]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [True, False, "gaussian", "orthogonal", "pissa", "olora"])
def test_plain_initialisations_are_those_that_leave_the_base_alone(kind):
    torch, installed = pytest.importorskip("torch"), pytest.importorskip("peft")
    model = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(16, 16, bias=False)})
    before = model["q_proj"].weight.detach().clone()
    config = installed.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=kind)
    adapted = installed.get_peft_model(model, config).base_model.model["q_proj"]
    assert peft._is_plain(kind) is torch.equal(adapted.base_layer.weight, before)


def test_all_wrong_tensors_are_one_error(tmp_path):
    tensors = published_folder(tmp_path)
    prefix = "base_model.model.model.layers"
    del tensors[f"{prefix}.0.self_attn.q_proj.lora_A.weight"]
    tensors[f"{prefix}.2.self_attn.q_proj.lora_A.weight"] = np.zeros((8, 64), np.float32)
    tensors[f"{prefix}.1.self_attn.v_proj.lora_B.weight"] = np.zeros((64, 8), np.float32)
    tensors[f"{prefix}.1.self_attn.v_proj.lora_A.weight"] = np.zeros((8, 64), np.int32)
    save_file(tensors, tmp_path / peft.ADAPTER_WEIGHTS_FILE)
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
    weights = tmp_path / peft.ADAPTER_WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is no safetensors file, or is cut short"):
        peft.read_adapter(tmp_path, LLAMA)
    weights.unlink()
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="does not exist. adapter_model.bin is a pickle, which is not read"):
        peft.read_adapter(tmp_path, LLAMA)
    for text, message in (
        ("{", "is not JSON"),
        ("[1]", "holds a list, not an object"),
        ("[" * 10**5, "nested too deeply"),
    ):
        (tmp_path / peft.ADAPTER_CONFIG_FILE).write_text(text)
        with pytest.raises(UserError, match=f"adapter_config.json .*{message}"):
            peft.read_adapter(tmp_path, LLAMA)


def test_files_have_the_mode_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        peft.write_adapter(tmp_path / "ours", published_model(adapter=True)[1], lora_config("llama"))
    finally:
        os.umask(before)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "ours").iterdir()} == {
        peft.ADAPTER_CONFIG_FILE: "0o640",
        peft.ADAPTER_WEIGHTS_FILE: "0o640",
    }


# Any description and any damage are read, or refused in one sentence that names the file.

FUZZ = hypothesis.settings(
    max_examples=int(os.environ.get("COLAR_FUZZ_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["q_proj", "none", 8, 32]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner)),
    max_leaves=4,
)
NAMES = st.one_of(
    st.sampled_from(
        ["r", "lora_alpha", "lora_dropout", "target_modules", "peft_type", "init_lora_weights", "use_dora"]
    ),
    st.sampled_from(["bias", "rank_pattern", "layers_to_transform", "modules_to_save", "task_type"]),
    st.text(min_size=1, max_size=6),
)


def read_or_refused(folder) -> LoraConfig | None:
    try:
        return peft.read_adapter(folder, LLAMA)[0]
    except UserError as refusal:
        message = str(refusal)
    assert str(folder) in message
    return None


@FUZZ
@hypothesis.given(changes=st.dictionaries(NAMES, VALUES, min_size=1, max_size=4))
def test_any_description_is_read_for_what_it_is_or_refused(tmp_path_factory, changes):
    folder = tmp_path_factory.getbasetemp() / "any_description"
    folder.mkdir(exist_ok=True)
    if not (folder / peft.ADAPTER_CONFIG_FILE).is_file():
        published_folder(folder)
    before = json.loads(str(recorded("adapters")["llama_config_json"]))
    (folder / peft.ADAPTER_CONFIG_FILE).write_text(json.dumps(before | changes))
    config = read_or_refused(folder)
    if config is None:
        return
    written = before | changes
    assert (written["peft_type"], config.rank, config.alpha) == ("LORA", written["r"], written["lora_alpha"])
    assert {peft.PROJECTIONS[target] for target in config.targets} == set(written["target_modules"])
    assert all(
        written[name] in (None, False, "none", [], {}) for name in written.keys() - peft._FREE - {"init_lora_weights"}
    )


@FUZZ
@hypothesis.given(place=st.floats(0, 1), in_header=st.booleans(), damage=st.binary(max_size=8), cut=st.booleans())
def test_any_damage_to_the_weights_is_found_or_is_in_the_numbers(tmp_path_factory, place, in_header, damage, cut):
    folder = tmp_path_factory.getbasetemp() / "any_damage"
    folder.mkdir(exist_ok=True)
    if not (folder / "whole").is_file():
        published_folder(folder)
        (folder / "whole").write_bytes((folder / peft.ADAPTER_WEIGHTS_FILE).read_bytes())
    content = (folder / "whole").read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    at = int(place * (header if in_header else len(content)))
    damaged = content[:at] + damage + (b"" if cut else content[at + len(damage) :])
    (folder / peft.ADAPTER_WEIGHTS_FILE).write_bytes(damaged)
    if read_or_refused(folder) is not None:
        assert len(damaged) == len(content)


def test_the_weights_are_named_where_they_are_cut(tmp_path):
    published_folder(tmp_path)
    weights = tmp_path / peft.ADAPTER_WEIGHTS_FILE
    content = weights.read_bytes()
    for length in (0, 4, 8, 100, len(content) - 1):
        weights.write_bytes(content[:length])
        assert read_or_refused(tmp_path) is None


def test_another_adapter_than_the_config_asks_for(tmp_path):
    published_folder(tmp_path)
    expected = LoraConfig(8, 16.0, ("query", "value"))
    with pytest.raises(ValueError, match="has rank 8, alpha 32, targets query,value, and the config asks for 8, 16, q"):
        peft.read_adapter(tmp_path, LLAMA, expected=expected)


@pytest.mark.parametrize(
    ("name", "base", "revision"),
    [("owner/name@v2", "owner/name", "v2"), ("owner/name", "owner/name", None), ("here", "{folder}/here", None)],
)
def test_the_base_is_found_from_elsewhere(tmp_path, monkeypatch, name, base, revision):
    """By PEFT and transformers, which know neither our way to name a revision nor where the command stood."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    peft.write_adapter(tmp_path / "out", published_model(adapter=True)[1], lora_config("llama"), base_name=name)
    description = json.loads((tmp_path / "out" / peft.ADAPTER_CONFIG_FILE).read_text(encoding="utf-8"))
    assert description["base_model_name_or_path"] == base.format(folder=tmp_path)
    assert description["revision"] == revision
