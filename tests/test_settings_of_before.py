"""Settings that are younger than a run: what it meant by leaving them out."""

import dataclasses

from colar_jax.config import of_before
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
