import numpy as np
import pytest

from colar_jax.config import RlConfig
from colar_jax.data.answers import is_right
from colar_jax.data.problems import Problem
from colar_jax.rl.questions import QuestionStream
from colar_jax.rl.rewards import make_reward, rewards_of

PROBLEMS = [Problem("a", (), "18"), Problem("b", (), "4"), Problem("c", (), "7")]


def test_every_question_comes_once_a_round_in_an_order_of_its_own():
    """As published the first draw of questions is used for ever."""
    stream = QuestionStream(10, seed=1)
    draws = [stream.draw(4) for _ in range(5)]
    asked = np.concatenate(draws)
    assert sorted(asked[:10]) == sorted(asked[10:]) == list(range(10))
    assert asked[:10].tolist() != asked[10:].tolist()
    assert not set(draws[0]) & set(draws[1])
    np.testing.assert_array_equal(QuestionStream(10, seed=1).draw(4), draws[0])
    assert QuestionStream(10, seed=2).draw(10).tolist() != asked[:10].tolist()


def test_a_stream_goes_on_where_another_stood():
    first = QuestionStream(7, seed=3, skip_solved=True)
    first.solved(first.draw(3)[:2])
    second = QuestionStream(7, seed=3, skip_solved=True)
    second.recall(first.memory())
    for _ in range(6):
        np.testing.assert_array_equal(first.draw(3), second.draw(3))


def test_solved_questions_do_not_come_again_until_too_few_are_left():
    stream = QuestionStream(6, seed=0, skip_solved=True)
    solved = stream.draw(4)
    stream.solved(solved)
    stream.draw(2)
    assert not set(stream.draw(2)) & set(solved) and stream.num_solved == 4
    assert len(stream.draw(3)) == 3 and stream.num_solved == 0
    keeps = QuestionStream(6, seed=0)
    keeps.solved(keeps.draw(6))
    assert keeps.num_solved == 0


def test_correctness_and_its_length_penalty():
    answers, lengths = ["18.0", "5", "7"], [4, 1, 8]
    plain = make_reward(RlConfig(), is_right, 8)
    np.testing.assert_array_equal(rewards_of(plain, PROBLEMS, answers, lengths), [1, 0, 1])
    short = make_reward(RlConfig(length_penalty=0.5), is_right, 8)
    np.testing.assert_allclose(rewards_of(short, PROBLEMS, answers, lengths), [0.75, 0, 0.5])


def own_reward(problems, answers, num_latents):
    return [float(len(problem.question) + length) for problem, length in zip(problems, num_latents, strict=True)]


def test_a_function_of_ones_own(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "my_rewards", __import__("types").SimpleNamespace(mine=own_reward))
    reward = make_reward(RlConfig(reward="my_rewards:mine"), is_right, 8)
    np.testing.assert_array_equal(rewards_of(reward, PROBLEMS, ["", "", ""], [1, 2, 3]), [2, 3, 4])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("corectness", r"rl.reward='corectness' is none of correctness. Did you mean 'correctness'\?"),
        ("nowhere.at_all:f", "cannot be imported: No module named"),
        ("math:nothing", "cannot be imported: module 'math' has no attribute 'nothing'"),
        ("math:pi", "is no function"),
    ],
)
def test_a_reward_that_does_not_exist(name, message):
    with pytest.raises(ValueError, match=message):
        make_reward(RlConfig(reward=name), is_right, 8)


@pytest.mark.parametrize("values", [[1.0], [1.0, float("nan"), 0.0]])
def test_a_reward_function_that_gives_something_else(values):
    with pytest.raises(ValueError, match="the reward function gave"):
        rewards_of(lambda *arguments: values, PROBLEMS, ["", "", ""], [1, 2, 3])
