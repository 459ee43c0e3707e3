"""The size of a run's model, without its weights: an 8B model is planned on a machine that could never hold it."""

import dataclasses
from pathlib import Path

from colar_jax.config import Config
from colar_jax.errors import UserError
from colar_jax.json_object import read_json_object
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.model.presets import PRESETS
from colar_jax.weights import hf_config
from colar_jax.weights.base_model import local_base
from colar_jax.weights.loading import has_weights, stored_config


def llama_shape(config: Config, num_tokens: int) -> LlamaConfig:
    """The size of a run's base: of a preset with this vocabulary, or of `model.base` as it is loaded.

    Of a base whose weights are not there `config.json` is enough.

    Raises:
        UserError: there is no such preset, or the base has no `config.json` that we can read.
    """
    if not config.model.base:
        return dataclasses.replace(PRESETS[config.model.preset], vocab_size=num_tokens)
    folder = local_base(config.model.base)
    if not folder.exists():
        stored = _from_hub(config.model.base)
    else:
        stored = stored_config(folder) if has_weights(folder) else hf_config.read_config(folder)
    return dataclasses.replace(stored, vocab_size=max(stored.vocab_size, num_tokens))


def _from_hub(name: str) -> LlamaConfig:
    import huggingface_hub  # here, because only hub ids need it

    repository, _, revision = name.partition("@")
    try:
        path = huggingface_hub.hf_hub_download(repository, hf_config.HF_CONFIG_FILE, revision=revision or None)
    except Exception as error:  # of the network, of the hub, of its cache: each library below has errors of its own
        raise UserError(
            f"model.base={name!r} is no folder, and its config.json cannot be fetched ({type(error).__name__}): name a "
            "folder, or plan with a size by name: --config.model.base= --config.model.preset=llama-3.2-1b"
        ) from error
    return hf_config.from_hf(read_json_object(Path(path)), name)
