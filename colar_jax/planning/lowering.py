"""What a stage runs, lowered from shapes alone: nothing is loaded or allocated."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from colar_jax.config import Config, StageConfig
from colar_jax.engine import Engine
from colar_jax.methods import Method
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.parallel.mesh import REPLICATED
from colar_jax.parallel.sharding import LogicalAxes, logical_axes, placed_shapes, specs_for
from colar_jax.planning.data_shape import PlannedData
from colar_jax.training.state import TrainState, model_specs, partition, state_shapes


@dataclasses.dataclass(frozen=True)
class PlannedStage:
    """A stage on a mesh of devices that need not be there."""

    config: Config
    name: str
    llama: LlamaConfig
    engine: Engine  # with `decode_gather` decided by the chip's memory, which the devices here do not tell
    parameters: Any  # a tree of shapes
    data: PlannedData

    @property
    def stage(self) -> StageConfig:
        return self.config.stages[self.name]

    @property
    def method(self) -> Method:
        return self.stage.bound_method

    @property
    def logical_axes(self) -> LogicalAxes:
        """What the model says of the axes of its parameters."""
        return logical_axes(self.engine.graph, self.parameters)

    def placed_parameters(self):
        """All parameters, as decoding is given them."""
        engine = self.engine.for_decoding
        return placed_shapes(self.parameters, engine.parameter_specs(self.parameters), engine.mesh)

    def partitioned(self):
        """Parameters as (trained, frozen)."""
        return partition(self.parameters, self.method.trains)

    def placed_state(self, optimizer: optax.GradientTransformation) -> tuple[TrainState, Any]:
        """What a training step is given first: the state, and what is frozen."""
        trainable, frozen = self.partitioned()
        specs = model_specs(self.engine.graph, trainable, frozen, self.engine.mesh)
        state = state_shapes(trainable, optimizer, specs, self.engine.mesh)
        return state, placed_shapes(frozen, specs_for(frozen, specs), self.engine.mesh)

    def placed_key(self):
        """A random key, the same on all devices."""
        return placed_shapes(jax.eval_shape(lambda: jax.random.key(0)), REPLICATED, self.engine.mesh)


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A program that can be compiled, and what it is given, by what it is for."""

    name: str
    program: jax.stages.Lowered
    arguments: dict[str, Any]  # trees of `ShapeDtypeStruct`s with shardings
    number: float  # of what goes through it at a time
    unit: str
    smaller_batch: str  # the setting with which less does
    is_training: bool = False
    times: int = 1  # in a step of the stage; 0: at validations only
    how: str = ""  # what its first line adds to what goes through it
    useful_flops: float = 0.0  # over all devices, by the step's definition; 0 where it is no training step


@dataclasses.dataclass(frozen=True)
class StageLength:
    """A stage's training, counted."""

    num_steps: int
    per_step: float
    unit: str  # of what a step learns from


def bytes_on_a_chip(tree) -> int:
    """What one device holds of a tree of placed arrays."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=np.int64)) * _itemsize(leaf.dtype)
        for leaf in jax.tree.leaves(tree)
    )


def _itemsize(dtype) -> int:
    return 8 if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else jnp.dtype(dtype).itemsize
