"""What was thought is looked at in greedy decodes, and costs nobody else's time."""

import json

import pytest
from sweep.tiny_runs import config_of, make_run

from colar_jax.evaluation.decode_program import Programs
from colar_jax.runs.sweep import member
from colar_jax.runs.sweep.sweep import sweep

pytestmark = pytest.mark.slow

OF_COLAR = {"run": "colar", "eval.speeds": "2,5", "eval.seeds": 1}


def test_no_batch_is_under_way_while_latents_are_looked_at(tmp_path, monkeypatch):
    """It would count the look, another decode, as its own time: `ms a question` is reported of it."""
    start, finish, look = Programs.start, Programs.finish, member._look
    under_way, seen = [], []

    def started(*arguments):
        under_way.append(1)
        return start(*arguments)

    def finished(*arguments):
        under_way.pop()
        return finish(*arguments)

    def looked(*arguments):
        chains = look(*arguments)
        seen.append((chains is not None, len(under_way)))
        return chains

    monkeypatch.setattr(Programs, "start", started)
    monkeypatch.setattr(Programs, "finish", finished)
    monkeypatch.setattr(member, "_look", looked)
    sweep([make_run(tmp_path / "run", **OF_COLAR)])
    assert [num_batches for is_look, num_batches in seen if is_look] == [0, 0]
    assert any(num_batches for is_look, num_batches in seen if not is_look), "other cells follow without a pause"


def test_a_limit_that_is_the_runs_own_is_the_same_decode_under_another_name(tmp_path):
    """Samples have the names of the report that they are in, and their latents, whoever decoded them."""
    config = make_run(tmp_path / "run", **OF_COLAR, **{"eval.latent_limits": "2,4"})
    plain = config_of(tmp_path / "run", **OF_COLAR)

    def samples(config, out):
        sweep([config], tmp_path / out)
        return [json.loads(line) for line in (tmp_path / out / "samples.jsonl").read_text().splitlines()]

    limited = samples(config, "both")
    assert {sample["latent_limit"] for sample in limited} == {"2", "4"}
    assert {sample["latent_limit"] for sample in limited if sample["latents"]} == {"4"}
    own = samples(plain, "both")
    assert len(own) == len(limited) / 2 and all(sample["latents"] for sample in own)
    assert not any("latent_limit" in sample for sample in own)
    assert own == samples(plain, "alone")


def test_what_was_decoded_under_another_limit_was_not_looked_at(tmp_path):
    """The run's own limit of today, decoded as one of several before."""
    config = make_run(tmp_path / "run", **OF_COLAR, **{"eval.latent_limits": "2,4"})
    sweep([config], tmp_path / "out")
    sweep([config_of(tmp_path / "run", **OF_COLAR, **{"decode.max_latents": 2})], tmp_path / "out")
    samples = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert samples and all(sample["latents"] for sample in samples)
