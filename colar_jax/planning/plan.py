"""A stage on a slice: compile its programs, and say what they take."""

import dataclasses
import logging

import jax
import numpy as np

from colar_jax.config import Config, parse_mesh
from colar_jax.methods import METHODS
from colar_jax.model.presets import PRESETS
from colar_jax.parallel.choice import choose_mesh
from colar_jax.parallel.mesh import make_mesh
from colar_jax.planning.advice import advice
from colar_jax.planning.compiled import Compiled, compile_for
from colar_jax.planning.data_shape import planned_data
from colar_jax.planning.devices import Target
from colar_jax.planning.model_flops import StepShape, step_flops
from colar_jax.planning.model_shape import llama_shape
from colar_jax.planning.programs import Schedule, lower_rollout, lower_training_step
from colar_jax.planning.roofline import Roofline, roofline
from colar_jax.run_model import abstract_model, state_bytes
from colar_jax.training.state import partition

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ProgramPlan:
    """A program on one chip."""

    compiled: Compiled
    roofline: Roofline | None
    useful_flops: float  # a chip's share of what the step needs by its definition; 0 where it is no training step
    advice: list[str]

    @property
    def mfu_bound(self) -> float | None:
        """Useful FLOPs over what the chip could do in the least time: no run can have more."""
        if self.roofline is None or not self.useful_flops:
            return None
        computed = self.compiled.costs.flops / self.roofline.compute  # the chip's peak
        return self.useful_flops / (computed * self.roofline.overlapped)


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """A stage on a slice."""

    stage: str
    topology: str
    num_chips: int
    mesh: dict[str, int]
    compiler: str
    model: str
    vocabulary: int
    num_parameters: int
    num_trained: int
    schedule: Schedule
    schedule_seconds: tuple[float, float] | None  # with perfect overlap, with none; None where it does not fit
    programs: list[ProgramPlan]


def plan_stage(
    config: Config,
    name: str,
    target: Target,
    *,
    num_examples: int = 0,
    rows_per_chip: int = 0,
    with_rollout: bool = True,
) -> StagePlan:
    """Plan a stage that learns from data.

    Args:
        num_examples: in the whole training set, where the one at hand is a sample.
        rows_per_chip: instead of the stage's rows, which are for one batch size whatever the chips.

    Raises:
        ValueError: the config and the slice do not go together.
    """
    stage, topology = config.stages[name], target.topology
    if stage.trainer != "sft":
        raise ValueError(f"--stage={name}: trainer={stage.trainer!r} cannot be planned, sft can")
    if rows_per_chip:
        stage = dataclasses.replace(stage, rows=rows_per_chip * topology.num_chips)
        config = dataclasses.replace(config, stages=config.stages | {name: stage})
    method = METHODS[stage.method]
    vocabulary = 0 if config.model.base else PRESETS[config.model.preset].vocab_size
    data = planned_data(config, method.recipe(stage).prompt_speeds, vocabulary, num_examples)
    llama = llama_shape(config, data.vocabulary.num_tokens)
    graph, parameters = abstract_model(config, llama)
    mesh = _mesh(config, parameters, target)
    lowered, schedule = lower_training_step(config, name, graph, parameters, data, mesh)
    step = compile_for(lowered, target)
    useful = step_flops(
        llama,
        config.model,
        StepShape(schedule.rows, schedule.positions, schedule.supervised),
        has_latents=method.trains_latent_head,
        passes=2 if method.trains_latent_head and stage.latent.predicted_pass_weight else 1,
    )
    programs = [_planned(config, name, step, target, useful / topology.num_chips, dict(mesh.shape))]
    if with_rollout:
        rollout = compile_for(
            lower_rollout(config, name, graph, parameters, data, mesh, int(topology.chip.hbm_bytes)), target
        )
        programs.append(_planned(config, name, rollout, target, 0.0, dict(mesh.shape)))
    line = programs[0].roofline
    trainable, _ = partition(parameters, trains_latent_head=method.trains_latent_head)
    return StagePlan(
        stage=name,
        topology=topology.name,
        num_chips=topology.num_chips,
        mesh=dict(mesh.shape),
        compiler="TPU" if target.is_tpu else "host devices: a TPU's compiler fuses more, and takes less memory",
        model=config.model.base or config.model.preset,
        vocabulary=llama.vocab_size,
        num_parameters=_count(parameters),
        num_trained=_count(trainable),
        schedule=schedule,
        schedule_seconds=None
        if line is None
        else (schedule.num_steps * line.overlapped, schedule.num_steps * line.serial),
        programs=programs,
    )


def _mesh(config: Config, parameters, target: Target) -> jax.sharding.Mesh:
    """The mesh that a run would have on this slice."""
    sizes = parse_mesh(config.parallel.mesh)
    if sizes is None:
        memory = int(target.topology.chip.hbm_bytes)
        sizes, reason = choose_mesh(state_bytes(config, parameters), target.topology.num_chips, memory)
        logger.info("mesh, by itself: %s", reason)
    return make_mesh(target.devices, sizes)


def _planned(config, name, compiled: Compiled, target: Target, useful: float, mesh: dict[str, int]) -> ProgramPlan:
    line = None if compiled.costs is None else roofline(compiled.costs, target)
    return ProgramPlan(compiled, line, useful, advice(config, name, compiled.memory, mesh))


def _count(tree) -> int:
    return sum(int(np.prod(leaf.shape, dtype=np.int64)) for leaf in jax.tree.leaves(tree))
