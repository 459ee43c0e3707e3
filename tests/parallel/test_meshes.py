"""Every mesh is one device: loss, gradients and greedy decodes; and what a compiled step sends from device to device.

The chosen cases, which CI runs, share one process of eight devices; of the others those that differ in the mesh alone.
"""

import functools

import numpy as np
import pytest
from cases import fast
from parallel.meshes import MESHES, run_cases

CHOSEN = ("step,colar,full,2-2-2", "decode,cot,once,1-2-4")
ALONE = fast([*CHOSEN, "evaluate,colar,tensor=2,1-4-1"], *CHOSEN)
SLOW = [
    *(
        f"step,{method},{adapted},{mesh}"
        for method in ("cot", "colar")
        for adapted in ("full", "lora")
        for mesh in MESHES
    ),
    *(f"step,codi,{adapted},{mesh}" for adapted in ("full", "lora") for mesh in ("8-1-1", "2-2-2")),
    *(
        f"step,{method},full,{mesh}"
        for method in ("sim_codi", "kava", "ruplar", "latent_sft", "adaptive")
        for mesh in ("8-1-1", "2-2-2")
    ),
    *(f"decode,{method},once,{mesh}" for method in ("cot", "colar") for mesh in MESHES),
    *(f"decode,colar,layer,{mesh}" for mesh in ("2-4-1", "1-4-2", "2-2-2", "1-1-2")),
    *(f"evaluate,cot,{decode_mesh},{mesh}" for decode_mesh, mesh in (("tensor=2", "1-1-2"), ("fsdp=2", "8-1-1"))),
    *(f"rollouts,colar,{decode_mesh},{mesh}" for decode_mesh, mesh in (("tensor=2", "2-2-1"), ("tensor=4", "1-8-1"))),
    *(f"update,colar,full,{mesh}" for mesh in MESHES),
    *(f"update,{method},full,{mesh}" for method in ("latent_sft", "adaptive") for mesh in ("8-1-1", "2-2-2")),
    *(f"muon,colar,{adapted},{mesh}" for adapted in ("full", "lora") for mesh in MESHES),
]


def one_device(case: str) -> str:
    what, first, second, _ = case.split(",")
    second = {"decode": "once", "evaluate": "none", "rollouts": "none"}.get(what, second)
    return ",".join((what, first, second, "1-1-1"))


@functools.cache
def numbers(cases: tuple[str, ...], folder) -> dict[str, dict[str, np.ndarray]]:
    return run_cases([*cases, *dict.fromkeys(one_device(case) for case in cases)], folder / "numbers.npz")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("meshes")


def assert_is_one_device(case: str, cases: list[str], folder) -> None:
    of_cases = numbers(tuple(cases), folder)
    actual, expected = of_cases[case], of_cases[one_device(case)]
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        if values.dtype.kind in "iubU":
            np.testing.assert_array_equal(actual[name], values, err_msg=name)
        else:
            # Chains of latents feed rounding back, and an orthogonal update has what is next to nothing in a gradient
            # at full size; a step's gradients are relative to their largest.
            tolerance = 1e-3 if name == "thoughts" else 1e-2 if name.startswith("moved/") else 1e-5
            error, largest = np.abs(actual[name] - values).max(), np.abs(values).max()
            assert error <= tolerance * largest, (name, error, largest)


@pytest.mark.slow
@pytest.mark.parametrize("case", ALONE)
def test_a_mesh_is_one_device(case, folder):
    assert_is_one_device(case, list(CHOSEN) if case in CHOSEN else [case], folder)


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW)
def test_every_mesh_is_one_device(case, folder):
    kind = case.rpartition(",")[0]
    assert_is_one_device(case, [other for other in SLOW if other.rpartition(",")[0] == kind], folder)


SPLIT = ("query", "key", "value", "out", "gate", "up", "down", "embedding", "head")


@pytest.mark.slow
def test_a_gradient_is_scattered_once_and_on_pure_data_only_sums_move(folder):
    cases = ["collectives,colar,full,2-4-1", "collectives,colar,full,8-1-1"]
    split, data = run_cases(cases, folder / "collectives.npz").values()
    assert len(split["reduce-scatter"]) == len(SPLIT)
    # Once in the forward pass, and a layer's seven again in the backward pass, which keeps none of them.
    assert len(split["all-gather"]) == len(SPLIT) + 7
    assert len(split["all-to-all"]) == len(split["collective-permute"]) == 0
    assert len(data["all-reduce"]) and not any(len(found) for kind, found in data.items() if kind != "all-reduce")


@pytest.mark.slow
def test_frozen_weights_are_gathered_and_nothing_else(folder):
    (found,) = run_cases(["collectives,cot,lora,2-4-1"], folder / "adapters.npz").values()
    assert len(found["reduce-scatter"]) == 0
    assert len(found["all-gather"]) == len(SPLIT) + 7
