"""Closed forms of a step on many chips. That they send what a compiled step sends: test_plan.py."""

import dataclasses

import pytest

from colar_jax.config import LoraSettings, ModelConfig
from colar_jax.model.presets import PRESETS
from colar_jax.planning.chips import CHIPS
from colar_jax.planning.scaling import RowsOfChip, bytes_of_step, scale, slice_of

LLAMA = PRESETS["llama-3.2-1b"]
ADAPTERS = ModelConfig(dtype="bfloat16", base_dtype="bfloat16", remat="full", lora=LoraSettings(rank=128))
FULL = ModelConfig(dtype="bfloat16", remat="full")


def scaled(num_chips: int, model=FULL, **others):
    rows = RowsOfChip(**dict(per_chip=4.0, positions=512, supervised=100) | others)
    return scale(LLAMA, model, "v5e", num_chips, fsdp=4, state=0.0, rows=rows)


def test_adapters_on_whole_models_send_their_own_gradients_alone():
    sent = bytes_of_step(LLAMA, ADAPTERS, fsdp=1, num_chips=8)
    adapters, latent_head = 16 * 128 * (2048 + 2048 + 2048 + 512), 4 * 2048 * 2048
    assert sent == {"fsdp": 0, "data": 0, "all": 2 * 7 / 8 * 4 * (adapters + latent_head)}


def test_frozen_weights_that_are_split_are_gathered_and_never_scattered():
    layers, embedding = 16 * (2 * 2048 * 2048 + 2 * 2048 * 512 + 3 * 2048 * 8192), 128256 * 2048
    assert bytes_of_step(LLAMA, ADAPTERS, fsdp=4, num_chips=8)["fsdp"] == 3 / 4 * 2 * (2 * layers + embedding)
    full = 3 / 4 * (2 * 2 * layers + 4 * embedding + 4 * (layers + embedding))
    assert bytes_of_step(LLAMA, FULL, fsdp=4, num_chips=8)["fsdp"] == full


def test_slices_are_as_square_as_they_can_be():
    assert [slice_of(CHIPS["v5e"], size).name for size in (8, 16, 256)] == ["v5e:2x4", "v5e:4x4", "v5e:16x16"]
    assert [slice_of(CHIPS["v5p"], size).name for size in (16, 64)] == ["v5p:2x2x4", "v5p:4x4x4"]


def test_more_than_a_pod_is_several_slices_on_a_slower_network():
    one, four = scaled(256), scaled(1024)
    assert (one.slices, one.network, four.slices) == (1, 0.0, 4)
    assert four.ici == one.ici and four.network > 0
    assert four.overlapped > one.overlapped and four.share > one.share


def test_the_same_work_takes_the_same_compute_and_fewer_rows_less():
    assert scaled(8).compute == scaled(1024).compute == 2 * scaled(8, per_chip=2.0).compute
    assert scaled(8).ici == scaled(8, per_chip=2.0).ici


def test_recomputation_is_work_but_no_use():
    without = scaled(8, dataclasses.replace(FULL, remat="none"))
    assert without.compute == without.useful == scaled(8).useful < scaled(8).compute
    assert scaled(8).compute / without.compute == pytest.approx(4 / 3, rel=0.05)
