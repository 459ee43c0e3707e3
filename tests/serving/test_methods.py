"""Every method that decodes is served, and says what `generate` says; what it does not have is refused."""

import dataclasses

import numpy as np
import pytest
from cases import fast
from serving.served import PLAN, QUESTIONS, serving, tiny_thinker

from colar_jax.errors import UserError
from colar_jax.serving.server import Deployment, refuse_what_cannot_be_served

METHODS = [
    ("cot", {}),
    ("no_cot", {}),
    ("icot", {}),
    ("coconut", {}),
    ("coconut", {"rescale": True}),
    ("codi", {}),
    ("codi", {"projection": 16}),
    ("latent_sft", {}),
    ("adaptive", {"projection": 16}),
]
CHOICES = {"latent_sft": ("thinking_speed", "max_latents"), "adaptive": ("max_latents",)}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "model"), fast(METHODS, ("codi", {"projection": 16})))
def test_a_method_says_what_generate_says(tmp_path, method, model):
    thinker = tiny_thinker(tmp_path, method, **model)
    thoughts = thinker.run.thinking(method).max_thoughts
    sizes = dataclasses.replace(PLAN.sizes, max_thoughts=max(thoughts, 1))
    with serving(thinker, dataclasses.replace(PLAN, sizes=sizes)) as served:
        for wishes in ({}, {"temperature": 0.8, "seed": 4}):
            expected = thinker.generate(QUESTIONS, **wishes)
            choices = served.complete(QUESTIONS, logprobs=0, **wishes)["choices"]
            for choice, answer in zip(choices, expected, strict=True):
                assert (choice["text"], choice["num_thoughts"]) == (answer.text, answer.num_thoughts)
                assert choice["forced_stop"] == answer.forced_stop
                assert choice.get("reasoning", "") == answer.reasoning
                log_probs = choice["logprobs"]["token_logprobs"]
                np.testing.assert_allclose(log_probs, answer.token_log_probs, rtol=1e-3, atol=1e-3)
            assert len({choice["text"] for choice in choices}) > 1
        for field, value in (("thinking_speed", 2), ("max_latents", 2)):
            reply = served.post("/v1/completions", prompt=QUESTIONS[0], **{field: value})
            if field in CHOICES.get(method, ()):
                assert reply.status_code == 200
            else:
                assert reply.status_code == 400 and reply.json()["error"]["param"] == field


def test_a_stage_that_has_to_think_longer_than_the_server_allows(tmp_path):
    thinker = tiny_thinker(tmp_path, "coconut")
    sizes = dataclasses.replace(PLAN.sizes, max_thoughts=2)
    with pytest.raises(UserError, match="--max_latents=2: the stage thinks 6 times"):
        serving(thinker, dataclasses.replace(PLAN, sizes=sizes)).__enter__()


def test_several_processes_and_split_heads_are_refused(tmp_path, monkeypatch):
    thinker = tiny_thinker(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("jax.process_count", lambda: 2)
        with pytest.raises(UserError, match="2 processes"):
            refuse_what_cannot_be_served(thinker)
    refuse_what_cannot_be_served(thinker)


@pytest.mark.slow
@pytest.mark.parametrize("timeline", ["tokens", "latents"])
def test_a_speed_is_chosen_as_generate_chooses_it(tmp_path, timeline):
    thinker = tiny_thinker(tmp_path, "own_speed", own_speed={"grid": "1,2,4", "timeline": timeline})
    with serving(thinker) as served:
        expected = thinker.generate(QUESTIONS)
        choices = served.complete(QUESTIONS)["choices"]
        for choice, answer in zip(choices, expected, strict=True):
            assert (choice["text"], choice["num_thoughts"]) == (answer.text, answer.num_thoughts)
            assert choice["thinking_speed"] == answer.speed
        assert len({choice["thinking_speed"] for choice in choices}) > 1
        reply = served.post("/v1/completions", prompt=QUESTIONS[0], thinking_speed=2)
        assert reply.status_code == 400 and reply.json()["error"]["param"] == "thinking_speed"


def test_a_speed_that_changes_in_mid_chain_is_refused(tmp_path):
    thinker = tiny_thinker(tmp_path, "own_speed", own_speed={"timeline": "tokens", "mid_chain": True})
    with pytest.raises(UserError, match="stage own_speed changes its speed in mid-chain, which the server does not do"):
        refuse_what_cannot_be_served(thinker)


@pytest.mark.parametrize("method", ["pccot", "kava"])
def test_latents_that_are_made_all_at_once_are_refused(tmp_path, method):
    with pytest.raises(UserError, match=f"stage {method} makes all its latents at once, and a server's slots"):
        refuse_what_cannot_be_served(tiny_thinker(tmp_path, method, projection=16))


def test_latents_without_their_question_are_refused(tmp_path):
    thinker = tiny_thinker(tmp_path)
    decode = dataclasses.replace(thinker.decode, latents_see_question=False)
    with pytest.raises(UserError, match="latents_see_question=False is for evaluating"):
        refuse_what_cannot_be_served(type("Thinker", (), {"decode": decode}))


def test_positions_that_the_model_cannot_compute_are_said_before_anything_is_compiled(tmp_path, monkeypatch):
    """As those of a sliding window that is shorter than a slot."""
    thinker, longest = tiny_thinker(tmp_path), PLAN.sizes.rooms[-1]

    def check_reach(self, positions: int) -> None:
        if positions >= longest:
            raise UserError(f"a pass over {positions} is asked for")

    monkeypatch.setattr(type(thinker.run.model.llama), "check_reach", check_reach)
    with pytest.raises(UserError, match="a pass over"):
        Deployment(thinker, PLAN)
