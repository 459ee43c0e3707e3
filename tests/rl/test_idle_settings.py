"""A setting of reinforcement learning that does nothing with a method's chains is refused, and not passed over."""

import pytest

from colar_jax.config import RlConfig
from colar_jax.methods import METHODS

OTHER = {
    "latent_weight": 2.0,
    "decision_weight": 4.0,
    "min_std": 0.5,
    "final_min_std": 0.1,
    "noise": "one_sided",
    "entropy_weight": 0.1,
    "log_prob_reduction": "sum",
    "first_latent": "best",
    "final_max_latents": 3,
    "stop_odds_temperature": 2.0,
    "final_stop_odds_temperature": 1.0,
    "stop_credit": "answer",
    "credit_forced_stops": True,
}
IDLE = {name: method() for name, method in METHODS.items() if method().idle_in_rewards}


@pytest.mark.parametrize("name", IDLE)
def test_every_idle_setting_is_refused_and_the_others_are_not(name):
    method = IDLE[name]
    reasons = {field: why for why, fields in method.idle_in_rewards.items() for field in fields}
    assert not method.objection_to_rewards(RlConfig())
    for field, value in OTHER.items():
        objection = method.objection_to_rewards(RlConfig(**{field: value}))
        wanted = (
            f"{field}={value!r} {reasons[field]}; leave it at {getattr(RlConfig(), field)!r}"
            if field in reasons
            else ""
        )
        assert objection == wanted
    assert set(reasons) <= set(OTHER)


def test_where_the_choice_alone_learns_its_rollouts_are_still_drawn_as_they_are_asked():
    for field in ("min_std", "noise", "stop_odds_temperature"):
        assert not METHODS["own_speed"]().objection_to_rewards(RlConfig(**{field: OTHER[field]}))
    every = METHODS["own_speed"](learns="all")
    assert not any(every.objection_to_rewards(RlConfig(**{field: value})) for field, value in OTHER.items())


def test_words_have_neither_latents_nor_decisions():
    assert "words" in METHODS["cot"]().objection_to_rewards(RlConfig(min_std=0.5))
    assert "decisions" in METHODS["cot"]().objection_to_rewards(RlConfig(decision_weight=4.0))


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("latent_sft", "min_std"),
        ("latent_sft", "decision_weight"),
        ("latent_sft", "stop_credit"),
        ("adaptive", "latent_weight"),
        ("adaptive", "noise"),
        ("cot", "log_prob_reduction"),
        ("cot", "first_latent"),
        ("own_speed", "entropy_weight"),
        ("own_speed", "latent_weight"),
        ("own_speed", "first_latent"),
        ("own_speed", "decision_weight"),
    ],
)
def test_what_cannot_matter_is_refused(name, field):
    assert METHODS[name]().objection_to_rewards(RlConfig(**{field: OTHER[field]})).startswith(f"{field}=")
