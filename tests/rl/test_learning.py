"""The loop learns: from rewards of latents and lengths, and from nothing where there is nothing to tell apart."""

import collections
import functools
import json
import unittest.mock

import jax
import numpy as np
import pytest
from rl.pico_policy import (
    EOS_ID,
    PROMPTS,
    SAMPLING,
    SEPARATOR_ID,
    G,
    batch_of,
    policy,
    rescored,
    rollouts,
    sampler,
)

from colar_jax.config import OptimizerConfig, RlConfig, StageConfig
from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.problems import Problem
from colar_jax.data.recipe import Recipe
from colar_jax.engine import Engine
from colar_jax.evaluation.judge import Judge
from colar_jax.metrics import Metric, divide
from colar_jax.parallel.mesh import make_mesh, put_rows, replicate
from colar_jax.rl import judging
from colar_jax.rl.credit import advantages_of
from colar_jax.rl.grpo import GrpoTrainer, make_policy_step
from colar_jax.rl.health import Health
from colar_jax.rl.judging import Draw, Questioner
from colar_jax.rl.learner import Learner
from colar_jax.rl.lengths import LengthWeight
from colar_jax.rl.questions import QuestionStream
from colar_jax.rl.tree_batch import KINDS
from colar_jax.training.optimizer import make_optimizer
from colar_jax.training.state import REFERENCE, initial_state, join, partition

GENERATIONS = 16


@functools.cache
def step_and_state(learning_rate: float, trains=("llama", "latent_head"), **rl):
    rl = RlConfig(num_generations=GENERATIONS, minibatch_size=4 * GENERATIONS, min_std=SAMPLING.min_latent_std, **rl)
    stage = StageConfig(method="colar", trainer="grpo", rl=rl)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=learning_rate, schedule="constant", weight_decay=0.0), 1)
    mesh = make_mesh(jax.devices()[:1])
    graph, parameters = policy()
    trainable, frozen = partition(parameters, trains)
    step = make_policy_step(Engine(graph, mesh), stage, SAMPLING, SEPARATOR_ID, optimizer)

    def start():
        return replicate(initial_state(jax.tree.map(np.array, trainable), optimizer), mesh)

    return step, start, frozen, mesh


def bandit(sign: int, iterations: int):
    """Rewards of latents whose first dimension is large, and of short chains; the mean reward of each iteration."""
    step, start, frozen, mesh = step_and_state(2e-3)
    state, rewards, lengths = start(), [], []
    run = sampler(num_generations=GENERATIONS)
    for iteration in range(iterations):
        ((_, sampled),) = run.run(join(state.trainable, frozen), PROMPTS, jax.random.key(iteration))
        is_fed = np.arange(SAMPLING.max_latents)[None] < sampled.num_thoughts_B[:, None]
        first = np.where(is_fed, sampled.thoughts[..., 0], 0).sum(axis=-1) / sampled.num_thoughts_B
        reward = np.tanh(first) - 0.2 * sampled.num_thoughts_B
        rewards.append(reward.mean())
        lengths.append(sampled.num_thoughts_B.mean())
        batch = batch_of(sampled, sign * advantages_of(reward.reshape(-1, GENERATIONS), RlConfig()))
        state, _ = step(state, frozen, put_rows(batch, mesh), jax.random.key(0))
    return np.array(rewards), np.array(lengths)


@pytest.mark.slow
def test_a_bandit_finds_the_direction_and_the_short_chains():
    rewards, lengths = bandit(+1, 25)
    assert rewards[-4:].mean() > rewards[:4].mean() + 0.4 and lengths[-4:].mean() < lengths[:4].mean() - 1
    wrong, _ = bandit(-1, 12)
    assert wrong[-4:].mean() < wrong[:4].mean()


def test_an_update_knows_how_far_the_policy_is_from_the_first_one():
    """Which has its own latent head here, and shares what is not trained."""
    step, start, frozen, mesh = step_and_state(2e-3, ("latent_head",), beta=0.5)
    state, batch = start(), batch_of(rollouts(), rl=RlConfig())
    first = jax.tree.map(lambda leaf: leaf * np.float32(1.5), jax.device_get(state.trainable))
    own, of_first = (rescored(parameters, batch)["latent"] for parameters in (policy()[1], join(first, frozen)))
    difference = np.asarray(of_first - own)[batch.terms["latent"].mask]
    _, metrics = step(state, frozen | {REFERENCE: first}, put_rows(batch, mesh), jax.random.key(0))
    values = divide(metrics)
    assert values["kl/latent"] == pytest.approx(np.mean(np.exp(difference) - difference - 1), rel=1e-3)
    assert values["kl/latent"] > 1e-3 and values["kl/decision"] == values["kl/answer"] == 0


