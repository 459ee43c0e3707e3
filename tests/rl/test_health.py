import logging

import numpy as np
import pytest

from colar_jax.config import RlConfig
from colar_jax.errors import UserError
from colar_jax.rl.health import Collapsed, Health
from colar_jax.rl.questions import QuestionStream

OTHER_LATENTS = {"accuracy": 0.5, "length": 4.0, "forced_stops": 0.0, "zero_variance": 0.3, "gap/latent": 1e-6}
WELL = OTHER_LATENTS | {"latent_entropy": -1.0}  # Gaussian ones


def health(**settings) -> Health:
    return Health("rl", RlConfig(**settings), min_latents=1, dtype="float32")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"length": 1.0}, "the least there can be"),
        ({"forced_stops": 0.95}, "95% of the chains run into decode.max_latents.*rl.length_penalty"),
        ({"zero_variance": 1.0}, "teach nothing"),
        ({"gap/answer": 0.01}, r"differ \(answer 0.01\) at unchanged parameters"),
        ({"latent_std_at_bound": 0.9}, "at a bound of the head.*rl.min_std=0.2"),
    ],
)
def test_alarms_come_once_in_a_while(caplog, values, message):
    import re

    watched = health(min_std=0.0)
    with caplog.at_level(logging.WARNING):
        for step in range(1, 25):
            watched.look(step, WELL | values)
    assert [bool(re.search(message, record.getMessage())) for record in caplog.records] == [True, True]


def test_alarms_of_chains_in_words_name_their_own_settings(caplog):
    watched = Health("rl", RlConfig(), min_latents=1, dtype="float32", in_words=True)
    watched.look(1, WELL | {"forced_stops": 0.95, "length": 1.0})
    assert "decode.max_step_tokens" in caplog.text and "1.00 tokens" in caplog.text
    assert not any(other in caplog.text for other in ("decode.max_latents", "latents,", "rl.decision_weight"))


def test_a_floor_is_meant_to_bind(caplog):
    health(min_std=0.2).look(1, WELL | {"latent_std_at_bound": 1.0})
    assert not caplog.records


@pytest.mark.parametrize(("floor", "by"), [(0.2, "the floor rl.min_std=0.2"), (0.0, "a bound of the head")])
def test_an_entropy_bonus_that_does_nothing_is_refused_at_the_first_update(floor, by):
    bound = {"latent_std_at_bound": 0.97, "latent_std": 0.0025}
    watched = health(min_std=floor, entropy_weight=0.01)
    watched.look(1, WELL)  # no update: nothing is known
    with pytest.raises(UserError, match=rf"stages.rl.rl.entropy_weight=0.01 does nothing: {by}.* binds at 97%"):
        watched.look(2, WELL | bound)
    spread = health(min_std=floor, entropy_weight=0.01)
    spread.look(1, WELL | {"latent_std_at_bound": 0.3})
    gone_on = health(min_std=floor, entropy_weight=0.01)
    gone_on.recall(spread.memory())
    gone_on.look(2, WELL | bound)  # in mid-run nothing is refused
    health(min_std=floor).look(1, WELL | bound)


def test_exploding_ratios_end_the_run_and_say_why():
    with pytest.raises(Collapsed, match=r"iteration 3: ratios explode.*raise rl.min_std"):
        health().look(3, WELL | {"lost/latent": 0.9, "log_ratio/latent": 7.0, "latent_std": 0.002})


def test_a_few_latents_that_move_far_do_not(caplog):
    """Seen in a healthy run: nine of ten latents hardly moved, and the mean was 2.4 nats for one iteration."""
    health().look(29, WELL | {"lost/latent": 0.08, "log_ratio/latent": 2.42})
    assert not caplog.records


def test_latents_that_are_no_gaussians_have_no_floor_to_raise():
    with pytest.raises(Collapsed, match=r"ratios explode.*: lower optimizer.learning_rate, or hold the") as collapsed:
        health().look(3, OTHER_LATENTS | {"lost/answer": 0.9, "log_ratio/answer": 7.0})
    assert "min_std" not in str(collapsed.value)


