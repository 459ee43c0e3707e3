"""The explicit class, tiny: own chains, dropped steps and rewards of words, from one chain of thought."""

import dataclasses
import runpy
from pathlib import Path

import numpy as np
import pytest

from colar_jax.config import OnResume, resolve
from colar_jax.data.arithmetic import generate_problems
from colar_jax.data.json_lines import read_problems
from colar_jax.data.prompts import steps_text
from colar_jax.decoding.decoder import Decoded
from colar_jax.errors import UserError
from colar_jax.metric_writer import read_metrics
from colar_jax.runs import own_chains, pipeline
from colar_jax.runs.identity import changes_since, identity_of
from colar_jax.runs.learned import training_set
from colar_jax.runs.run import prepare
from colar_jax.runs.starts import adopt

pytestmark = pytest.mark.slow

CONFIG_FILE = Path(__file__).parents[2] / "configs" / "explicit.py"
TINY = {
    "run": "cot,judge,concise,dropped,short_rl",
    "data.train": "arithmetic:max_number=9,max_change=5,min_steps=1,max_steps=2,max_reflections=2",
    "data.train_limit": 24,
    "data.num_val": 4,
    "data.num_test": 4,
    "eval.seeds": 0,
    "stages.cot.steps": 2,
    "stages.dropped.dropped_steps.like": "concise",
    "stages.concise.concise.num_problems": 24,
    "stages.concise.concise.num_chains": 3,
}


def config_of(workdir, **overrides):
    config = runpy.run_path(str(CONFIG_FILE))["get_config"]("smoke")
    config.update_from_flattened_dict(TINY | {"workdir": str(workdir)} | overrides)
    return resolve(config)


def chains_of(run, texts: list[list[str]]):
    """A sampler whose rollouts say these chains and then the answer 3, whatever is asked."""
    tokenizer = run.tokenizer

    class Says:
        def __init__(self, *_, **__):
            pass

        def run(self, parameters, prompts, key, at=None):
            flat = [chain for of_one in texts[: len(prompts)] for chain in of_one]
            ids = [tokenizer.encode(chain) for chain in flat]
            thoughts = np.zeros((len(flat), 64), np.int32)
            for row, of_chain in zip(thoughts, ids, strict=True):
                row[: len(of_chain)] = of_chain
            answer = [*tokenizer.encode("Answer:3"), tokenizer.eos_id]
            answers = np.tile(np.int32(answer), (len(flat), 1))
            counts = np.array([len(of_chain) for of_chain in ids])
            forced = np.array([chain.startswith("<<2") for chain in flat])
            nothing = np.zeros((len(flat), 0))
            yield (
                slice(0, len(prompts)),
                Decoded(thoughts, nothing, nothing, counts, forced, answers, answers, np.full(len(flat), len(answer))),
            )

    return Says