class Words:
    """A tokenizer whose answers are the number of their tokens."""

    def answer_texts(self, ids, counts):
        return [str(count) for count in counts]


TWO_SPEEDS = Recipe((5.0, 2.0))


def learner(reward, right, recipe=TWO_SPEEDS, **rl) -> Learner:
    problems = tuple(Problem(str(number), (), "5") for number in range(len(PROMPTS)))
    nothing, tails = (np.zeros(0, np.int32),) * len(PROMPTS), {"5": [5], "2": [2], "auto": [1, 1]}
    heads = tuple(prompt[:-1] for prompt in PROMPTS)
    encoded = EncodedProblems(
        problems, heads, {said: np.int32(ids) for said, ids in tails.items()}, nothing, nothing, SEPARATOR_ID, EOS_ID
    )
    config = RlConfig(
        num_questions=4, min_std=SAMPLING.min_latent_std, **dict(num_generations=4, minibatch_size=8) | rl
    )
    questioner = Questioner(
        config=config, sampling=SAMPLING, encoded=encoded, judge=Judge(Words(), right), recipe=recipe,
        sampler=sampler(num_generations=config.rollouts_per_prompt), reward=reward, seed=3,
    )  # fmt: skip
    stream = QuestionStream(len(PROMPTS), 0, skip_solved=config.skip_solved)
    return Learner(
        questioner, stream, LengthWeight(config, config.length_weight), row_rooms=(2 * config.speeds_per_group,)
    )


def ask(one: Learner, iteration: int = 0):
    """What becomes of the four questions."""
    return one.questioner.ask(policy()[1], np.arange(4), Draw(iteration, 0, one.length_weight.value))


def by_turns(problems, answers, num_latents):
    """Questions 0 and 1 reward nothing."""
    return [number % 2 if int(problem.question) > 1 else 1 for number, problem in enumerate(problems)]


def three_of_four(problems, answers, num_latents):
    """Question 0 rewards nothing."""
    return [number % 2 if int(problem.question) else 1 for number, problem in enumerate(problems)]


def never(answer, truth):
    return False


def test_all_processes_learn_from_the_rewards_of_the_first(monkeypatch):
    """A reward may be drawn, or asked of a service: each process would make others."""
    monkeypatch.setattr(judging, "as_the_first_has", lambda arrays: (np.arange(16.0), ~arrays[1]))
    judged = ask(learner(by_turns, never))
    assert judged.outcomes.rewards_QG.tolist() == np.arange(16.0).reshape(4, 4).tolist()
    assert judged.outcomes.right_QG.all() and judged.informative_Q.all()


def test_groups_without_variance_are_left_out_and_counted():
    seen = []

    def update(state, batch):
        seen.append(batch)
        return state + 1, {f"log_ratio/{kind}": Metric(np.float32(0), np.float32(1)) for kind in KINDS}

    one = learner(by_turns, never, num_iterations=2)
    state, metrics, num_chains = one.iterate(0, lambda state: policy()[1], update, 0)
    values = divide(metrics)
    assert (state, num_chains, values["updates"]) == (2, 16, 2)
    assert values["zero_variance"] == 0.5 and values["accuracy"] == 0
    for batch in seen:  # both groups with variance, in rows of their own, in some order
        lengths = sorted(batch.prompt_lengths_B.tolist())
        assert lengths == sorted(len(PROMPTS[question]) + 1 for question in (2, 3))
        assert batch.advantages_BG.sum(axis=1) == pytest.approx(0, abs=1e-5)
    everything = learner(lambda *arguments: [1.0] * 16, lambda answer, truth: True, skip_solved=True)
    _, metrics, _ = everything.iterate(0, lambda state: policy()[1], None, 0)
    values = divide(metrics)
    assert (values["updates"], values["zero_variance"], values["solved_questions"]) == (0, 1, 4)


def counted(state, batch):
    return state + 1, {f"log_ratio/{kind}": Metric(np.float32(0), np.float32(1)) for kind in KINDS}


