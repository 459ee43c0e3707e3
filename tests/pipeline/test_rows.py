"""Any number of rows is trained on any number of devices, in any number of parts: it is the same update."""

import logging

import pytest
from pipeline.tiny import tiny_config

from colar_jax.metric_writer import read_metrics
from colar_jax.runs.pipeline import train_stage
from colar_jax.runs.run import prepare


@pytest.mark.slow
def test_rows_that_do_not_divide_are_trained_all_the_same(tmp_path, caplog):
    lines = {}
    for accumulation in (1, 2):
        settings = {"run": "cot", "stages.cot.rows": 3, "stages.cot.accumulation": accumulation}
        run = prepare(tiny_config(tmp_path / str(accumulation), **settings, **{"eval.stages": "cot"}))
        with caplog.at_level(logging.INFO):
            train_stage(run, "cot")
        lines[accumulation] = [line for line in read_metrics(run.workdir / "cot") if "loss" in line]
    assert caplog.text.count("stage cot: 3 rows are computed as 4") == 1
    assert len(lines[1]) == len(lines[2]) > 2
    for whole, in_parts in zip(lines[1], lines[2], strict=True):
        assert in_parts["step"] == whole["step"]
        for name in ("loss", "gradient_norm", "label_accuracy"):
            assert in_parts[name] == pytest.approx(whole[name], rel=1e-3), name
