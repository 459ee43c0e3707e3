"""The published model that a run starts from: its folder, its config, and its parameters.

A base is named by `model.base`: a Hugging Face folder, a GGUF file, either of them in an installed package
(`package:<package>/<file>`), or a hub id (`owner/name`, or `owner/name@revision`).
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from colar_jax.errors import UserError
from colar_jax.gguf_header import is_gguf
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.weights import hf_config
from colar_jax.weights.loading import Tree, load_llama, stored_config, stored_tensors
from colar_jax.weights.packaged_file import PREFIX, packaged_file

logger = logging.getLogger(__name__)

# What is fetched of a hub model. Not its pickled weights.
_WANTED_FILES = ("*.json", "*.model", "*.txt", "*.jinja")
_WANTED_WEIGHTS = ("*.safetensors",)
# The same weights once more, in the publisher's own format: of Llama, of others, of Mistral.
_UNWANTED_FILES = ("original/*", "*/*.safetensors", "consolidated*.safetensors")
_SAMPLED_BYTES = 4096  # of every tensor, for its hash


def local_base(name: str, said: str = "model.base=") -> Path:
    """What a base model's name stands for on this machine, there or not; nothing is fetched.

    Raises:
        UserError: it is of a package that is not installed, or that has no such file.
    """
    return packaged_file(name, said) if name.startswith(PREFIX) else Path(name).expanduser()


def base_folder(name: str, said: str = "model.base=", *, with_weights: bool = True) -> Path:
    """The local folder (or GGUF file) of a base model; one named by a hub id is fetched, or found in the hub's cache.

    Args:
        name: a folder, a GGUF file, package:<package>/<file>, or owner/name[@revision].
        said: what the name was given as, for messages.
        with_weights: whether they are fetched, too; a plan needs the config and the tokenizer alone.

    Raises:
        UserError: there is no such folder, and no such model on the hub (or no access to it, or no network).
    """
    path = local_base(name, said)
    if path.is_dir() or (is_gguf(path) and path.is_file()):
        return path
    if path.is_file():
        raise UserError(f"{said}{name!r} is a file, and no GGUF file (.gguf): name the folder that it is in")
    repository, _, revision = name.partition("@")
    if path.is_absolute() or is_gguf(path) or name.startswith((".", "~")) or repository.count("/") != 1:
        raise UserError(
            f"{said}{name!r}: there is no such folder or file{_seen_from(path)}, and it is no hub id (owner/name); "
            f"name another{_by_flag(said)}"
        )
    import huggingface_hub  # here, because only hub ids need it

    try:
        fetched = huggingface_hub.snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=[*_WANTED_FILES, *(_WANTED_WEIGHTS if with_weights else ())],
            ignore_patterns=list(_UNWANTED_FILES),
        )
    except Exception as error:  # of the network, of the hub, of its cache: each library below has errors of its own
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{said}{name!r} is no folder{_seen_from(path)}, and cannot be fetched from the hub "
            f"({type(error).__name__}: {reason}). Check the name, the network, and for gated models `hf auth login`; "
            f"or give a local folder{_by_flag(said)}"
        ) from error
    return Path(fetched)


def _seen_from(path: Path) -> str:
    """Where a relative path was looked for: who opens a run may stand elsewhere than who trained it."""
    return "" if path.is_absolute() else f" in {Path.cwd()}"


def _by_flag(said: str) -> str:
    return f" with --config.{said}FOLDER" if said else ""


@dataclasses.dataclass(frozen=True)
class BaseModel:
    """A base model that is known but not loaded."""

    folder: Path
    stored: LlamaConfig  # as in the folder
    added_rows: int  # for special tokens of the tokenizer that are not among the rows of the embedding: `[PAD]`

    @property
    def config(self) -> LlamaConfig:
        """The shape of the model that is trained: the stored one, with the added rows."""
        return dataclasses.replace(self.stored, vocab_size=self.stored.vocab_size + self.added_rows)

    def load(self, shardings: Any = None, dtype=jnp.float32) -> Tree:
        """Its parameters, as `weights.loading.load_llama`."""
        return load_llama(self.folder, self.stored, shardings, dtype, added_rows=self.added_rows)


def open_base(folder: Path, *, num_tokens: int, spare_ids: Collection[int]) -> BaseModel:
    """Read what a base model is, and see that it fits a tokenizer of `num_tokens` ids.

    A checkpoint may have more rows than its tokenizer has tokens (Qwen2's are padded to 151,936). Where the only ids
    without a row are `spare_ids`, which no text of ours has, rows are added: for `[PAD]`, and for Gemma-3-1B's token
    of images (transformers issue 37011).

    Raises:
        UserError: `config.json` is missing or not supported, or the vocabulary does not match.
    """
    stored = stored_config(folder)
    if num_tokens <= stored.vocab_size:
        if num_tokens < 0.9 * stored.vocab_size:
            logger.warning(
                "the tokenizer has %d tokens, the model in %s %d rows: is it the tokenizer of this model?",
                num_tokens, folder, stored.vocab_size,
            )  # fmt: skip
        return BaseModel(folder, stored, 0)
    without_row = set(range(stored.vocab_size, num_tokens))
    if without_row <= set(spare_ids):
        return BaseModel(folder, stored, len(without_row))
    raise UserError(
        f"vocabulary mismatch: the tokenizer has ids up to {num_tokens - 1}, the model in {folder} has "
        f"{stored.vocab_size} rows, and rows are added for padding and special tokens alone. Leave data.tokenizer at "
        "its default to use the model's own tokenizer, or give the model rows for the tokens that you added: "
        "model.resize_token_embeddings(len(tokenizer)), save both into one folder, and name that in model.base"
    )


def base_identity(folder: Path) -> dict[str, str]:
    """What tells one base model from another, cheaply: hashes of its `config.json`, and of its weights' names, shapes
    and a sample of each tensor's bytes.

    The folder's name is not part of the hashes: a model may move. `name` is for people.

    Raises:
        UserError: the folder's weights cannot be read.
    """
    stored, faults = stored_tensors(folder)
    if faults:
        raise UserError(f"{folder} has no readable weights:\n  " + "\n  ".join(faults))
    weights = hashlib.sha256()
    for name, tensor in sorted(stored.items()):
        weights.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
        with open(tensor.file, "rb") as file:
            file.seek(tensor.start + tensor.num_bytes // 2)
            weights.update(file.read(min(_SAMPLED_BYTES, tensor.num_bytes - tensor.num_bytes // 2)))
    if is_gguf(folder):
        config = hashlib.sha256(json.dumps(hf_config.read_raw(folder), sort_keys=True).encode())
    else:
        config = hashlib.sha256((folder / hf_config.HF_CONFIG_FILE).read_bytes())
    return {"name": folder.name, "config": config.hexdigest()[:16], "weights": weights.hexdigest()[:16]}
