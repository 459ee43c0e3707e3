"""Whole runs on a base model's folder: its weights, its tokenizer, and its identity in the checkpoints."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from golden.base_folders import base_folder
from pipeline.tiny import tiny_config_dict

from colar_jax.config import resolve
from colar_jax.data.tokenizers import EMBEDDED, load_tokenizer
from colar_jax.errors import UserError
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import build
from colar_jax.runs import pipeline
from colar_jax.runs.run import prepare
from colar_jax.runs.starts import finished_parameters
from colar_jax.weights.hf_folder import save_llama
from colar_jax.weights.loading import load_llama

# One stage, one speed, greedy: few programs to compile.
TWO_STEPS = {"run": "colar", "stages.colar.steps": 2, "stages.colar.latent.speeds": "2"}
TWO_STEPS |= {"eval.seeds": 0, "eval.speeds": "2", "model.preset": "ignored"}


def make_base(folder: Path, *, seed=0, extra_rows=3, tied=False) -> Path:
    """A Qwen2 with the tokenizer of the embedded problems, and rows that no token has, as Qwen2 itself."""
    tokenizer = load_tokenizer(EMBEDDED)
    config = dataclasses.replace(
        PRESETS["pico"],
        vocab_size=tokenizer.num_tokens + extra_rows,
        tied_head=tied,
        qkv_bias=True,
        rope_theta=1e6,
        family="qwen2",
    )
    _, parameters = build(config, LatentHeadConfig(8), seed)
    save_llama(parameters["llama"], config, folder, max_shard_bytes=30_000)
    tokenizer.save(folder)
    return folder


def config_of(workdir: Path, base: Path, **overrides):
    return resolve(tiny_config_dict(workdir, **TWO_STEPS | {"model.base": str(base)} | overrides))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Path]:
    """A base and the folder of a run on it. Not to be changed."""
    folder = tmp_path_factory.mktemp("run")
    base = make_base(folder / "base")
    pipeline.train(config_of(folder / "work", base))
    return base, folder / "work"


@pytest.mark.slow
def test_a_run_starts_from_the_folder(finished):
    base, workdir = finished
    run = prepare(config_of(workdir, base))
    config = dataclasses.replace(PRESETS["pico"], vocab_size=run.tokenizer.num_tokens + 3)
    expected = load_llama(base, dataclasses.replace(config, tied_head=False, qkv_bias=True, rope_theta=1e6))
    jax.tree.map(np.testing.assert_array_equal, run.initial_parameters()["llama"], expected)
    embed_std = float(run.initial_parameters()["latent_head"]["embed_std"])
    assert embed_std == pytest.approx(float(np.std(expected["embedding"])), rel=1e-6)
    assert run.tokenizer.encode("How many?") == load_tokenizer(EMBEDDED).encode("How many?")
    assert "train" not in vars(run) and len(run.train) == len(run.train_problems)  # encoded when it is asked for


@pytest.mark.slow
def test_it_trains_to_its_end(finished):
    base, workdir = finished
    report = json.loads((workdir / "report.json").read_text())
    assert {row["stage"] for row in report["results"]} == {"colar"}
    assert str(base) in (workdir / "report.md").read_text()
    assert json.loads((workdir / "config.json").read_text())["model"]["base"] == str(base)
    run = prepare(config_of(workdir, base))
    trained = finished_parameters(run, workdir / "colar")["llama"]
    moved = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), trained, run.initial_parameters()["llama"])
    assert min(jax.tree.leaves(moved)) > 0  # every parameter, the biases of q, k and v included


@pytest.mark.slow
def test_a_moved_base_is_the_same_and_another_is_not(finished, tmp_path, monkeypatch):
    base, workdir = finished
    workdir = Path(shutil.copytree(workdir, tmp_path / "work"))
    monkeypatch.setattr(pipeline, "sweep_run", lambda run: [])
    moved = Path(shutil.copytree(base, tmp_path / "moved"))
    pipeline.train(config_of(workdir, moved))  # nothing is left to do, and nothing is refused
    other = make_base(tmp_path / "other", seed=1)
    with pytest.raises(
        ValueError, match=r"base model's weights \(its hash\) was '\w+', is '\w+'\.\n.*bring back the base"
    ):
        pipeline.train(config_of(workdir, other))


@pytest.mark.slow
def test_a_tokenizer_whose_files_were_changed(finished, tmp_path, monkeypatch):
    """Its name and its size are the same, and two words have changed places."""
    base, workdir = (Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in finished)
    monkeypatch.setattr(pipeline, "sweep_run", lambda run: [])
    file = base / "tokenizer.json"
    file.write_text(file.read_text().replace('"apples"', '"@"').replace('"nuts"', '"apples"').replace('"@"', '"nuts"'))
    with pytest.raises(UserError, match=r"(?s)how the tokenizer reads \(a hash\) was .* bring back the tokenizer"):
        pipeline.train(config_of(workdir, base))
    with pytest.raises(
        UserError, match=r"was trained with a tokenizer that read otherwise .*work/tokenizer: bring that"
    ):
        finished_parameters(prepare(config_of(workdir, base)), workdir / "colar")
    shutil.copytree(workdir / "tokenizer", base, dirs_exist_ok=True)
    pipeline.train(config_of(workdir, base))  # nothing is left to do, and nothing is refused
    finished_parameters(prepare(config_of(workdir, base)), workdir / "colar")


def test_a_tokenizer_of_another_model(tmp_path):
    base = make_base(tmp_path / "base", extra_rows=-2)
    with pytest.raises(ValueError, match="vocabulary mismatch"):
        prepare(config_of(tmp_path / "work", base))


@pytest.mark.parametrize(
    ("tokenizer", "base", "is_of_base"),
    [(EMBEDDED, "x", True), ("", "x", True), ("other", "x", False), (EMBEDDED, "", False)],
)
def test_whose_tokenizer_it_is(tokenizer, base, is_of_base, tmp_path):
    settings = {"data.tokenizer": tokenizer, "model.base": base, "model.preset": "pico"}
    assert resolve(tiny_config_dict(tmp_path, **settings)).uses_tokenizer_of_base is is_of_base


def test_no_tokenizer_at_all(tmp_path):
    with pytest.raises(ValueError, match=r"data\.tokenizer is empty: without model\.base there is none to take"):
        resolve(tiny_config_dict(tmp_path, **{"data.tokenizer": ""}))


def test_a_folder_without_a_tokenizer(tmp_path):
    base = base_folder("qwen2", "classic", tmp_path)
    with pytest.raises(ValueError, match=r"has no tokenizer in it \(tokenizer\.json.*set data\.tokenizer"):
        prepare(config_of(tmp_path / "work", base))


def test_a_folder_without_a_model_is_not_asked_for_its_tokenizer(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty has no config.json: it is no Hugging Face folder of a model$"):
        prepare(config_of(tmp_path / "work", tmp_path / "empty"))


@pytest.mark.parametrize(
    ("base", "named"), [("meta-llama/Llama-3.2-1B", r" \('meta-llama/Llama-3.2-1B'\)"), (None, "")]
)
@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_an_adapter_is_no_base(tmp_path, base, named, has_tokenizer):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    if has_tokenizer:
        load_tokenizer(EMBEDDED).save(folder)
    advice = f"name its base{named} in model.base, and this folder in model.lora.init_from"
    with pytest.raises(UserError, match=f"^{folder} is a PEFT adapter, and no whole model: {advice}$"):
        prepare(config_of(tmp_path / "work", folder))


def test_no_such_base(tmp_path):
    with pytest.raises(ValueError, match=r"model\.base='.*/nowhere': there is no such folder"):
        prepare(config_of(tmp_path / "work", tmp_path / "nowhere"))


def write_tokenizer_without_pad(folder: Path, num_tokens: int) -> None:
    """The tokenizer of the embedded problems, with more tokens and no `[PAD]`, as Llama's has none."""
    hf = load_tokenizer(EMBEDDED).hf
    hf.add_tokens([f"unused{i}" for i in range(num_tokens - len(hf))])
    hf.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = {name: value for name, value in json.loads(path.read_text()).items() if name != "pad_token"}
    path.write_text(json.dumps(settings))
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"[PAD]"', '"[SPARE]"'))


@pytest.mark.parametrize("model", ["llama", "qwen2"])
def test_a_pad_row_is_added_where_the_tokenizer_has_none(model, tmp_path):
    """640 ids and no padding token: `[PAD]` is id 640, as in the published code."""
    base = tmp_path / "base"
    base.mkdir()
    write_tokenizer_without_pad(base_folder(model, "classic", base), 640)
    run = prepare(config_of(tmp_path / "work", base))
    assert (run.tokenizer.pad_id, run.tokenizer.num_tokens) == (640, 641)
    for name in {"llama": ("embedding",), "qwen2": ("embedding", "head")}[model]:
        matrix = np.asarray(run.initial_parameters()["llama"][name])
        assert matrix.shape == (641, 64)
        np.testing.assert_allclose(matrix[640], matrix[:640].mean(axis=0), rtol=1e-5, atol=1e-8)
