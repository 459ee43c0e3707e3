"""The programs of `benchmarks/gpu.py` at the 1B shape lower for CUDA, cuDNN's attention included: no GPU is needed."""

import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import export

import colar_jax.engine
from colar_jax.model import reasoner
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.lora import cast_base

FORWARD, BACKWARD = "__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"


class Lowered(Exception):
    """Carries what a program calls, in place of its results."""

    def __init__(self, calls: list[str]):
        self.calls = calls


def lowering(program):
    """In place of a jitted program: lowers it for CUDA, for the shapes of its arguments."""

    def call(*args):
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), args)
        allowed = [export.DisabledSafetyCheck.custom_call(name) for name in (FORWARD, BACKWARD)]
        module = export.export(program, platforms=["cuda"], disabled_checks=allowed)(*shapes).mlir_module()
        raise Lowered(re.findall(r"custom_call @([^\s(]+)\(", module))

    return call


def shapes_of_a_model(subject, modules=reasoner.NONE_OF_ITS_OWN):
    """`jax_side.build`, of shapes alone."""
    graph, shapes = reasoner.abstract(
        subject.llama, LatentHeadConfig(subject.latent_intermediate), subject.lora, modules
    )
    held = jnp.dtype(subject.held)
    if subject.lora is not None:
        return graph, jax.eval_shape(lambda tree: cast_base(tree, held), shapes)
    return graph, shapes | {"llama": jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, held), shapes["llama"])}


@pytest.fixture
def ours(monkeypatch):
    """`gpu_ours`, as on a GPU, but for the weights."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    cudnn = importlib.import_module("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91002)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda *_: True)
    side = importlib.import_module("jax_side")
    for module in (colar_jax.engine, side):
        monkeypatch.setattr(module, "choose_attention", lambda *_: "cudnn")
    monkeypatch.setattr(side, "build", shapes_of_a_model)
    monkeypatch.setattr(side, "replicate", lambda tree, mesh: tree)
    initial_state, make_train_step = side.initial_state, side.make_train_step
    monkeypatch.setattr(
        side, "initial_state", lambda tree, optimizer: jax.eval_shape(lambda tree: initial_state(tree, optimizer), tree)
    )
    monkeypatch.setattr(side, "make_train_step", lambda *of_step: lowering(make_train_step(*of_step)))
    return importlib.import_module("gpu_ours")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "options", "times"),
    [
        ("training", {}, 1),
        ("training", {"scan": False}, 16),
        ("training", {"lora": True}, 1),
        ("rollouts", {}, 1),
        ("rollouts", {"counted": True}, 1),
    ],
)
def test_programs_of_the_1b_shape_lower_for_cuda(ours, monkeypatch, program, options, times):
    run = getattr(ours, program)(importlib.import_module("gpu_sizes").SIZES["1b"], **options)
    if program == "rollouts":
        (cell,) = (cell for cell in run.__closure__ if hasattr(cell.cell_contents, "lower"))
        cell.cell_contents = lowering(cell.cell_contents)
    with pytest.raises(Lowered) as lowered:
        run()
    calls = lowered.value.calls
    assert calls.count(FORWARD) == times
    assert calls.count(BACKWARD) == (times if program == "training" else 0)