def test_the_shortest_right_chain_of_each_problem_is_learned(tmp_path, monkeypatch):
    run = prepare(config_of(tmp_path / "run"))
    adopt(run, "cot", run.initial_parameters())
    texts = [["<<1+2=3>>\nSo 3.\nWait, <<1+2=3>>\nSo 3.", "<<1+2=3>>\nSo 3.", "<<2+1=3>>"]] * 24  # the last is cut
    monkeypatch.setattr(own_chains, "Sampler", chains_of(run, texts))
    monkeypatch.setattr(own_chains, "start_parameters", lambda *_: None)
    learned = training_set(run, "concise")
    right = [problem.question for problem in run.train_problems if problem.answer == "3"]
    assert 0 < len(right) < 24 and [problem.question for problem in learned.problems] == right
    assert {problem.steps for problem in learned.problems} == {("<<1+2=3>>", "So 3.")}
    kept = read_problems(tmp_path / "run" / "concise" / "own_chains.jsonl")
    assert kept == list(learned.problems), "a file that can be trained on elsewhere"
    monkeypatch.setattr(own_chains, "Sampler", None)  # it is not sampled again
    assert [problem.question for problem in training_set(run, "concise").problems] == right
    other = dataclasses.replace(run, config=config_of(tmp_path / "run", **{"stages.concise.concise.num_chains": 2}))
    with pytest.raises(TypeError, match="not callable"):  # but for other settings it would be
        training_set(other, "concise")

    # A dropped stage that goes on knows of which chains it has learned; other stages know of none.
    identity, chains = identity_of(run, "dropped"), tmp_path / "run" / "concise" / "own_chains.jsonl"
    assert "data.chains" not in identity_of(run, "concise") | identity_of(run, "cot")
    lines = chains.read_text().splitlines(keepends=True)
    chains.write_text("".join(lines[1:]))
    (change,) = changes_since(identity, run, "dropped")
    assert change.name == "data.chains" and change.on_resume is OnResume.BINDS
    chains.write_text("".join(lines))
    assert not changes_since(identity, run, "dropped")
    del identity["data.chains"]  # a checkpoint of before
    assert not changes_since(identity, run, "dropped")

    dropped = training_set(run, "dropped")
    assert [problem.question for problem in dropped.problems] == right
    wanted = len(run.tokenizer.encode("<<1+2=3>>\nSo 3."))
    whole = {problem.question: problem.steps for problem in run.train_problems}
    lengths = [len(run.tokenizer.encode(steps_text(problem.steps))) for problem in dropped.problems]
    assert np.mean(lengths) == pytest.approx(wanted, rel=0.2) and all(
        abs(length - wanted) <= wanted / 2 for length in lengths
    )
    for problem in dropped.problems:
        rest = iter(whole[problem.question])
        assert all(step in rest for step in problem.steps), "in their order"


def test_what_cannot_be_learned_is_one_line(tmp_path, monkeypatch):
    run = prepare(config_of(tmp_path / "run"))
    with pytest.raises(UserError, match=r"dropped_steps.like='concise': there is no .*own_chains.jsonl"):
        training_set(run, "dropped")
    adopt(run, "cot", run.initial_parameters())
    monkeypatch.setattr(own_chains, "Sampler", chains_of(run, [["<<2+1=3>>"] * 3] * 24))
    monkeypatch.setattr(own_chains, "start_parameters", lambda *_: None)
    with pytest.raises(UserError, match="none of the chains that .*cot thinks ends in the right answer"):
        training_set(run, "concise")


def test_random_steps_are_dropped_to_a_share(tmp_path):
    run = prepare(config_of(tmp_path / "run", **{"stages.dropped.dropped_steps.like": ""}))
    dropped = training_set(run, "dropped")
    assert len(dropped) == 24
    shares = dropped.step_lengths / run.train.step_lengths
    assert min(shares) < 0.5 < max(shares) and shares.mean() == pytest.approx(0.5, abs=0.1)
    firsts = {
        problem.steps[:1] == whole.steps[:1]
        for problem, whole in zip(dropped.problems, run.train_problems, strict=True)
    }
    assert firsts == {True, False}, "not always the last ones"


def test_words_are_trained_by_rewards(tmp_path):
    settings = {"run": "cot,short_rl", "eval.trim.verifier": "", "stages.short_rl.init_from": "cot"}
    pipeline.train(config_of(tmp_path / "run", **settings))
    lines = read_metrics(tmp_path / "run" / "short_rl")
    assert {"val/reward", "reward", "length"} <= {name for line in lines for name in line}
    for line in lines:
        assert line.get("gap/answer", 0) < 1e-3 and "gap/latent" not in line
        assert 0 <= line.get("length", 0) <= 12


def test_generated_chains_fit_the_configs():
    problems = generate_problems("train", 50, max_number=20, max_change=9, min_steps=2, max_steps=4, max_reflections=6)
    assert all(problem.steps[-1] == f"So {problem.answer}." for problem in problems)