def test_what_is_told_of_rollouts():
    """Answers without an eos, however long they are; and #L of those that are right alone."""
    right = {"2", "5"}  # an answer's text is the number of its tokens, and five is the most
    one = learner(by_turns, lambda answer, truth: answer in right)
    judged = ask(one)
    values, decoded = divide(one._of_rollouts(judged)), judged.decoded
    answers = list(zip(decoded.answer_ids_BA, decoded.num_answer_tokens_B, strict=True))
    unfinished = [EOS_ID not in ids_A[:count].tolist() for ids_A, count in answers]
    assert values["unfinished_answers"] == np.mean(unfinished) and 0 < np.mean(unfinished) < 1
    is_right = [str(count) in right for _, count in answers]
    lengths, of_right = decoded.num_thoughts_B, decoded.num_thoughts_B[is_right]
    assert values["length"] == lengths.mean() and values["accuracy"] == np.mean(is_right)
    assert values["length/right"] == pytest.approx(of_right.mean()) and of_right.mean() != lengths.mean()


def test_what_is_told_of_updates():
    """The gap before the first one, how far the policy had gone by the last, and of all else the mean."""

    def update(state, batch):
        names = ("gap/latent", "log_ratio/latent", "lost/latent", "ratio/latent")
        return state + 1, {name: Metric(np.float32(state), np.float32(1)) for name in names}

    _, metrics, _ = learner(three_of_four, never).iterate(5.0, lambda state: policy()[1], update, 0)
    values = divide(metrics)
    told = {name: value for name, value in values.items() if name.endswith("/latent") or name == "updates"}
    assert told == {"updates": 2, "gap/latent": 5, "log_ratio/latent": 6, "lost/latent": 6, "ratio/latent": 5.5}


def test_questions_are_asked_again_until_enough_groups_teach_something():
    """Two of four do; the second draw of the same four has rollouts of its own."""
    one = learner(by_turns, never, redraws=3)
    drawn = one._draw(policy()[1], 0)
    assert len(drawn) == 2 and [judged.informative_Q.sum() for judged in drawn] == [2, 2]
    first, second = (np.sort(judged.decoded.thoughts[:, 0, 0]) for judged in drawn)
    assert not np.isin(first, second).any()
    one = learner(by_turns, never, redraws=3)
    state, metrics, num_chains = one.iterate(0, lambda state: policy()[1], counted, 0)
    values = divide(metrics)
    assert (state, num_chains, values["redraws"], values["updates"], values["zero_variance"]) == (2, 32, 1, 2, 0.5)


def test_of_more_groups_than_were_wanted_the_first_are_learned_from():
    """Three of four teach something, and three more when they are asked again: those of the first, and one."""
    lengths = []

    def update(state, batch):
        lengths.extend(batch.prompt_lengths_B.tolist())
        return counted(state, batch)

    one = learner(three_of_four, never, redraws=3)
    state, metrics, num_chains = one.iterate(0, lambda state: policy()[1], update, 0)
    values = divide(metrics)
    assert (state, num_chains, values["redraws"], values["zero_variance"]) == (2, 32, 1, 0.25)
    of_first = {len(PROMPTS[question]) + 1 for question in (1, 2, 3)}  # a speed's token is in them
    assert len(lengths) == 4 and set(lengths) == of_first


def test_asking_again_has_an_end():
    one = learner(lambda *arguments: [1.0] * 16, never, redraws=2)
    state, metrics, num_chains = one.iterate(0, lambda state: policy()[1], None, 0)
    values = divide(metrics)
    assert (state, num_chains, values["redraws"], values["updates"]) == (0, 48, 2, 0)


@pytest.mark.slow
def test_the_weight_of_lengths_follows_the_budget_and_is_remembered():
    def one():
        return learner(by_turns, never, length_credit="penalty", length_weight=0.5, budget=2.0, budget_rate=0.1)

    whole, halted = one(), one()
    for iteration in range(3):
        _, metrics, _ = whole.iterate(0, lambda state: policy()[1], counted, iteration)
    assert 0.5 < divide(metrics)["length_weight"] < whole.length_weight.value
    halted.iterate(0, lambda state: policy()[1], counted, 0)
    resumed = one()
    resumed.recall(json.loads(json.dumps(halted.memory())))
    for iteration in (1, 2):
        resumed.iterate(0, lambda state: policy()[1], counted, iteration)
    assert resumed.memory() == whole.memory()
    resumed.recall({"questions": halted.memory()["questions"]})  # of a version before budgets
    assert resumed.length_weight.value == 0.5


