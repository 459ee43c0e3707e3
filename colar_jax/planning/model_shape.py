"""The model of a run as shapes alone: an 8B model is planned on a machine that could never hold it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from colar_jax.config import Config
from colar_jax.model import hf_config
from colar_jax.model.lora import cast_base, lora_config, random_streams
from colar_jax.model.presets import PRESETS, LlamaConfig
from colar_jax.model.reasoner import Reasoner
from colar_jax.run import latent_head_config

Tree = dict[str, Any]


def llama_shape(config: Config, num_tokens: int) -> LlamaConfig:
    """The size of a run's base: of a preset with this vocabulary, or by the `config.json` of `model.base` alone.

    Raises:
        ValueError: there is no such preset, or the base has no `config.json` that we can read.
    """
    if not config.model.base:
        return dataclasses.replace(PRESETS[config.model.preset], vocab_size=num_tokens)
    folder = Path(config.model.base).expanduser()
    stored = hf_config.read_config(folder) if folder.is_dir() else _from_hub(config.model.base)
    return dataclasses.replace(stored, vocab_size=max(stored.vocab_size, num_tokens))


def abstract_model(config: Config, llama: LlamaConfig) -> tuple[Any, Tree]:
    """The graph, and the parameters as `ShapeDtypeStruct`s, of what `run.prepare` would make."""
    head, lora = latent_head_config(config.model.latent_head, llama), lora_config(config.model.lora)
    with nnx.use_eager_sharding(False):
        graph, state = nnx.split(nnx.eval_shape(lambda: Reasoner(llama, head, lora, rngs=random_streams(0))))
    base_dtype = jnp.dtype(config.model.base_dtype)
    return graph, jax.eval_shape(lambda parameters: cast_base(parameters, base_dtype), nnx.to_pure_dict(state))


def _from_hub(name: str) -> LlamaConfig:
    import huggingface_hub  # here, because only hub ids need it

    repository, _, revision = name.partition("@")
    try:
        path = huggingface_hub.hf_hub_download(repository, hf_config.CONFIG_FILE, revision=revision or None)
    except Exception as error:  # of the network, of the hub, of its cache: each library below has errors of its own
        raise ValueError(
            f"model.base={name!r} is no folder, and its config.json cannot be fetched ({type(error).__name__}): name a "
            "folder, or plan with a size by name: --config.model.base= --config.model.preset=llama-3.2-1b"
        ) from error
    return hf_config.from_hf(json.loads(Path(path).read_text()), name)
