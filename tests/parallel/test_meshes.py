"""Every mesh is one device: loss, gradients and greedy decodes; and what a compiled step sends from device to device.

The fast cases share one process of eight devices, and so do the slow ones.
"""

import functools

import numpy as np
import pytest
from parallel.meshes import MESHES, run_cases

FAST = ["step,colar,full,2-2-2", "step,cot,lora,1-4-2", "decode,colar,once,2-2-2", "decode,colar,layer,1-4-1"]
SLOW = [
    *(
        f"step,{method},{adapted},{mesh}"
        for method in ("cot", "colar")
        for adapted in ("full", "lora")
        for mesh in MESHES
    ),
    *(f"decode,{method},once,{mesh}" for method in ("cot", "colar") for mesh in MESHES),
    *(f"decode,colar,layer,{mesh}" for mesh in ("2-4-1", "2-2-2")),
    *(f"update,colar,full,{mesh}" for mesh in MESHES),
]
COLLECTIVES = ["collectives,colar,full,2-4-1", "collectives,cot,lora,2-4-1", "collectives,colar,full,8-1-1"]


def one_device(case: str) -> str:
    what, first, second, _ = case.split(",")
    return ",".join((what, first, "once" if what == "decode" else second, "1-1-1"))


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
        if values.dtype.kind in "iub":
            np.testing.assert_array_equal(actual[name], values, err_msg=name)
        else:
            # Chains of latents feed rounding back; a step's gradients are relative to their largest.
            tolerance = 1e-3 if name == "thoughts" else 1e-5
            error, largest = np.abs(actual[name] - values).max(), np.abs(values).max()
            assert error <= tolerance * largest, (name, error, largest)


@pytest.mark.parametrize("case", FAST)
def test_a_mesh_is_one_device(case, folder):
    assert_is_one_device(case, FAST, folder)


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW)
def test_every_mesh_is_one_device(case, folder):
    assert_is_one_device(case, SLOW, folder)


def test_a_gradient_is_scattered_once(folder):
    """One reduce-scatter for each trained weight that fsdp splits; none of frozen ones; on pure data nothing moves."""
    found = run_cases(COLLECTIVES, folder / "collectives.npz")
    full, adapters, data = (found[case] for case in COLLECTIVES)
    split = {"query", "key", "value", "out", "gate", "up", "down", "embedding", "head"}
    assert full["reduce-scatter"].shape[0] == len(split)
    # In the forward pass, and a layer's again in the backward pass, which keeps none.
    assert full["all-gather"].shape[0] == len(split) + 7
    assert adapters["reduce-scatter"].shape[0] == 0
    for kind in ("reduce-scatter", "all-gather", "all-to-all", "collective-permute"):
        assert data[kind].shape[0] == 0, kind
