"""An exported folder: its files, what transformers loads of it, and adapters."""

import importlib.util
import json
import os

import jax
import numpy as np
import pytest
from exchange.thinking_alike import assert_thinks_alike
from exchange.tiny_run import LORA, given_run, tiny_config
from flax import nnx

from colar_jax.errors import UserError
from colar_jax.exchange.folder import export_stage
from colar_jax.export import Flags, export
from colar_jax.model.execution import Execution
from colar_jax.model.lora import LoraConfig
from colar_jax.model.visibility import packed as packed_rows
from colar_jax.weights.latent_head_file import load_latent_head
from colar_jax.weights.loading import load_llama, stored_config
from colar_jax.weights.peft import read_adapter

pytestmark = pytest.mark.slow


def test_every_file_has_the_mode_that_the_umask_leaves(tmp_path):
    run, _ = given_run(tmp_path / "run", stages=("codi", "colar"), projection=20)
    before = os.umask(0o027)
    try:
        folders = [export_stage(run, stage, tmp_path / stage) for stage in run.config.stage_names]
    finally:
        os.umask(before)
    files = {path.name: oct(path.stat().st_mode & 0o777) for folder in folders for path in folder.iterdir()}
    assert {"model.safetensors", "latent_head.safetensors", "projection.safetensors", "tokenizer.json"} <= files.keys()
    assert set(files.values()) == {"0o640"}
    assert {oct(folder.stat().st_mode & 0o777) for folder in folders} == {"0o750"}


def test_transformers_loads_it(exported):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run, parameters, folder = exported
    ids = AutoTokenizer.from_pretrained(folder)("Tom has 24 apples.", add_special_tokens=False)["input_ids"]
    assert ids == run.tokenizer.encode("Tom has 24 apples.")
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(torch.tensor([ids])).logits.numpy()
    model = nnx.merge(run.graph, parameters)
    embeds = model.llama.embedding[...][np.array([ids])]
    sees = packed_rows(np.ones((1, len(ids)), np.int32), Execution())
    hidden, _ = model.llama.run(embeds, np.arange(len(ids))[None], sees, Execution())
    np.testing.assert_allclose(np.asarray(model.llama.logits(hidden)), theirs, atol=1e-4 * np.abs(theirs).max())


def test_the_latent_head_comes_back(exported):
    _, parameters, folder = exported
    head, config = load_latent_head(folder)
    assert config.intermediate_size == 24
    jax.tree.map(np.testing.assert_array_equal, head, dict(parameters["latent_head"]))


@pytest.mark.parametrize("below", ["", "/below"])
def test_a_file_where_the_folder_would_be_is_called_a_file(tmp_path, below):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match=f"--out={tmp_path}/out{below}: {tmp_path}/out is a file, and an export is a f"):
        export(tiny_config(tmp_path / "run"), Flags(out=f"{tmp_path}/out{below}"))


def test_nothing_is_left_of_an_export_that_fails(exported, tmp_path, monkeypatch):
    run, _, folder = exported
    monkeypatch.setattr(run.tokenizer.hf, "save_pretrained", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_stage(run, "colar", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="exists and is not empty"):
        export_stage(run, "colar", folder)


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        ("cola", {}, "--stage=cola is no stage of this run: colar. Did you mean 'colar'"),
        ("colar", {"form": "whole"}, "--form=whole is none of merged, adapter$"),
        ("colar", {"dtype": "int8"}, "--dtype=int8 is none of"),
        ("colar", {"form": "adapter"}, "this run trained no adapters .* on a base model"),
    ],
)
def test_options(exported, tmp_path, stage, options, message):
    run, _, _ = exported
    with pytest.raises(ValueError, match=message):
        export_stage(run, stage, tmp_path / "out", **options)


def test_adapters_of_a_base_model(tmp_path):
    """Train adapters on an exported model, export those: PEFT's files, and the base's name."""
    first, _ = given_run(tmp_path / "first")
    base = export_stage(first, "colar", tmp_path / "base")
    run, parameters = given_run(tmp_path / "second", base=str(base), lora=LORA)
    folder = export_stage(run, "colar", tmp_path / "adapter", form="adapter")
    assert not (folder / "model.safetensors").exists()
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    lora = LoraConfig(3, 12.0, ("query", "value", "down"))
    _, adapters = read_adapter(folder, nnx.merge(run.graph, run.initial_parameters()).llama.config, lora)
    for target, leaves in adapters["llama"]["blocks"].items():
        ours = parameters["llama"]["blocks"][target]["adapter"]
        jax.tree.map(np.testing.assert_array_equal, leaves["adapter"], dict(ours))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_on_a_narrow_base_are_merged_in_the_dtype_of_the_folder(dtype, tmp_path):
    run, parameters = given_run(tmp_path / "run", lora=LORA, base_dtype="bfloat16")
    folder = export_stage(run, "colar", tmp_path / "out", dtype=dtype)
    written = load_llama(folder, stored_config(folder))["blocks"]
    for target in LORA["targets"].split(","):
        ours = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), parameters["llama"]["blocks"][target])
        exact = ours["kernel"] + 4.0 * ours["adapter"]["a"] @ ours["adapter"]["b"]
        error = np.abs(np.asarray(written[target]["kernel"]) - exact).max() / np.abs(exact).max()
        assert error < 1e-6 if dtype == "float32" else 1e-4 < error < 4e-3


def without_padding_token(folder):
    """Take `[PAD]` out of a folder's tokenizer, which then pads with eos, as many published ones do."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text().replace('"pad_token": "[PAD]"', '"pad_token": "<eos>"')
        (folder / name).write_text(text.replace("[PAD]", "[OTHER]"))


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_the_exported_tokenizer_fits_the_exported_model(form, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    first, _ = given_run(tmp_path / "first")
    base = export_stage(first, "colar", tmp_path / "base")
    without_padding_token(base)
    num_rows = json.loads((base / "config.json").read_text())["vocab_size"]
    run, parameters = given_run(tmp_path / "second", base=str(base), lora=LORA)
    assert run.tokenizer.pad_id == num_rows  # its row is added for training
    folder = export_stage(run, "colar", tmp_path / "out", form=form)
    model = AutoModelForCausalLM.from_pretrained(base if form == "adapter" else folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(["Tom has 24 apples.", "Tom"], padding=True, return_tensors="pt")
    assert int(batch["input_ids"].max()) < model.get_input_embeddings().num_embeddings
    model(**batch)
    assert tokenizer.eos_token_id == run.tokenizer.eos_id
    assert (tokenizer.pad_token_id == tokenizer.eos_token_id) is (form == "adapter")
    if form == "merged":
        assert (model.config.eos_token_id, model.config.pad_token_id) == (run.tokenizer.eos_id, run.tokenizer.pad_id)
    if form == "merged" or importlib.util.find_spec("peft"):
        assert_thinks_alike(run, parameters, "colar", folder)