def test_reduced_ratios_end_the_run_as_ever_and_whole_ones_are_an_alarm(caplog):
    """A run that clips as published goes on where its own ratios are small."""
    watched = health(latent_ratio="reduced")
    watched.look(1, WELL | {"log_ratio/latent": 7.0, "lost/latent": 0.9, "lost/latent_reduced": 0.0})
    assert "changed by a factor of e^7" in caplog.text and "rl.latent_ratio='whole' clips it" in caplog.text
    with pytest.raises(Collapsed, match="ratios explode"):
        watched.look(2, WELL | {"log_ratio/latent": 400.0, "lost/latent_reduced": 0.9})


def test_a_collapse_that_does_not_end_the_run_is_a_warning(caplog):
    watched = health(stop_on_collapse=False)
    for step in range(1, 25):
        watched.look(step, WELL | {"lost/latent": 0.9})
    assert ["ratios explode" in record.getMessage() for record in caplog.records] == [True, True]


def test_bfloat16_differs_at_the_edge_of_the_nucleus_in_health(caplog):
    watched = Health("rl", RlConfig(), min_latents=1, dtype="bfloat16")
    watched.look(1, WELL | {"gap/latent": 0.009, "gap/answer": 0.12})
    assert not caplog.records
    watched.look(2, WELL | {"gap/latent": 0.12})
    assert "(latent 0.12)" in caplog.text


def look_at_a_fall(watched: Health) -> None:
    for step in range(31, 60):
        watched.look(step, WELL | {"accuracy": 0.02})


def test_a_fall_of_accuracy_ends_the_run_also_when_it_was_stopped_in_between():
    watched = health()
    for step in range(1, 31):
        watched.look(step, WELL)
    resumed = health()
    resumed.recall(watched.memory())
    for one in (watched, resumed):
        with pytest.raises(Collapsed, match=r"accuracy of rollouts fell from 50.0% to 1\d") as collapsed:
            look_at_a_fall(one)
        assert "iteration 42" in str(collapsed.value)
    slowly = health()
    for step in range(1, 200):
        slowly.look(step, WELL | {"accuracy": max(0.3, 0.5 - step / 500)})


@pytest.mark.parametrize(("accuracy", "num_questions"), [(0.05, 8), (0.1, 8), (0.1, 1), (0.3, 4), (0.5, 4), (0.05, 32)])
def test_a_policy_that_stays_as_it_is_has_not_collapsed(accuracy, num_questions):
    """Of few hard questions the best of many running means is far above the mean, and the worst far below."""
    rng = np.random.default_rng(0)
    watched = health(num_questions=num_questions)
    for step in range(1, 1001):
        watched.look(step, WELL | {"accuracy": rng.binomial(num_questions, accuracy) / num_questions})


@pytest.mark.parametrize(("accuracy", "num_questions"), [(0.3, 32), (0.8, 8), (0.9, 2)])
def test_a_policy_that_answers_nothing_any_more_has(accuracy, num_questions):
    watched = health(num_questions=num_questions)
    for step in range(1, 101):
        watched.look(step, WELL | {"accuracy": accuracy})
    with pytest.raises(Collapsed, match="the accuracy of rollouts fell"):
        look_at_a_fall(watched)


def test_questions_that_get_harder_are_no_collapse():
    """With `rl.skip_solved` those that are left are the ones that this policy, which stays as it is, does not solve."""
    rng, num_questions = np.random.default_rng(0), 500
    chances = rng.beta(0.4, 0.1, num_questions)
    stream, watched = QuestionStream(num_questions, 0, skip_solved=True), health(skip_solved=True)
    accuracies = []
    for step in range(1, 301):
        drawn = stream.draw(8)
        right = rng.random((8, 8)) < chances[drawn][:, None]
        stream.solved(drawn[right.all(axis=1)])
        accuracies.append(right.mean())
        watched.look(step, WELL | {"accuracy": accuracies[-1]})
    assert min(np.convolve(accuracies, np.ones(20) / 20, "valid")) < 0.4 * np.mean(accuracies[:20])
