"""A stage on a slice: compile its programs, and say what they take."""

import dataclasses
import logging

import jax
import numpy as np

from colar_jax.config import Config, StageConfig, parse_mesh
from colar_jax.engine import Engine
from colar_jax.model.presets import PRESETS
from colar_jax.parallel.choice import choose_mesh
from colar_jax.parallel.mesh import make_mesh
from colar_jax.planning.advice import advice, advice_on_decoding
from colar_jax.planning.compiled import Compiled, compile_for
from colar_jax.planning.data_shape import planned_data
from colar_jax.planning.devices import Target
from colar_jax.planning.lowering import Lowered, PlannedStage, StageLength
from colar_jax.planning.model_shape import llama_shape
from colar_jax.planning.rl_programs import lower_rollouts, lower_update
from colar_jax.planning.roofline import Roofline, roofline
from colar_jax.planning.sft_programs import lower_training_step, lower_validation
from colar_jax.runs.run_model import abstract_model, state_bytes

logger = logging.getLogger(__name__)

HOST = "host devices: a TPU's compiler fuses more, takes less memory and moves fewer bytes, so no times are given"
HOST_FOR_GPU = (
    "host devices: a GPU's compiler fuses more, and its attention keeps no scores, so it takes less memory; no times"
)


@dataclasses.dataclass(frozen=True)
class ProgramPlan:
    """A program on one chip."""

    compiled: Compiled
    roofline: Roofline | None  # None where it does not fit, and of host devices: their bytes are another compiler's
    number: float  # of `unit`s that go through it at a time, on all chips
    unit: str
    times: int  # in a step of the stage; 0: at validations only
    useful_flops: float  # a chip's share of what the step needs by its definition; 0 where that is not said
    advice: list[str]
    how: str = ""  # what its first line adds to what goes through it

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
    decode_mesh: dict[str, int]  # where it decodes
    compiler: str
    model: str
    vocabulary: int
    num_parameters: int
    num_trained: int
    num_examples: int  # that the schedule is of
    data_is_assumed: bool  # the data cannot be read here: lengths, and their number unless it was said, are made up
    schedule: StageLength
    schedule_seconds: tuple[float, float] | None  # with perfect overlap, with none; None where a roofline is
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
    """Plan a stage.

    Args:
        num_examples: in the whole training set, where the one at hand is a sample.
        rows_per_chip: instead of the stage's rows, which are for one batch size whatever the chips; of a stage that
            learns from rewards, questions, in rollouts and in updates.

    Raises:
        UserError: the config and the slice do not go together.
    """
    stage, topology = config.stages[name], target.topology
    if rows_per_chip:
        stage = _with_rows(stage, rows_per_chip * topology.num_chips)
        config = dataclasses.replace(config, stages=config.stages | {name: stage})
    vocabulary = 0 if config.model.base else PRESETS[config.model.preset].vocab_size
    data = planned_data(config, stage.bound_method.recipe.prompt_speeds, vocabulary, num_examples)
    llama = llama_shape(config, data.vocabulary.num_tokens)
    graph, parameters = abstract_model(config, llama)
    engine = _engine(config, graph, parameters, target)
    setting = PlannedStage(config, name, llama, engine, parameters, data)
    lower = {"sft": _lower_sft, "grpo": _lower_grpo}[stage.trainer]
    lowered, schedule = lower(setting, with_rollout=with_rollout)
    programs = [_planned(setting, one, target) for one in lowered]
    trainable, _ = setting.partitioned()
    return StagePlan(
        stage=name,
        topology=topology.name,
        num_chips=topology.num_chips,
        mesh=dict(engine.mesh.shape),
        decode_mesh=dict(engine.for_decoding.mesh.shape),
        compiler="TPU" if target.is_tpu else HOST if topology.chip.is_tpu else HOST_FOR_GPU,
        model=config.model.base or config.model.preset,
        vocabulary=llama.vocab_size,
        num_parameters=_count(parameters),
        num_trained=_count(trainable),
        num_examples=data.num_examples,
        data_is_assumed=data.is_assumed,
        schedule=schedule,
        schedule_seconds=_schedule_seconds(schedule, programs),
        programs=programs,
    )


def _with_rows(stage: StageConfig, rows: int) -> StageConfig:
    if stage.trainer == "sft":
        return dataclasses.replace(stage, rows=rows)
    rl = dataclasses.replace(stage.rl, num_questions=rows, minibatch_size=rows * stage.rl.num_generations)
    return dataclasses.replace(stage, rl=rl)


def _lower_sft(setting: PlannedStage, *, with_rollout: bool) -> tuple[list[Lowered], StageLength]:
    step, schedule = lower_training_step(setting)
    return [step, *([lower_validation(setting)] if with_rollout else [])], schedule


def _lower_grpo(setting: PlannedStage, **_) -> tuple[list[Lowered], StageLength]:
    """Rollouts are most of an iteration: they are never left out."""
    rollouts, sampler = lower_rollouts(setting)
    update, schedule = lower_update(setting, sampler)
    return [update, rollouts], schedule


def _schedule_seconds(schedule: StageLength, programs: list[ProgramPlan]) -> tuple[float, float] | None:
    """Of all steps, with perfect overlap and with none; None where a program has no roofline."""
    in_step = [program for program in programs if program.times]
    if any(program.roofline is None for program in in_step):
        return None
    least = sum(program.times * program.roofline.overlapped for program in in_step)
    most = sum(program.times * program.roofline.serial for program in in_step)
    return schedule.num_steps * least, schedule.num_steps * most


def _engine(config: Config, graph, parameters, target: Target) -> Engine:
    """What a run would compute with on this slice."""
    engine = Engine(graph, _mesh(config, graph, parameters, target), config.model.compute, config.parallel)
    choice, _ = engine.for_decoding.decode_gather(parameters, int(target.topology.chip.hbm_bytes))
    return dataclasses.replace(engine, parallel=dataclasses.replace(config.parallel, decode_gather=choice))


def _mesh(config: Config, graph, parameters, target: Target) -> jax.sharding.Mesh:
    """The mesh that a run would have on this slice."""
    sizes = parse_mesh(config.parallel.mesh)
    if sizes is None:
        memory = int(target.topology.chip.hbm_bytes)
        sizes, reason = choose_mesh(state_bytes(config, graph, parameters), target.topology.num_chips, memory)
        logger.info("mesh, by itself: %s", reason)
    return make_mesh(target.devices, sizes)


def _planned(setting: PlannedStage, lowered: Lowered, target: Target) -> ProgramPlan:
    compiled = compile_for(lowered, target)
    line = roofline(compiled.costs, target) if compiled.costs is not None and target.is_tpu else None
    engine = setting.engine if lowered.is_training else setting.engine.for_decoding
    sizes, how = dict(engine.mesh.shape), dict(is_training=lowered.is_training, smaller_batch=lowered.smaller_batch)
    advised = advice(setting.config, compiled.memory, sizes, **how)
    if line is not None and not lowered.is_training:
        advised += advice_on_decoding(sizes, setting.llama.num_kv_heads, line.bound)
    return ProgramPlan(
        compiled=compiled,
        roofline=line,
        number=lowered.number,
        unit=lowered.unit,
        times=lowered.times,
        useful_flops=lowered.useful_flops / target.topology.num_chips,
        advice=advised,
        how=lowered.how,
    )


def _count(tree) -> int:
    return sum(int(np.prod(leaf.shape, dtype=np.int64)) for leaf in jax.tree.leaves(tree))
