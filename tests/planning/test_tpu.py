"""Compiling for a TPU that is not there, where libtpu is."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest
from planning.test_plan import run

from colar_jax.parallel import fsdp
from colar_jax.parallel.mesh import ROWS, make_mesh, shapes_of_rows
from colar_jax.planning import hlo
from colar_jax.planning.chips import parse_topology
from colar_jax.planning.costs import costs
from colar_jax.planning.devices import open_target

FLAGS = (
    "--config=configs/arithmetic.py:smoke", "--topology=v5e:2x2", "--stage=colar", "--rows_per_chip=1", "--json",
    "--config.data.train_limit=60", "--config.data.num_test=4", "--config.data.num_val=8", "--rollout=no",
    "--config.model.dtype=bfloat16", "--config.model.scan_layers=True",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install -e '.[tpu]'")
def test_a_step_is_compiled_for_chips_that_are_not_here():
    done = run(*FLAGS, "--compiler=tpu", "--config.parallel.attention=xla")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    step = plan["programs"][0]
    assert plan["compiler"] == "TPU"
    assert step["compiled"]["memory"]["fits"]
    assert step["compiled"]["costs"]["flops"] == pytest.approx(step["useful_flops"], rel=0.2)
    (reduced,) = step["compiled"]["costs"]["collectives"]
    assert reduced["kind"] == "all-reduce" and len(reduced["group"]) == 4


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install -e '.[tpu]'")
@pytest.mark.parametrize(("shape", "dimension"), [((2048, 2048), 0), ((128257, 2048), 1)])
def test_a_gradient_is_scattered_and_never_sent_whole(shape, dimension):
    """Of the query's and the embedding's of the 1B model, the compiler padded one and sent the other everywhere."""
    mesh = make_mesh(open_target(parse_topology("v5e:2x4"), "tpu").devices, {"fsdp": 4})

    def gradient(x_TI, y_TO):
        return fsdp.scatter(jnp.einsum("ti,to->io", x_TI, y_TO, preferred_element_type=jnp.float32), dimension)

    split = ("fsdp", None) if dimension == 0 else (None, "fsdp")
    program = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=ROWS, out_specs=jax.P(*split), check_vma=False))
    positions = [jax.ShapeDtypeStruct((8 * 512, size), jnp.bfloat16) for size in shape]
    counted = costs(hlo.parse(program.lower(*shapes_of_rows(positions, mesh)).compile().as_text()))
    (scattered,) = counted.collectives
    assert scattered.kind == "reduce-scatter" and len(scattered.group) == 4
    assert scattered.payload == pytest.approx(4 * shape[0] * shape[1], rel=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is here")
def test_without_libtpu_a_tpu_s_compiler_is_an_extra():
    done = run(*FLAGS, "--compiler=tpu")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("pip install -e '.[tpu]', or take --compiler=host")
