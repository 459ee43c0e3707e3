"""The least times that follow from a program's counts, and which plans show them."""

import dataclasses

import pytest

from colar_jax.planning.chips import parse_topology
from colar_jax.planning.compiled import Compiled, Memory
from colar_jax.planning.costs import Collective, Costs
from colar_jax.planning.devices import Target
from colar_jax.planning.lowering import StageLength
from colar_jax.planning.plan_text import text
from colar_jax.planning.roofline import roofline
from colar_jax.planning.stage_plan import HOST, ProgramPlan, StagePlan

V5E = parse_topology("v5e:2x4")
GATHER = Collective("all-gather", tuple(range(8)), 1.0, payload=8e9, sent=7e9)
COUNTED = Costs(flops=197e9, hbm_bytes=1638e6, collectives=(GATHER,))


def target_of(is_tpu: bool) -> Target:
    return Target(V5E, devices=[], is_tpu=is_tpu)


def plan_of(line, *, assumed: bool = False) -> StagePlan:
    compiled = Compiled("training step", Memory({"trained": 2**30}, 2**30, 2**31, 2**34), COUNTED, seconds=3.0)
    program = ProgramPlan(compiled, line, 16.0, "examples", times=1, useful_flops=150e9, advice=[])
    seconds = None if line is None else (100 * line.overlapped, 100 * line.serial)
    return StagePlan(
        stage="colar",
        topology=V5E.name,
        num_chips=8,
        mesh={"data": 8},
        decode_mesh={"data": 8},
        compiler=HOST if line is None else "TPU",
        model="nano",
        vocabulary=256,
        num_parameters=10**6,
        num_trained=10**6,
        num_examples=4096,
        data_is_assumed=assumed,
        schedule=StageLength(100, 16.0, "examples"),
        schedule_seconds=seconds,
        programs=[program],
    )


def test_the_roofline_follows_from_the_counts():
    line = roofline(COUNTED, target_of(is_tpu=False))
    assert (line.compute, line.hbm) == (pytest.approx(1e-3), pytest.approx(2e-3))
    # An open axis of 2 and one of 4: a link of each carries a chip's traffic.
    assert line.ici == pytest.approx(7e9 / (2 * 50e9))
    assert line.bound == "ICI" and line.overlapped == line.ici
    assert dataclasses.replace(line, ici=0.0).bound == "HBM"
    assert plan_of(line).programs[0].mfu_bound == pytest.approx(150e9 / (197e12 * line.ici))


def test_a_plan_of_a_tpu_says_how_long_it_takes():
    shown = text(plan_of(roofline(COUNTED, target_of(is_tpu=False))))
    for word in ("HBM ", "bound ", "MFU ", " h at the roofline"):
        assert word in shown


def test_a_plan_of_assumed_data_says_so():
    assert "data not read: lengths are assumed, of 4,096 problems (--examples" in text(plan_of(None, assumed=True))
    assert "assumed" not in text(plan_of(None))


def test_a_plan_of_host_devices_says_nothing_of_hbm_mfu_and_time():
    shown = text(plan_of(None))
    for word in ("HBM ", "bound ", "MFU ", "roofline", " ms"):
        assert word not in shown
    for line in ("0.20 TFLOP, 0.15 of them useful", "7.000 GB sent", "all-gather x 1 over 8 chips", "100 steps of 16"):
        assert line in shown
