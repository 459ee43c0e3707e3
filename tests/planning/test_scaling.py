"""Closed forms of a step on many chips. That they send what a compiled step sends: test_plan.py."""

import dataclasses

import pytest

from colar_jax.config import LoraSettings, ModelConfig, defaults, resolve, stage_defaults
from colar_jax.errors import UserError
from colar_jax.methods import METHODS
from colar_jax.model.presets import PRESETS
from colar_jax.planning.chips import CHIPS
from colar_jax.planning.scaling import (
    RowsOfChip,
    bytes_of_step,
    has_closed_forms,
    scale,
    scaling_table,
    slice_of,
)

LLAMA = PRESETS["llama-3.2-1b"]
ADAPTERS = ModelConfig(dtype="bfloat16", base_dtype="bfloat16", remat="full", lora=LoraSettings(rank=128))
FULL = ModelConfig(dtype="bfloat16", remat="full")


def scaled(num_chips: int, model=FULL, **others):
    rows = RowsOfChip(**dict(per_chip=4, positions=512, supervised=100) | others)
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
    assert scaled(8).compute == scaled(1024).compute == 2 * scaled(8, per_chip=2).compute
    assert scaled(8).ici == scaled(8, per_chip=2).ici


def test_empty_rows_are_work_but_no_use():
    lines = scaling_table(config_of(rows=36), "colar", "v5e").splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[4] for row in cells] == ["5", "3", "2"]  # 40, 48 and 64 rows on 8, 16 and 32 chips
    whole = scaling_table(config_of(rows=40), "colar", "v5e").splitlines()[2]
    assert cells[0][5] == whole.split("|")[6].strip()
    assert scaled(8, share_filled=0.9).useful == pytest.approx(0.9 * scaled(8).useful)
    assert scaled(8, share_filled=0.9).compute == scaled(8).compute


def test_recomputation_is_work_but_no_use():
    without = scaled(8, dataclasses.replace(FULL, remat="none"))
    assert without.compute == without.useful == scaled(8).useful < scaled(8).compute
    assert scaled(8).compute / without.compute == pytest.approx(4 / 3, rel=0.05)


def config_of(method: str = "colar", *, mesh: str = "auto", rows: int = 64, **settings):
    config = defaults()
    config.update(workdir="unused", run=method)
    config.data.update(train_limit=40, num_val=4, num_test=4)
    config.model.preset = "pico"
    config.parallel.mesh = mesh
    config.stages[method] = stage_defaults(method=method, rows=rows, row_positions=128)
    for group, values in settings.items():
        config.stages[method][group].update(values)
    return resolve(config)


def test_only_a_step_of_colar_has_closed_forms():
    have = {name for name in METHODS if has_closed_forms(config_of(name).stages[name])}
    assert have == {"colar"}
    assert not has_closed_forms(config_of(latent={"predicted_pass_weight": 0.5}).stages["colar"])


def chips(config, rows_per_chip: int = 0) -> list[str]:
    lines = scaling_table(config, "colar", "v5e", rows_per_chip).splitlines()[2:]
    return [line.split("|")[1].strip() for line in lines]


def test_a_table_has_the_chips_that_rows_and_mesh_divide_into():
    assert chips(config_of(rows=32)) == ["8", "16", "32"]
    assert chips(config_of(rows=32, mesh="fsdp=16")) == ["16", "32"]
    assert chips(config_of(rows=4, mesh="fsdp=256"), 4) == ["256", "512", "1,024"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rows": 4}, "stages.colar.rows=4 are too few for the smallest slice: give --rows_per_chip"),
        ({"mesh": "fsdp=3"}, "parallel.mesh=fsdp=3 divides none of 8 to 1,024 chips"),
        ({"mesh": "fsdp=2048"}, "parallel.mesh=fsdp=2048 divides none"),
        ({"mesh": "fsdp=512", "rows": 1024}, "fsdp=512 is more than the 256 chips of a v5e slice"),
        ({"mesh": "tensor=8"}, "parallel.mesh=tensor=8: the table takes all of data and nothing of tensor"),
        ({"mesh": "data=2,fsdp=4"}, "parallel.mesh=data=2,fsdp=4: the table takes"),
    ],
)
def test_a_table_without_a_line_is_refused(settings, said):
    with pytest.raises(UserError) as raised:
        scaling_table(config_of(**settings), "colar", "v5e")
    assert str(raised.value).startswith(said)
