"""Adapters on our Llama and Qwen2 against the recorded forward passes of PEFT's, unmerged and merged."""

import functools

import jax
import pytest
from flax import nnx
from golden.published import largest_difference, lora_config, published_model, recorded, under_published_names

from colar_jax.model.execution import Execution
from colar_jax.model.lora import merge_adapters
from colar_jax.model.visibility import packed

TOLERANCE = 1e-5
FAMILIES = ("llama", "qwen2")


@functools.partial(jax.jit, static_argnames=("family", "adapter", "scan"))
def run(parameters, ids_BT, position_ids_BT, segment_ids_BT, *, family, adapter, scan=True):
    """Final hidden states and logits of rows of tokens."""
    llama = nnx.merge(published_model(pad_row=False, family=family, adapter=adapter)[0], parameters).llama
    compute = Execution(scan_layers=scan)
    hidden_BTD, _ = llama.run(llama.embedding[...][ids_BT], position_ids_BT, packed(segment_ids_BT, compute), compute)
    return hidden_BTD, llama.logits(hidden_BTD)


def inputs(family):
    """The recorded rows: ids, positions, segments (0 at the padding on the left), and where there is a token."""
    golden = {name.removeprefix(f"{family}/"): array for name, array in recorded("lora_forward").items()}
    is_real = golden["attention_mask"] == 1
    return golden, (golden["input_ids"], golden["position_ids"], golden["attention_mask"]), is_real


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_unmerged(family, scan):
    golden, rows, is_real = inputs(family)
    _, parameters = published_model(pad_row=False, family=family, adapter=True)
    hidden, logits = run(parameters, *rows, family=family, adapter=True, scan=scan)
    assert largest_difference(hidden[is_real], golden["last_hidden"][is_real]) < TOLERANCE
    assert largest_difference(logits[is_real], golden["logits"][is_real]) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_merged(family):
    golden, rows, is_real = inputs(family)
    merged = merge_adapters(published_model(pad_row=False, family=family, adapter=True)[1], lora_config(family))
    _, logits = run(merged, *rows, family=family, adapter=False)
    assert largest_difference(logits[is_real], golden["merged_logits"][is_real]) < TOLERANCE

    ours, adapters = under_published_names({"llama": merged["llama"]}), recorded("adapters")
    expected = {
        name.removeprefix(f"{family}_merged/"): adapters[name] for name in adapters if f"{family}_merged/" in name
    }
    assert len(expected) == 4
    for name, matrix in expected.items():
        assert largest_difference(ours[f"llm.{name}"], matrix) < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_the_adapter_matters(family):
    """Else the tests above would say nothing of it."""
    golden, rows, is_real = inputs(family)
    _, parameters = published_model(pad_row=False, family=family)
    _, logits = run(parameters, *rows, family=family, adapter=False)
    assert largest_difference(logits[is_real], golden["logits"][is_real]) > 0.01
