"""An engine is a value: what is equal is compiled once, and how a model is computed is no part of what it is."""

import dataclasses
import re
import types

import jax
import numpy as np
import pytest
from rl.pico_policy import policy

from colar_jax import engine as engine_module
from colar_jax.config import Compute, ModelConfig, ParallelConfig
from colar_jax.engine import Engine
from colar_jax.errors import UserError
from colar_jax.model.execution import Execution
from colar_jax.parallel.mesh import make_mesh
from colar_jax.parallel.sharding import moved


def engine(compute=None, parallel=None) -> Engine:
    given = {"compute": compute, "parallel": parallel}
    mesh = make_mesh(jax.devices()[:1])
    return Engine(policy()[0], mesh, **{name: value for name, value in given.items() if value is not None})


def test_engines_made_of_the_same_are_one():
    """Whatever made them: so a program that one compiled is the other's."""
    same = [engine(), engine(Compute()), engine(ModelConfig(base="somewhere", preset="micro").compute)]
    assert len(dict.fromkeys(same)) == 1
    other = [engine(Compute(remat="full")), engine(parallel=ParallelConfig(attention="xla"))]
    assert len(dict.fromkeys((*same, *other))) == 3


def test_how_a_model_is_computed_is_what_the_settings_say_and_nothing_else():
    changes = dict(dtype="bfloat16", remat="dots", scan_layers=False, logits_chunk=7)
    assert dataclasses.asdict(ModelConfig(**changes).compute) == changes
    assert {field.name for field in dataclasses.fields(Compute)} == changes.keys()
    execution = engine(Compute(**changes)).execution(specs={})
    assert {name: getattr(execution, name) for name in changes} == changes
    assert execution == Execution.of(Compute(**changes)), "one device gathers nothing, and splits nothing"


@pytest.mark.parametrize("attention", ["cudnn", "splash"])
def test_what_does_not_run_on_the_devices_is_said(attention):
    with pytest.raises(UserError, match=f"parallel.attention={attention!r} runs on"):
        engine(parallel=ParallelConfig(attention=attention)).attention  # noqa: B018


def test_an_engine_decodes_where_it_trains_unless_a_setting_says_otherwise():
    here = engine()
    assert here.for_decoding is here
    # The devices are one: another mesh of it is the same mesh, and nothing moves.
    elsewhere = engine(parallel=ParallelConfig(decode_mesh="tensor=1")).for_decoding
    assert elsewhere == here
    parameters = {"a": np.zeros(2)}
    assert moved(parameters, {"a": jax.P()}, here.mesh) is parameters


@pytest.mark.parametrize(
    ("decode_mesh", "said"),
    [
        ("tensor=2", "parallel.decode_mesh: data=1 * fsdp=1 * tensor=2 is 2, and there are 1 devices"),
        ("auto", "parallel.decode_mesh=auto: name sizes"),
        ("tensor", "parallel.decode_mesh='tensor': 'tensor' gives tensor no size"),
        ("heads=2", "an axis of parallel.decode_mesh"),
    ],
)
def test_a_mesh_to_decode_on_that_cannot_be_is_said(decode_mesh, said):
    with pytest.raises(UserError, match=re.escape(said)):
        engine(parallel=ParallelConfig(decode_mesh=decode_mesh)).for_decoding  # noqa: B018


def test_how_weights_are_gathered_goes_by_a_device_of_this_process(monkeypatch):
    """That of another does not say how much memory it has: the processes would compile different programs, and wait."""
    asked = []
    of_two_processes = types.SimpleNamespace(devices=np.array(["the first's", "own"]), local_devices=["own"])
    only_described = types.SimpleNamespace(devices=np.array(["described"]), local_devices=[])
    monkeypatch.setattr(engine_module, "device_bytes", asked.append)
    for mesh in (of_two_processes, only_described):
        given = types.SimpleNamespace(mesh=mesh, decode_gather=lambda parameters, memory: ("once", "a test"))
        Engine._gathers_each_step(given, {})
    assert asked == ["own", "described"]
