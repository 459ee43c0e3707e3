import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from colar_jax.config import RlConfig
from colar_jax.data.answers import is_right
from colar_jax.data.problems import Problem
from colar_jax.errors import UserError
from colar_jax.rl.credit import REWARDS
from colar_jax.rl.questions import QuestionStream
from colar_jax.rl.reward_list import make_reward, rewards_of

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


def two_arguments(problems, answers):
    return [0.0] * len(answers)


class Callable:
    def __call__(self, problems, answers, num_latents):
        return np.arange(len(answers))


@pytest.fixture(autouse=True)
def my_rewards(monkeypatch):
    functions = {
        "mine": own_reward, "two": two_arguments, "instance": Callable(), "a_class": Callable,
        "not_a_number": lambda *arguments: [float("nan")] * 3,
    }  # fmt: skip
    monkeypatch.setitem(sys.modules, "my_rewards", types.SimpleNamespace(**functions))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("my_rewards:mine", [2, 3, 4]),
        ("my_rewards:instance", [0, 1, 2]),
        ("correctness", [1, 0, 0]),
        ("brevity", [0.875, 0.75, 0.625]),
        ("correctness,0.5*brevity", [1.4375, 0.375, 0.3125]),
        (" 2 * correctness , -1e-1*my_rewards:mine,", [1.8, -0.3, -0.4]),
    ],
)
def test_rewards_with_weights(text, values):
    reward = make_reward(RlConfig(reward=text), is_right, 8)
    np.testing.assert_allclose(rewards_of(reward, PROBLEMS, ["18", "", ""], [1, 2, 3]), values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("corectness", rf"rl.reward='corectness' is none of {', '.join(REWARDS)}.*Did you mean 'correctness'\?"),
        ("correctness,brevty", "rl.reward='brevty' is none of .*Did you mean 'brevity'"),
        ("nowhere.at_all:f", "cannot be imported: ModuleNotFoundError: No module named"),
        ("math:nothing", "cannot be imported: AttributeError: module 'math' has no attribute 'nothing'"),
        ("math:", "names nothing: write package.module:NAME"),
        ("math:pi", "is of type float: it is no function"),
        ("my_rewards:two", r"cannot be called as reward\(problems, answers, num_latents\): too many positional"),
        ("my_rewards:a_class", r"cannot be called as reward\(problems, answers, num_latents\)"),
        ("x*correctness", "has 'x' as weight: write a number before the star, as in 0.5[*]correctness"),
        ("*correctness", "has '' as weight"),
        ("nan*correctness", "has 'nan' as weight"),
        ("inf*correctness", "has 'inf' as weight"),
        ("0*correctness", "has '0' as weight"),
        ("correctness*0.5", "has 'correctness' as weight"),
        ("2*3*correctness", "has '2[*]3' as weight"),
        ("correctness,2*correctness", "has 'correctness' twice"),
        ("", "is empty"),
        (" , ", "is empty"),
    ],
)
def test_a_reward_that_does_not_exist(text, message):
    with pytest.raises(UserError, match=message):
        make_reward(RlConfig(reward=text), is_right, 8)


@pytest.mark.parametrize(
    "given",
    [[1.0], [1.0, float("nan"), 0.0], [1.0, 1e39, 0.0], [1.0, None, 0.0], None, 1.0, ["a", "b", "c"], [[1], [2], [3]],
     [[1], [2, 3], 4], {}, [1j, 2j, 3j], iter([1.0, 2.0, 3.0]), ["1", "2", "3"]],
)  # fmt: skip
def test_a_reward_function_that_gives_something_else(given):
    with pytest.raises(UserError, match="the reward function gave .* for 3 rollouts: one finite number each is wanted"):
        rewards_of(lambda *arguments: given, PROBLEMS, ["", "", ""], [1, 2, 3])


def test_which_of_several_gave_something_else_is_said():
    reward = make_reward(RlConfig(reward="correctness,2*my_rewards:not_a_number"), is_right, 8)
    with pytest.raises(UserError, match=r"the reward function 2\*my_rewards:not_a_number gave \[nan"):
        rewards_of(reward, PROBLEMS, ["", "", ""], [1, 2, 3])


def test_the_example_of_the_docs_is_a_reward(monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "rl.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(# my_rewards\.py.*?)```", page, re.DOTALL)
    names = {}
    exec(example, names)
    monkeypatch.setitem(sys.modules, "my_rewards", types.SimpleNamespace(words=names["words"]))
    (setting,) = re.findall(r'stages\.rl\.rl\.reward="(.*)"', page)
    reward = make_reward(RlConfig(reward=setting), is_right, 8)
    np.testing.assert_allclose(rewards_of(reward, PROBLEMS, ["18", "two words", ""], [0, 4, 8]), [1.05, -0.05, 0])
