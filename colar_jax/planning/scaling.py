"""How a training step scales with chips, from closed forms: in no time, for slices of any size (docs/scaling.md).

For one chip of a mesh (data d, fsdp f), n = d * f:

    compute  = FLOPs of its rows, the forward pass twice where remat=full, / peak
    gathers  = (f - 1) / f * bytes of the layers' weights as they travel, forward and backward
    scatters = (f - 1) / f * float32 gradients of the weights that are trained
    reduces  = 2 (m - 1) / m * float32 gradients held, over the m chips that hold the same

each divided by the bandwidth of the axes that its group extends over. Beyond one slice the data centre network carries
the last reduction, of each chip's part of what its slice has added up.
"""

import dataclasses
import math

import jax

from colar_jax.config import Config, ModelConfig, StageConfig, nearest, parse_mesh
from colar_jax.data.loader import Loader
from colar_jax.errors import UserError
from colar_jax.methods.colar import Colar
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.model.presets import PRESETS
from colar_jax.parallel.choice import choose_mesh
from colar_jax.parallel.mesh import AXES, rows_that_divide
from colar_jax.parallel.sharding import bytes_per_device, logical_axes, parameter_specs
from colar_jax.planning.chips import CHIPS, GIB, Chip, Topology
from colar_jax.planning.data_shape import planned_data
from colar_jax.planning.model_flops import (
    adapter_weights,
    forward_flops,
    latent_weights,
    layer_weights,
    packed_rows,
    step_flops,
)
from colar_jax.planning.model_shape import llama_shape
from colar_jax.runs.run_model import abstract_model, state_bytes
from colar_jax.training.optimizer import make_optimizer
from colar_jax.training.state import initial_state, partition, state_specs

