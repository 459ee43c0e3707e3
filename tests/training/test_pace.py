"""Rates are of training: what comes between two log lines and is none does not count."""

import pytest

from colar_jax.training import pace
from colar_jax.training.pace import Pace


def test_a_validation_is_no_part_of_a_step(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    measured = Pace()
    now[0] += 10
    measured.read(5, 50, 0)
    now[0] += 90  # validating, and saving
    measured.skip()
    now[0] += 10
    values = measured.read(10, 50, 0)
    assert values["time/seconds_per_step"] == pytest.approx(2) and values["time/examples_per_second"] == pytest.approx(
        5
    )
