"""How chips are wired, and the verdict on what they hold."""

import dataclasses
import types

import pytest

from colar_jax.config import defaults, resolve, stage_defaults
from colar_jax.planning.advice import advice, advice_on_decoding
from colar_jax.planning.chips import CHIPS, GIB, parse_topology
from colar_jax.planning.compiled import Memory
from colar_jax.planning.devices import open_target
from colar_jax.planning.plan_text import text


@pytest.mark.parametrize(
    ("topology", "coordinates", "links"),
    [
        ("v5e:4x4", [(0, 0), (0, 1), (0, 2), (0, 3)], 1),  # an open axis: its end chips have one neighbour
        ("v5e:4x4", [(0, 0), (0, 3), (3, 0), (3, 3)], 2),
        ("v5e:16x16", [(0, i) for i in range(16)], 2),  # a ring: both ways
        ("v5e:16x16", [(0, i) for i in range(8)], 1),  # half of one
        ("v5e:16x16", [(i, j) for i in range(16) for j in range(16)], 4),
        ("v5p:4x4x4", [(i, j, k) for i in range(4) for j in range(4) for k in range(4)], 6),
        ("v5p:2x2x1", [(0, 0, 0), (1, 1, 0)], 2),
    ],
)
def test_bandwidth_of_a_group_is_that_of_its_axes(topology, coordinates, links):
    slice_of_it = parse_topology(topology)
    assert slice_of_it.bandwidth(coordinates) == links * slice_of_it.chip.link_bandwidth


def test_a_slice_has_a_name_and_a_size():
    topology = parse_topology("v5p:4x4x8")
    assert (topology.name, topology.num_chips, topology.chip) == ("v5p:4x4x8", 128, CHIPS["v5p"])


@pytest.mark.parametrize(
    ("topology", "positions", "coordinates"),
    [  # read from libtpu's descriptions of these slices
        ("v5e:2x4", range(6), [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]),
        ("v5e:16x16", range(9), [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (3, 0), (2, 1), (3, 1), (4, 0)]),
        ("v5p:2x2x4", (3, 4, 5, 15), [(1, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 3)]),
        ("v5p:4x4x4", (3, 4, 8, 63), [(1, 1, 0), (2, 0, 0), (0, 2, 0), (3, 3, 3)]),
    ],
)
def test_devices_are_listed_host_by_host(topology, positions, coordinates):
    assert [parse_topology(topology).coordinates(position) for position in positions] == coordinates


@pytest.mark.parametrize(
    ("text", "name", "number", "gibibytes"),
    [("gpu:24GiB", "gpu:24GiBx1", 1, 24), ("gpu:80GiBx8", "gpu:80GiBx8", 8, 80)],
)
def test_gpus_are_known_by_their_memory_and_compiled_for_by_the_host(text, name, number, gibibytes):
    topology = parse_topology(text)
    assert (topology.name, topology.num_chips, topology.chip.hbm_bytes) == (name, number, gibibytes * GIB)
    with pytest.raises(ValueError, match=f"--compiler=tpu is for TPUs, and --topology={name} are GPUs"):
        open_target(topology, "tpu")
    if number == 1:
        assert not open_target(topology).is_tpu


@pytest.mark.parametrize("text", ["gpu", "gpu:", "gpu:24", "gpu:0GiB", "gpu:24GB", "gpu:24GiBx", "gpu:24GiBx0"])
def test_a_gpu_without_its_memory(text):
    with pytest.raises(ValueError, match="say a GPU's memory, gpu:24GiB, and how many if not one, gpu:80GiBx8"):
        parse_topology(text)


@pytest.mark.parametrize(
    ("text", "fix"),
    [("v5x:4x4", "Did you mean 'v5"), ("v5e:4x4x4", "v5e:4x4$"), ("v5p:4x4", "v5p:4x4x4$"), ("v5e:0x4", "v5e:4x4$")],
)
def test_a_slice_that_there_is_not(text, fix):
    with pytest.raises(ValueError, match=f"--topology='{text}'.*{fix}"):
        parse_topology(text)


def test_a_compiler_that_there_is_not():
    with pytest.raises(ValueError, match="--compiler='gpu' is none of auto, tpu, host"):
        open_target(parse_topology("v5e:2x4"), "gpu")


def config(**model):
    settings = defaults()
    settings.stages.colar = stage_defaults(method="colar", rows=16)
    settings.run = "colar"
    settings.model.update(model)
    return resolve(settings)


MESH = {"data": 4, "fsdp": 2, "tensor": 1}