@pytest.mark.slow
def test_rollouts_do_not_depend_on_how_many_are_decoded_at_a_time():
    whole = next(part for _, part in sampler().run(policy()[1], PROMPTS, jax.random.key(1)))
    parts = [part for _, part in sampler(batch_size=3).run(policy()[1], PROMPTS, jax.random.key(1))]
    assert [len(part.num_thoughts_B) for part in parts] == [3 * G, G]
    np.testing.assert_array_equal(np.concatenate([part.num_thoughts_B for part in parts]), whole.num_thoughts_B)
    np.testing.assert_array_equal(np.concatenate([part.answer_ids_BA for part in parts]), whole.answer_ids_BA)


def by_question_and_length(problems, answers, num_latents):
    """No two groups, and no two lengths of one, are worth the same."""
    return [100.0 ** int(problem.question) * length for problem, length in zip(problems, num_latents, strict=True)]


@pytest.mark.parametrize("per_group", [1, 2])
def test_a_rollout_has_its_own_reward_as_advantage(per_group):
    """In whatever order groups are gone through: prompt and length say what it has to be."""
    one = learner(by_question_and_length, never, advantage="dr_grpo", speeds_per_group=per_group)
    judged = ask(one)
    question_of = {tuple(prompt[:-1]): question for question, prompt in enumerate(PROMPTS)}  # without the separator
    num_seen = 0
    for batch in one._minibatches(judged, 0):
        for row in np.flatnonzero(batch.prompt_lengths_B > 1):  # the others are empty
            question = question_of[tuple(batch.prompt_ids_BP[row, : batch.prompt_lengths_B[row] - 2])]
            lengths_G = batch.num_thoughts_BG[row]
            expected_G = 100.0**question * (lengths_G - lengths_G.mean())
            np.testing.assert_allclose(batch.advantages_BG[row], expected_G, rtol=1e-5)
            num_seen += 1
    assert num_seen == 4 * per_group


def test_prompts_say_speeds_as_often_as_the_recipe_does():
    """One listed twice, twice as often; "auto" in so many of all."""
    recipe = Recipe((5.0, 2.0, 5.0), auto_probability=0.25)
    one = learner(never, never, recipe, num_generations=2, speeds_per_group=1)
    said = collections.Counter()
    with unittest.mock.patch.object(one.questioner.sampler, "run", side_effect=StopIteration) as run:
        for iteration in range(300):
            with pytest.raises(StopIteration):
                ask(one, iteration)
            said.update(prompt.ids[-3:-1].tolist()[-1] for prompt in run.call_args.args[1])
    shares = {ending: count / 1200 for ending, count in said.items()}
    assert shares == pytest.approx({1: 0.25, 2: 0.25, 5: 0.5}, abs=0.05)


def test_several_speeds_in_a_group():
    one = learner(by_turns, never, speeds_per_group=4, centre="group")
    judged = ask(one)
    endings = np.array([prompt.ids[-2] for prompt in judged.prompts]).reshape(4, 4)
    assert set(endings.ravel()) == {2, 5} and any(len(set(of_group)) == 2 for of_group in endings)
    assert len(judged.prompts) == len(judged.decoded.num_thoughts_B) == 16 and judged.advantages_QG.shape == (4, 4)
    (batch,) = one._minibatches(judged, 0)
    assert batch.prompt_ids_BP.shape[0] == 8
    np.testing.assert_allclose(batch.advantages_BG.reshape(2, 4).sum(axis=1), 0, atol=1e-5)


def test_a_stage_whose_first_step_was_imported_remembers_nothing():
    GrpoTrainer.recall(object.__new__(GrpoTrainer), {})


def test_a_run_that_goes_on_remembers_what_its_questions_and_its_policy_did():
    def trainer(looks: int) -> GrpoTrainer:
        health, one = Health("rl", RlConfig(), min_latents=1, dtype="float32"), learner(by_turns, never)
        for step in range(1, looks + 1):
            health.look(step, {"accuracy": 0.5, "length": 4.0, "forced_stops": 0.95, "zero_variance": 0.3})
            one.stream.draw(4)
        return GrpoTrainer(None, one, health, step=None)

    memory = trainer(looks=25).memory()
    assert memory["questions"]["position"] == 100 and memory["health"]["warned"] == {"long": 21}
    resumed = trainer(looks=0)
    assert resumed.memory() != memory
    resumed.recall(json.loads(json.dumps(memory)))
    assert resumed.memory() == memory
    assert resumed._health.memory() == memory["health"] and resumed._health.best == pytest.approx(0.5)
