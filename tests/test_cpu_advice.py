"""bfloat16 on a CPU is said to be slow when a run is prepared, with the flag to set; a bfloat16 base is not."""

import jax
import pytest
from exchange.tiny_run import tiny_config

from colar_jax.runs.run import prepare


@pytest.mark.parametrize(
    ("model", "is_told"),
    [
        ({"dtype": "bfloat16"}, True),
        ({"dtype": "float32"}, False),
        ({"dtype": "float32", "base_dtype": "bfloat16", "lora": {"rank": 2}}, False),
    ],
)
def test_a_slow_dtype_is_named_with_its_flag(tmp_path, caplog, model, is_told):
    assert jax.default_backend() == "cpu"
    prepare(tiny_config(tmp_path, **model), sets="none")
    told = [record.message for record in caplog.records if "--config.model.dtype=float32" in record.message]
    assert len(told) == is_told, caplog.text
