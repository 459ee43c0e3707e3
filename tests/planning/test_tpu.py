"""Compiling for a TPU that is not there, where libtpu is."""

import importlib.util
import json

import pytest
from planning.test_plan import run

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


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is here")
def test_without_libtpu_a_tpu_s_compiler_is_an_extra():
    done = run(*FLAGS, "--compiler=tpu")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("pip install -e '.[tpu]', or take --compiler=host")
