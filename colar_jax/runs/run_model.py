"""The model of a run: its parts, and how they are placed on the devices."""

import dataclasses
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from colar_jax.config import Config, parse_mesh
from colar_jax.data.tokenizers import Tokenizer
from colar_jax.errors import UserError
from colar_jax.model import reasoner
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.lora import cast_base, joined, lora_config
from colar_jax.model.presets import PRESETS, LlamaConfig
from colar_jax.model.reasoner import OwnModule
from colar_jax.parallel.choice import choose_mesh, device_bytes
from colar_jax.parallel.mesh import make_mesh, put
from colar_jax.parallel.sharding import parameter_specs, shardings_of
from colar_jax.training.state import Tree, partition
from colar_jax.weights import peft
from colar_jax.weights.base_model import BaseModel, open_base

logger = logging.getLogger(__name__)


def model_name(config: Config) -> str:
    """What to call the model of a run: its base, or its preset."""
    return config.model.base or config.model.preset


def abstract_model(config: Config, llama: LlamaConfig) -> tuple[object, Tree]:
    """Graph and parameters of a run's model on a Llama of this shape, as shapes: nothing is allocated."""
    lora, modules = lora_config(config.model.lora), own_modules(config)
    graph, shapes = reasoner.abstract(llama, _latent_head(config, llama), lora, modules)
    return graph, jax.eval_shape(lambda tree: cast_base(tree, jnp.dtype(config.model.base_dtype)), shapes)


def state_bytes(config: Config, parameters: Tree) -> int:
    """What training holds at most in any stage, whole: parameters, and for trained ones gradient and both moments."""

    def num_bytes(tree: Tree) -> int:
        return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    trained = {part for name in config.stage_names for part in config.stages[name].bound_method.trains}
    trainable, _ = partition(parameters, trained)
    return num_bytes(parameters) + 3 * num_bytes(trainable)


def _latent_head(config: Config, llama: LlamaConfig) -> LatentHeadConfig:
    settings = config.model.latent_head
    return LatentHeadConfig(
        intermediate_size=settings.intermediate_size or llama.hidden_size,
        deterministic=settings.deterministic,
        min_log_std=settings.min_log_std,
        max_log_std=settings.max_log_std,
    )


def own_modules(config: Config) -> dict[str, OwnModule]:
    """What the methods of a run's stages bring to its model, by name; UserError where two do not agree on one."""
    found: dict[str, tuple[str, OwnModule]] = {}
    for name, stage in config.stages.items():
        for part, module in stage.bound_method.modules.items():
            other, same = found.setdefault(part, (name, module))
            if module != same:
                raise UserError(
                    f"stages.{other} and stages.{name} each have a part {part!r} of the model, and they differ "
                    f"({same.settings} and {module.settings}): give both the same settings, or make two runs of them"
                )
    return {part: module for part, (_, module) in found.items()}


def _mesh_for(config: Config, parameters: Tree) -> jax.sharding.Mesh:
    sizes = parse_mesh(config.parallel.mesh)
    if sizes is not None:
        mesh = make_mesh(sizes=sizes)
    else:
        memory = device_bytes(jax.local_devices()[0])
        sizes, reason = choose_mesh(state_bytes(config, parameters), jax.device_count(), memory)
        mesh = make_mesh(sizes=sizes)
        if jax.device_count() > 1:
            logger.info("mesh, by itself: %s", reason)
    if jax.device_count() > 1:
        logger.info("mesh: %s", ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items()))
    return mesh


def make_model(config: Config, folder: Path | None, tokenizer: Tokenizer) -> tuple[jax.sharding.Mesh, object, Tree]:
    """Mesh, graph, and parameters of the model in place on the mesh."""
    base: BaseModel | None = None
    if folder is None:
        llama = dataclasses.replace(PRESETS[config.model.preset], vocab_size=tokenizer.num_tokens)
    else:
        base = open_base(folder, num_tokens=tokenizer.num_tokens, pad_id=tokenizer.pad_id)
        llama = base.config
    graph, shapes = abstract_model(config, llama)
    mesh = _mesh_for(config, shapes)
    head, modules = _latent_head(config, llama), own_modules(config)
    lora, base_dtype = lora_config(config.model.lora), jnp.dtype(config.model.base_dtype)
    shardings = shardings_of(parameter_specs(graph, shapes, mesh), mesh)
    if base is None:
        graph, parameters = reasoner.build(llama, head, config.seed, lora, modules)
        # Calibrated again after the cast: a later stage measures the weights as they are held, and must find the same.
        parameters = reasoner.calibrate(cast_base(parameters, base_dtype))
    else:
        loaded = base.load(shardings["llama"], base_dtype)
        graph, parameters = reasoner.build_on(llama, head, loaded, config.seed, lora, modules)
    if config.model.lora.init_from:
        adapters = peft.read_adapter(Path(config.model.lora.init_from).expanduser(), llama, expected=lora)[1]
        parameters = joined(parameters, adapters)
    return mesh, graph, put(parameters, shardings)
