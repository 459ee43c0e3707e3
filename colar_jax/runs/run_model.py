"""The model of a run: its parts, and how they are placed on the devices."""

import dataclasses
import functools
import logging
from collections.abc import Collection
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from colar_jax.config import Config, parse_mesh
from colar_jax.data.tokenizers import Tokenizer
from colar_jax.errors import UserError
from colar_jax.model import reasoner
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.model.lora import LoraConfig, cast_base, joined, lora_config, split_base
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import OwnModule
from colar_jax.parallel.choice import choose_mesh, device_bytes
from colar_jax.parallel.mesh import make_mesh, put
from colar_jax.parallel.sharding import logical_axes, parameter_specs, placed_shapes
from colar_jax.training.optimizer import make_optimizer
from colar_jax.training.state import Tree, partition
from colar_jax.weights import peft
from colar_jax.weights.base_model import BaseModel, open_base
from colar_jax.weights.loading import check_weights

logger = logging.getLogger(__name__)


def model_name(config: Config) -> str:
    """What to call the model of a run: its base, or its preset."""
    return config.model.base or config.model.preset


def abstract_model(config: Config, llama: LlamaConfig, *, for_training: bool = True) -> tuple[object, Tree]:
    """Graph and parameters of a run's model on a Llama of this shape, as shapes: nothing is allocated."""
    lora, modules = lora_config(config.model.lora), own_modules(config, for_training=for_training)
    graph, shapes = reasoner.abstract(llama, _latent_head(config, llama), lora, modules)
    return graph, jax.eval_shape(lambda tree: cast_base(tree, jnp.dtype(config.model.base_dtype)), shapes)


def state_bytes(config: Config, graph, parameters: Tree) -> int:
    """What training holds at most in any stage, whole: parameters, and of trained ones gradient and optimizer state."""

    def num_bytes(tree: Tree) -> int:
        return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    trained = {part for name in config.stage_names for part in config.stages[name].bound_method.trains}
    trainable, _ = partition(parameters, trained)
    axes = logical_axes(graph, parameters)
    optimizers = (make_optimizer(config.stages[name].optimizer, 1, axes) for name in config.stage_names)
    kept = max(num_bytes(jax.eval_shape(optimizer.init, trainable)) for optimizer in optimizers)
    return num_bytes(parameters) + num_bytes(trainable) + kept


def _latent_head(config: Config, llama: LlamaConfig) -> LatentHeadConfig:
    settings = config.model.latent_head
    return LatentHeadConfig(
        intermediate_size=settings.intermediate_size or llama.hidden_size,
        deterministic=settings.deterministic,
        min_log_std=settings.min_log_std,
        max_log_std=settings.max_log_std,
    )


def own_modules(config: Config, *, for_training: bool = True) -> dict[str, OwnModule]:
    """What the methods of a run's stages bring to its model, by name; UserError where two do not agree on one.

    Not `for_training`: without those that nothing but training reads.
    """
    found: dict[str, tuple[str, OwnModule]] = {}
    for name, stage in config.stages.items():
        for part, module in stage.bound_method.modules.items():
            other, same = found.setdefault(part, (name, module))
            if module != same:
                raise UserError(
                    f"stages.{other} and stages.{name} each have a part {part!r} of the model, and they differ "
                    f"({same.settings} and {module.settings}): give both the same settings, or make two runs of them"
                )
    return {part: module for part, (_, module) in found.items() if for_training or module.save is not None}


def _mesh_for(config: Config, graph, parameters: Tree, for_training: bool) -> jax.sharding.Mesh:
    """The mesh that the parameters are made or read on: of a run that only decodes, the one for that."""
    field = "parallel.mesh" if for_training or not config.parallel.decode_mesh else "parallel.decode_mesh"
    sizes = parse_mesh(getattr(config.parallel, field.removeprefix("parallel.")))
    if sizes is not None:
        mesh = make_mesh(sizes=sizes, field=field)
    else:
        memory = device_bytes(jax.local_devices()[0])
        sizes, reason = choose_mesh(state_bytes(config, graph, parameters), jax.device_count(), memory)
        mesh = make_mesh(sizes=sizes)
        if jax.device_count() > 1:
            logger.info("mesh, by itself: %s", reason)
    if jax.device_count() > 1:
        logger.info("mesh: %s", ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items()))
    return mesh


