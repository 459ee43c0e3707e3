"""Settings that are younger than a run: what it meant by leaving them out."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from colar_jax.config import DecodeConfig, of_before, resolve
from colar_jax.errors import UserError
from colar_jax.methods import METHODS
from colar_jax.methods.colar import Colar
from colar_jax.runs.resuming import refuse_another_run
from colar_jax.runs.run import prepare
from colar_jax.runs.run_folder import saved_config
from colar_jax.settings.on_resume import OnResume, adjustable, as_before, binding, observing, on_resume, walk


@dataclasses.dataclass(frozen=True)
class Inner:
    always: int = 1
    young: str = binding("new", before="old")
    harmless: int = binding(3)


@dataclasses.dataclass(frozen=True)
class Outer:
    rate: float = adjustable(0.1, before=0.2)
    look: int = observing(5, before=6)
    inner: Inner = dataclasses.field(default_factory=Inner)


def test_the_values_of_before():
    assert as_before(Outer(rate=9.0)) == Outer(rate=0.2, look=6, inner=Inner(young="old"))
    kinds = {name: kind for name, _, kind in walk(Outer())}
    assert kinds["inner.young"] is kinds["inner.harmless"] is OnResume.BINDS
    assert (kinds["rate"], kinds["look"]) == (OnResume.ADJUSTABLE, OnResume.OBSERVING)
    assert [on_resume(field) for field in dataclasses.fields(Outer)][:2] == [OnResume.ADJUSTABLE, OnResume.OBSERVING]


def test_what_a_saved_config_leaves_out_is_as_it_was_then():
    def filled(settings):
        return of_before._as_before(Outer, settings)

    assert filled({}) == {"rate": 0.2, "look": 6, "inner": {"young": "old"}}
    saved = {"rate": 0.3, "inner": {"always": 2, "young": "new"}}
    assert filled(saved) == saved | {"look": 6}
    assert saved == {"rate": 0.3, "inner": {"always": 2, "young": "new"}}
    assert filled({"inner": "no group"})["inner"] == "no group"  # for the check of types to say


BEFORE = Path(__file__).parent / "runs_of_before" / "arithmetic"


@pytest.mark.parametrize(
    ("method", "group", "then"),
    [
        ("sim_coconut", "sim_coconut", {"spelled_tokens": "mean", "shared_embedding": False}),
        ("sim_codi", "sim_codi", {"shared_embedding": False}),
        ("sim_colar", "sim_colar", {"shared_embedding": False}),
        ("ruplar", "ruplar", {"weighting": "position"}),
        ("colar_khot", "khot", {"weighting": "position"}),
        ("latent_sft", "latent_sft", {"weighting": "position"}),
    ],
)
def test_a_stage_of_before_computes_what_it_did(method, group, then):
    """Each of these settings is younger than the methods, and computes something else by default."""
    stage = {"method": method, "trainer": "grpo"}
    (found,) = of_before.of_this_version({"stages": {"one": stage}})["stages"].values()
    assert then.items() <= found[group].items()
    today = vars(METHODS[method]())
    assert all(today[name] != value for name, value in then.items())


def test_a_run_of_before_weighs_groups_and_stops_as_it_did():
    config = resolve(saved_config(BEFORE))
    latent = config.stages["colar"].bound_method
    assert (latent.weighting, latent.conditioning) == ("position", "text")
    assert config.decode.greedy_stop == "argmax"
    assert (Colar().weighting, DecodeConfig().greedy_stop) == ("example", "half")


def test_a_checkpoint_of_before_is_not_gone_on_with_as_if_it_were_new(tmp_path):
    """By a config file, which has today's defaults: the settings that meant something else are named."""
    workdir = shutil.copytree(BEFORE, tmp_path / "run")
    config = saved_config(workdir)
    config.stages.colar.latent.update(weighting=Colar().weighting)
    with pytest.raises(UserError) as refusal:
        refuse_another_run(prepare(resolve(config)), "colar", accept_changes=True)
    assert "stages.colar.latent.weighting was 'position', is 'example'" in str(refusal.value)
    assert refuse_another_run(prepare(resolve(saved_config(workdir))), "colar", accept_changes=False) == []