def test_nothing_is_advised_where_it_fits():
    memory = Memory({"trained": GIB}, temporary=GIB, total=2 * GIB, capacity=2 * GIB)
    assert memory.fits and advice(config(), memory, MESH, is_training=True, smaller_batch="") == []


def test_activations_that_do_not_fit_are_made_smaller():
    memory = Memory({"trained": GIB}, temporary=20 * GIB, total=21 * GIB, capacity=16 * GIB)
    settings = config(dtype="bfloat16", remat="dots")
    found = advice(settings, memory, MESH, is_training=True, smaller_batch="--fewer")
    assert not memory.fits
    assert found[0].startswith("--config.model.remat=full") and "--fewer" in found
    of_a_decode = advice(settings, memory, MESH, is_training=False, smaller_batch="--fewer")
    assert of_a_decode[0] == "--fewer"  # a decode keeps no activations


def test_weights_that_do_not_fit_are_split():
    memory = Memory({"trained": 5 * GIB, "optimizer": 10 * GIB}, temporary=4 * GIB, total=19 * GIB, capacity=16 * GIB)
    found = advice(config(), memory, MESH, is_training=True, smaller_batch="--fewer")
    assert found[0].startswith("--config.parallel.mesh=fsdp=4 ")
    assert any("lora.rank" in line for line in found)
    assert not any("remat" in line or "--fewer" in line for line in found)


@pytest.mark.parametrize(
    ("mesh", "sizes"),
    [
        ({"data": 1, "fsdp": 2, "tensor": 4}, ""),  # all chips split weights
        ({"data": 2, "fsdp": 2, "tensor": 4}, "fsdp=4,tensor=4"),
        ({"data": 3, "fsdp": 2, "tensor": 1}, "fsdp=3"),  # 4 does not divide 6
        ({"data": 4, "fsdp": 1, "tensor": 1}, "fsdp=2"),
    ],
)
@pytest.mark.parametrize("is_training", [True, False])
def test_a_mesh_that_is_advised_can_be_made_and_splits_more(mesh, sizes, is_training):
    memory = Memory({"trained": 19 * GIB}, temporary=GIB, total=20 * GIB, capacity=16 * GIB)
    given = config()
    given = dataclasses.replace(given, parallel=dataclasses.replace(given.parallel, decode_mesh="tensor=4"))
    found = advice(given, memory, mesh, is_training=is_training, smaller_batch="--fewer")
    of_mesh = [line.split()[0] for line in found if "mesh" in line]
    field = "mesh" if is_training else "decode_mesh"
    assert of_mesh == ([f"--config.parallel.{field}={sizes}"] if sizes else [])


def test_a_decode_that_gathers_at_every_step_is_told_of_a_mesh_that_does_not():
    (told,) = advice_on_decoding({"data": 64, "fsdp": 4, "tensor": 1}, 8, "ICI")
    assert told.startswith("--config.parallel.decode_mesh=tensor=8 ")
    assert advice_on_decoding({"data": 4, "fsdp": 2, "tensor": 1}, 6, "ICI")[0].split()[0].endswith("tensor=2")
    for mesh, heads, bound in (({"data": 8, "fsdp": 1}, 8, "ICI"), ({"fsdp": 8}, 8, "HBM"), ({"fsdp": 8}, 3, "ICI")):
        assert advice_on_decoding(mesh, heads, bound) == []


@pytest.mark.parametrize(
    ("num_chips", "num_parameters", "said"),
    [
        (1, 912_384, ("s on v5e:1x1: 1 chip, ", "912,384 parameters, 912,384 trained")),
        (4, 1_500_000, ("s on v5e:1x1: 4 chips, ", "1.50M parameters, 1.50M trained")),
        (4, 12_000_000, ("s on v5e:1x1: 4 chips, ", "12M parameters, 12.0M trained")),
    ],
)
def test_small_models_are_not_0m_and_one_chip_is_one(num_chips, num_parameters, said):
    schedule = types.SimpleNamespace(num_steps=1, per_step=1, unit="examples")
    of_model = {"model": "nano", "num_parameters": num_parameters, "num_trained": num_parameters}
    plan = types.SimpleNamespace(
        stage="s", topology="v5e:1x1", num_chips=num_chips, mesh={"data": num_chips},
        decode_mesh={"data": num_chips}, compiler="host", programs=(),
        schedule=schedule, schedule_seconds=None, data_is_assumed=False, **of_model,
    )  # fmt: skip
    assert all(part in text(plan) for part in said)