@dataclasses.dataclass(frozen=True, eq=False)
class RunModel:
    """The model of a run: what it is and where it lies. No weights are there until they are asked for."""

    config: Config
    llama: LlamaConfig
    base: BaseModel | None
    mesh: jax.sharding.Mesh
    graph: object  # from `reasoner.abstract`
    shapes: Tree  # of its parameters, with shardings
    modules: dict[str, OwnModule]  # that methods bring to it

    @functools.cached_property
    def adapters(self) -> Tree:
        """Those to start from (`model.lora.init_from`), on the host; empty without. UserError where they do not fit."""
        settings = self.config.model.lora
        if not settings.init_from:
            return {}
        return peft.read_adapter(Path(settings.init_from).expanduser(), self.llama, expected=self._lora)[1]

    @functools.cached_property
    def frozen_base(self) -> Tree:
        """The weights that adapters stand beside, loaded once and never changed; empty without adapters."""
        if self._lora is None:
            return {}
        if self.base is not None:
            return {"llama": self._loaded_base()}
        return put(split_base(self._random())[1], self._shardings(split_base(self.shapes)[1]))

    def initial_parameters(self) -> Tree:
        """The parameters before any stage, in place on the mesh: made anew, but for `frozen_base`."""
        if self.base is not None:
            loaded = self._loaded_base() if self._lora is None else self.frozen_base["llama"]
            head, config = _latent_head(self.config, self.llama), self.config
            parameters = reasoner.build_on(self.llama, head, loaded, config.seed, self._lora, self.modules)[1]
        elif self._lora is None:
            parameters = self._random()
        else:
            own = split_base(self._random())[0]
            parameters = joined(own, self.frozen_base)
        return put(joined(parameters, self.adapters), self._shardings(self.shapes))

    def initial_modules(self, names: Collection[str]) -> Tree:
        """The methods' own modules of these names, as `initial_parameters` has them; of a base nothing is loaded."""
        if not names:
            return {}
        if self.base is None:
            made = self._random()
        else:
            made = reasoner.initial_modules(self.llama, self.config.seed, self.modules)
        return put({name: made[name] for name in names}, self._shardings({name: self.shapes[name] for name in names}))

    @property
    def _lora(self) -> LoraConfig | None:
        return lora_config(self.config.model.lora)

    def _random(self) -> Tree:
        config = self.config
        head = _latent_head(config, self.llama)
        parameters = reasoner.build(self.llama, head, config.seed, self._lora, self.modules)[1]
        # Calibrated again after the cast: a later stage measures the weights as they are held, and must find the same.
        return reasoner.calibrate(cast_base(parameters, jnp.dtype(config.model.base_dtype)), self.llama)

    def _loaded_base(self) -> Tree:
        return self.base.load(self._shardings(self.shapes["llama"]), jnp.dtype(self.config.model.base_dtype))

    @staticmethod
    def _shardings(shapes: Tree) -> Tree:
        return jax.tree.map(lambda leaf: leaf.sharding, shapes)


def make_model(config: Config, folder: Path | None, tokenizer: Tokenizer, *, for_training: bool = True) -> RunModel:
    """The model of a run on its mesh, without weights.

    Args:
        folder: of the base model; None without one.
        for_training: whether it has the modules that nothing but training reads.

    Raises:
        UserError: the base or the adapters to start from are not what they should be; found before weights are read.
    """
    base: BaseModel | None = None
    if folder is None:
        llama = dataclasses.replace(PRESETS[config.model.preset], vocab_size=tokenizer.num_tokens)
    else:
        base = open_base(folder, num_tokens=tokenizer.num_tokens, spare_ids=tokenizer.spare_ids)
        check_weights(folder, base.stored)
        llama = base.config
    graph, shapes = abstract_model(config, llama, for_training=for_training)
    mesh = _mesh_for(config, graph, shapes, for_training)
    placed = placed_shapes(shapes, parameter_specs(graph, shapes, mesh), mesh)
    modules = own_modules(config, for_training=for_training)
    model = RunModel(config, llama, base, mesh, graph, placed, modules)
    if for_training:
        _ = model.adapters  # what cannot be used is said now; a run that is trained has them, wherever they came from
    return model
