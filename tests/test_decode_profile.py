"""A decode's profile finds an operation's place in the model by what the compiled program says of it."""

import importlib
from pathlib import Path

import pytest

HLO = """
HloModule jit_program

ENTRY %main (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  %fusion.1 = f32[2]{0} fusion(%p), kind=kLoop, metadata={op_name="jit(program)/think/while/body/attention/attend/mul"}
  %dot.7 = f32[2]{0} dot(%fusion.1, %p), lhs_contracting_dims={0}
  %dot.8 = f32[2]{0} dot(%p, %p), metadata={op_name="jit(program)/prefill/while/body/mlp/dot_general"}
  %dot.9 = f32[2]{0} dot(%p, %p), metadata={op_name="jit(program)/answer/logits/...d,vd->...v/dot_general"}
  ROOT %add.2 = f32[2]{0} add(%dot.7, %dot.8), metadata={op_name="jit(program)/think/add"}
}
"""


@pytest.fixture
def profile(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("decode_profile")


def test_an_operation_is_told_by_its_place(profile):
    places = profile.places_of(HLO)
    assert profile.part_of(places["dot.7"]) == ("a latent", "attention, cache")  # its own place is lost
    assert profile.part_of(places["dot.8"]) == ("questions", "products with weights")
    assert profile.part_of(places["dot.9"]) == ("an answer token", "language head")
    assert profile.part_of(places["add.2"]) == ("a latent", "the rest")
    assert profile.part_of(places["p"]) == ("the rest", "the rest")


@pytest.mark.slow
def test_the_command_prints_its_table(profile, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["decode_profile.py", "--questions=2", "--latents=2", "--answer_tokens=2"])
    profile.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("|") for line in lines if line.startswith("| ") and "---" not in line and "%" not in line]
    assert abs(sum(float(row[3]) for row in rows) - 100) < 1
    assert any("| a latent | attention, cache |" in line for line in lines)
