"""The experiment on a real model, tiny: all its stages, the table, and whether latents are used."""

import json
import runpy
from pathlib import Path

import pytest

from colar_jax.config import resolve
from colar_jax.runs.pipeline import train

CONFIG_FILE = Path(__file__).parents[2] / "configs" / "smollm2_gsm8k.py"


@pytest.mark.slow
def test_all_stages_run_to_one_table(tmp_path):
    config = runpy.run_path(str(CONFIG_FILE))["get_config"]("smoke")
    config.workdir = str(tmp_path)
    config.eval.speeds = "2"
    results = train(resolve(config))
    assert {result.stage for result in results} == {"cot", "colar", "rl", "icot", "no_cot"}
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["differences"] and report["causal"]
    shown = [len(sample["latents"]) for sample in samples(tmp_path) if sample["stage"] == "colar"]
    assert 0 < max(shown) <= config.decode.max_latents


def samples(workdir: Path) -> list[dict]:
    lines = (workdir / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
