"""Where parameters lie, what `auto` chooses, and which rows a process reads: no device is needed for it."""

import dataclasses
import functools
import types

import jax
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import PartitionSpec as P

from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.lora import LoraConfig
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import abstract
from colar_jax.parallel import fsdp
from colar_jax.parallel.choice import choose_decode_gather, choose_mesh
from colar_jax.parallel.mesh import AXES, make_mesh, own_rows, put_own_rows
from colar_jax.parallel.sharding import parameter_specs

GIB = 2**30


def abstract_mesh(data: int, fsdp: int, tensor: int):
    return jax.sharding.AbstractMesh((data, fsdp, tensor), AXES)


def specs_of(preset: str, mesh, lora=None) -> dict[str, P]:
    graph, shapes = abstract(PRESETS[preset], LatentHeadConfig(64), lora)
    return traverse_util.flatten_dict(parameter_specs(graph, shapes, mesh), sep="/")


def test_weights_are_split_and_small_things_are_not():
    specs = specs_of("llama-3.2-1b", abstract_mesh(2, 4, 2), LoraConfig(8, 16.0, ("query",)))
    assert specs["llama/embedding"] == P("tensor", "fsdp")
    assert specs["llama/blocks/query/kernel"] == P(None, "fsdp", "tensor")
    assert specs["llama/blocks/out/kernel"] == P(None, "tensor", "fsdp")
    assert specs["llama/blocks/down/kernel"] == P(None, "tensor", "fsdp")
    whole = {name for name, spec in specs.items() if spec == P()}
    assert whole == {name for name in specs if "norm" in name or "adapter" in name or name.startswith("latent_head")}


def test_what_an_axis_does_not_divide_stays_whole():
    specs = specs_of("pico", abstract_mesh(1, 64, 3))
    assert specs["llama/embedding"] == P()  # 256 rows of 32
    assert specs["llama/blocks/gate/kernel"] == P()


@pytest.mark.parametrize(
    ("shape", "dimension", "sent"),
    [
        ((16, 5), 0, (4, 4, 5)),  # an axis of shards, which a TPU's compiler does not pad
        ((13, 16), 1, (32, 16)),  # whole tiles of rows for each of the four; of 13 it makes an all-reduce
        ((64, 8), 1, (64, 8)),
    ],
)
def test_a_gradient_is_scattered_in_a_form_that_a_tpu_s_compiler_leaves_alone(shape, dimension, sent):
    specs = P(*("fsdp" if axis == dimension else None for axis in range(2)))
    scatter = jax.shard_map(
        functools.partial(fsdp.scatter, dimension=dimension),
        mesh=abstract_mesh(1, 4, 1), in_specs=P(), out_specs=specs, check_vma=False,
    )  # fmt: skip
    traced = jax.make_jaxpr(scatter)(jax.ShapeDtypeStruct(shape, np.float32))
    assert traced.out_avals[0].shape == shape
    found = next(eqn for eqn in traced.eqns[0].params["jaxpr"].eqns if eqn.primitive.name == "reduce_scatter")
    assert found.invars[0].aval.shape == sent


@pytest.mark.parametrize(("shape", "dimension"), [((16, 5), 0), ((13, 16), 1), ((64, 8), 1)])
def test_a_device_has_its_part_of_the_sum_of_the_gradients(shape, dimension):
    """Whatever is padded for a TPU's tiles. Four devices that are an axis of one."""
    of_devices = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    parts = jax.vmap(functools.partial(fsdp.scatter, dimension=dimension), axis_name=fsdp.AXIS)(of_devices)
    expected = np.split(of_devices.sum(axis=0), 4, axis=dimension)
    np.testing.assert_allclose(parts, expected, rtol=1e-5, atol=1e-6)


def test_an_axis_of_size_one_splits_nothing():
    assert set(specs_of("pico", abstract_mesh(8, 1, 1)).values()) == {P()}