FLOAT, CHIP_COUNTS = 4, (8, 16, 32, 64, 128, 256, 512, 1024)
_LARGEST_SLICE = {"v5e": 256, "v6e": 256, "v5p": 8960}


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A step on so many chips; seconds."""

    num_chips: int
    slices: int
    topology: str  # of a slice
    fsdp: int
    state: float  # bytes on a chip: parameters, and for trained ones gradient and both moments
    rows_per_chip: int
    useful: float  # of `compute`, what the step needs by its definition
    compute: float
    ici: float
    network: float  # between slices

    @property
    def share(self) -> float:
        """Of collectives in a step that overlaps nothing."""
        return (self.ici + self.network) / (self.compute + self.ici + self.network)

    @property
    def overlapped(self) -> float:
        """A step whose collectives and products run at once."""
        return max(self.compute, self.ici + self.network)


@dataclasses.dataclass(frozen=True)
class RowsOfChip:
    """What a chip computes in a step."""

    per_chip: int
    positions: int  # in a row
    supervised: int
    share_filled: float = 1.0  # of the rows: the others are empty, because the chips do not divide those that there are


def scaling_table(config: Config, name: str, chip: str, rows_per_chip: int = 0) -> str:
    """A stage's step on 8 to 1,024 chips, as Markdown; with so many rows a chip, or else the stage's rows in all."""
    if chip not in CHIPS:
        raise UserError(f"--scaling={chip!r} is none of {', '.join(CHIPS)}.{nearest(chip, CHIPS)}")
    stage = config.stages[name]
    method = stage.bound_method
    recipe = method.recipe
    vocabulary = 0 if config.model.base else PRESETS[config.model.preset].vocab_size
    data = planned_data(config, recipe.prompt_speeds, vocabulary)
    llama = llama_shape(config, data.vocabulary.num_tokens)
    graph, parameters = abstract_model(config, llama)
    trainable, _ = partition(parameters, method.trains)
    optimizer = make_optimizer(stage.optimizer, 1, logical_axes(graph, parameters))
    state = jax.eval_shape(lambda tree: initial_state(tree, optimizer), trainable)
    loader = Loader(data.train, recipe, seed=0, rows=stage.rows, row_positions=stage.row_positions)
    rows, asked = [], parse_mesh(config.parallel.mesh)
    for num_chips in _chip_counts(config, name, rows_per_chip):
        sizes = asked
        if sizes is None:
            sizes, _ = choose_mesh(state_bytes(config, graph, parameters), num_chips, int(CHIPS[chip].hbm_bytes))
        fsdp = sizes.get("fsdp", 1)
        if fsdp > _LARGEST_SLICE[chip]:
            raise UserError(f"fsdp={fsdp} is more than the {_LARGEST_SLICE[chip]} chips of a {chip} slice")
        mesh = jax.sharding.AbstractMesh((num_chips // fsdp, fsdp, 1), AXES)
        specs = parameter_specs(graph, parameters, mesh)
        of_training = state_specs(state, optimizer, specs)
        of_trained = bytes_per_device(trainable, of_training.trainable, mesh)
        rows.append(
            scale(
                llama,
                config.model,
                chip,
                num_chips,
                fsdp=fsdp,
                state=bytes_per_device(parameters, specs, mesh)
                + of_trained
                + bytes_per_device(state.optimizer, of_training.optimizer, mesh),
                rows=_rows_of_chip(loader, num_chips, stage.accumulation, rows_per_chip),
            )
        )
    return _markdown(rows)


def _rows_of_chip(loader: Loader, num_chips: int, accumulation: int, rows_per_chip: int) -> RowsOfChip:
    shape, computed = loader.row_shape, rows_that_divide(loader.num_rows, num_chips, accumulation)
    if rows_per_chip:
        return RowsOfChip(rows_per_chip, shape.positions, shape.supervised)
    return RowsOfChip(computed // num_chips, shape.positions, shape.supervised, loader.num_rows / computed)


def has_closed_forms(stage: StageConfig) -> bool:
    """Whether a stage's step is the one that is counted here: CoLaR's, of one pass."""
    return stage.trainer == "sft" and type(stage.bound_method) is Colar and stage.bound_method.num_passes == 1


def _chip_counts(config: Config, name: str, rows_per_chip: int) -> list[int]:
    """Of which there are rows in the table; UserError where there is none."""
    mesh, rows = config.parallel.mesh, config.stages[name].rows
    sizes = parse_mesh(mesh) or {"fsdp": 1}
    if sizes.keys() != {"fsdp"}:
        raise UserError(f"parallel.mesh={mesh}: the table takes all of data and nothing of tensor: name fsdp alone")
    counts = [count for count in CHIP_COUNTS if count % sizes["fsdp"] == 0]
    if not counts:
        raise UserError(f"parallel.mesh={mesh} divides none of {CHIP_COUNTS[0]} to {CHIP_COUNTS[-1]:,} chips")
    # A row is the least that a chip can have.
    counts = [count for count in counts if rows_per_chip or count <= rows]
    if not counts:
        raise UserError(f"stages.{name}.rows={rows} are too few for the smallest slice: give --rows_per_chip")
    return counts


def slice_of(chip: Chip, num_chips: int) -> Topology:
    """The most cubic (or square) slice of a power of two of chips."""
    dims = [1] * (3 if chip.torus_sizes == 4 else 2)
    for _ in range(int(math.log2(num_chips))):
        dims[dims.index(min(dims))] *= 2
    return Topology(chip, tuple(sorted(dims)))


def scale(
    llama: LlamaConfig,
    model: ModelConfig,
    chip_name: str,
    num_chips: int,
    *,
    fsdp: int,
    state: float,
    rows: RowsOfChip,
) -> Scaled:
    """A CoLaR step on `num_chips`, `fsdp` of them side by side sharing each weight."""
    chip = CHIPS[chip_name]
    in_slice = min(num_chips, _LARGEST_SLICE[chip_name])
    topology, slices = slice_of(chip, in_slice), num_chips // in_slice
    shape = packed_rows(1, rows.positions, rows.supervised, has_latents=True)
    flops = useful = step_flops(llama, model, shape)
    if model.remat == "full":
        forward = forward_flops(llama, model, shape)
        flops += forward["base"] + forward["adapters"] + forward["attention"]
    ici, held = _ici_seconds(llama, model, fsdp, topology)
    between = 2 * (slices - 1) / slices * held / (in_slice / fsdp) / chip.network_bandwidth
    compute, useful = (rows.per_chip * of_a_row / chip.peak_flops for of_a_row in (flops, rows.share_filled * useful))
    return Scaled(num_chips, slices, topology.name, fsdp, state, rows.per_chip, useful, compute, ici, between)


def _ici_seconds(llama: LlamaConfig, model: ModelConfig, fsdp: int, topology: Topology) -> tuple[float, float]:
    """What collectives within a slice take in a step, and the bytes of float32 gradients that a chip holds.

    The chips that share weights are side by side, as `parallel.mesh.make_mesh` puts them.
    """
    sent = bytes_of_step(llama, model, fsdp, topology.num_chips)
    groups = {
        "fsdp": range(fsdp),
        "data": range(0, topology.num_chips, fsdp),
        "all": range(topology.num_chips),
    }
    seconds = sum(
        sent[name] / topology.bandwidth([topology.coordinates(position) for position in group])
        for name, group in groups.items()
    )
    whole, split = _trained(llama, model)
    return seconds, FLOAT * (split / fsdp + whole)


def _trained(llama: LlamaConfig, model: ModelConfig) -> tuple[int, int]:
    """Trained parameters that are whole on every chip, and those that fsdp splits; norms left out."""
    if model.lora.rank:
        return llama.num_layers * adapter_weights(llama, model) + latent_weights(llama, model), 0
    return latent_weights(llama, model), sum(_split_weights(llama))


def _split_weights(llama: LlamaConfig) -> tuple[int, int]:
    """Of the layers, and of embedding and language head."""
    ends = llama.vocab_size * llama.hidden_size * (1 if llama.tied_head else 2)
    return llama.num_layers * sum(layer_weights(llama).values()), ends


def bytes_of_step(llama: LlamaConfig, model: ModelConfig, fsdp: int, num_chips: int) -> dict[str, float]:
    """What a chip sends in a step, by the group that it sends it in: fsdp, data (the same shard), or all."""
    layers, ends = _split_weights(llama)
    whole, split = _trained(llama, model)
    # Layers travel in the dtype that they compute in, forward and once more backward; embedding and head as they are
    # held, once. Gradients are added up in float32.
    travelling = 2 if model.dtype == "bfloat16" else FLOAT
    held = 2 if model.lora.rank and model.base_dtype == "bfloat16" else FLOAT
    gathered, scattered = 2 * travelling * layers + held * ends, FLOAT * split
    replicas = num_chips // fsdp
    return {
        "fsdp": (fsdp - 1) / fsdp * (gathered + scattered),
        "data": 2 * (replicas - 1) / replicas * FLOAT * split / fsdp,
        "all": 2 * (num_chips - 1) / num_chips * FLOAT * whole,
    }


def _markdown(rows: list[Scaled]) -> str:
    columns = ("chips", "slice", "fsdp", "state, GiB a chip", "rows a chip", "compute, ms", "collectives, ms")
    columns += ("of a step without overlap", "step, ms", "bound", "MFU at most")
    lines = [f"| {' | '.join(columns)} |", f"| ---: | --- {'| ---: ' * 7}| --- | ---: |"]
    for row in rows:
        cells = (
            f"{row.num_chips:,}",
            f"{row.slices} x {row.topology}" if row.slices > 1 else row.topology,
            f"{row.fsdp}",
            f"{row.state / GIB:.2f}",
            f"{row.rows_per_chip:g}",
            f"{1e3 * row.compute:.1f}",
            f"{1e3 * (row.ici + row.network):.1f}",
            f"{100 * row.share:.0f} %",
            f"{1e3 * row.overlapped:.1f}",
            "compute" if row.compute >= row.ici + row.network else "ICI",
            f"{100 * row.useful / row.overlapped:.0f} %",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