@pytest.mark.parametrize(
    ("state", "devices", "memory", "fsdp"),
    [
        (4 * GIB, 8, 16 * GIB, 1),
        (20 * GIB, 8, 16 * GIB, 4),
        (20 * GIB, 6, 16 * GIB, 3),
        (900 * GIB, 8, 16 * GIB, 8),
        (20 * GIB, 8, None, 1),
    ],
)
def test_auto_splits_the_model_as_little_as_it_fits(state, devices, memory, fsdp):
    sizes, reason = choose_mesh(state, devices, memory)
    assert sizes.get("fsdp", 1) == fsdp and reason
    assert ("Take more devices" in reason) == (state > 100 * GIB)


@pytest.mark.parametrize(
    ("asked", "held", "whole", "memory", "choice"),
    [
        ("auto", 2 * GIB, 3 * GIB, 16 * GIB, "once"),
        ("auto", 2 * GIB, 15 * GIB, 16 * GIB, "layer"),
        ("auto", 2 * GIB, 15 * GIB, None, "once"),
        ("layer", 0, 0, 16 * GIB, "layer"),
    ],
)
def test_a_decode_gathers_once_where_it_fits(asked, held, whole, memory, choice):
    assert choose_decode_gather(asked, held, whole, memory)[0] == choice


def test_sizes_that_are_not_the_devices_are_an_error():
    with pytest.raises(ValueError, match="fsdp=3"):
        make_mesh(jax.devices()[:1], {"fsdp": 3})


def test_data_takes_the_rest():
    mesh = make_mesh(list(np.arange(8)), {"fsdp": 2, "tensor": 2})
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}


@dataclasses.dataclass(frozen=True, eq=False)
class DeviceOf:
    """A device that only says whose it is."""

    id: int
    process_index: int
    client: types.SimpleNamespace
    platform: str = "cpu"
    device_kind: str = "none"


def mesh_seen_by(process: int, sizes: dict[str, int], of_processes: list[int]):
    """A mesh of the devices of several processes, as one of them sees it."""
    client = types.SimpleNamespace(process_index=lambda: process, platform="cpu", runtime_type="none")
    return make_mesh([DeviceOf(number, owner, client) for number, owner in enumerate(of_processes)], sizes)


HOSTS = [  # sizes of the mesh, whose its devices are, and of each process its own rows of 16
    ({"data": 4}, [0, 0, 1, 1], [(0, 8), (8, 16)]),
    ({"data": 2, "fsdp": 2, "tensor": 2}, [0, 0, 0, 0, 1, 1, 1, 1], [(0, 8), (8, 16)]),
    ({"data": 1, "fsdp": 4}, [0, 1, 2, 3], [(0, 4), (4, 8), (8, 12), (12, 16)]),
    ({"data": 2, "tensor": 2}, [0, 1, 2, 3], [(0, 8), (0, 8), (8, 16), (8, 16)]),  # two processes have the same
]


@pytest.mark.parametrize(("sizes", "of_processes", "expected"), HOSTS)
def test_a_process_reads_its_own_rows_and_puts_them_where_they_belong(sizes, of_processes, expected, monkeypatch):
    def on_each_device(shape, sharding, part):
        return {device.id: part(at) for device, at in sharding.addressable_devices_indices_map(shape).items()}

    monkeypatch.setattr(jax, "process_count", lambda: len(expected))
    monkeypatch.setattr(jax, "make_array_from_callback", on_each_device)
    batch = {"ids": np.arange(16 * 3).reshape(16, 3), "counts": np.arange(16)}
    placed = {name: {} for name in batch}
    for process, (first, stop) in enumerate(expected):
        mesh = mesh_seen_by(process, sizes, of_processes)
        own = own_rows(mesh, 16)
        assert (own.start, own.stop) == (first, stop)
        of_process = put_own_rows(jax.tree.map(lambda leaf, own=own: leaf[own], batch), mesh, 16)
        for name, of_devices in of_process.items():
            placed[name] |= of_devices
    num_tensor = sizes.get("tensor", 1)
    for name, leaf in batch.items():
        parts = np.split(leaf, len(of_processes) // num_tensor)
        assert sorted(placed[name]) == list(range(len(of_processes)))
        for device, part in placed[name].items():
            np.testing.assert_array_equal(part, parts[device // num_tensor])
