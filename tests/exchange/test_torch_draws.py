"""What the PyTorch file of an exported folder draws, against our decoder: at the run's temperatures."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from exchange.thinking_alike import torch_file_of
from exchange.tiny_run import given_run
from scipy.special import expit, softmax

from colar_jax.decoding.decisions import stop_log_odds
from colar_jax.decoding.sampling import nucleus
from colar_jax.exchange import folder as exported
from colar_jax.exchange.folder import export_stage
from colar_jax.settings import DecodeConfig

torch = pytest.importorskip("torch")

COLD = dict.fromkeys(("latent_temperature", "stop_temperature", "answer_temperature"), 1e-4)
DECODE = DecodeConfig(
    latent_temperature=0.5, min_latent_std=0.8, stop_temperature=0.7, stop_odds_temperature=2.0,
    answer_temperature=0.6, top_p=0.7,
)  # fmt: skip
LOGITS = np.array([1.0, 0.4, 0.2, -0.3, -1.0], np.float32)
NUM_DRAWS = 4000


def draws_of(decode: DecodeConfig | None, **sampling):
    """As the file makes them of a folder's settings."""
    module = torch_file_of(Path(exported.__file__).parent)
    asked = module.Sampling(greedy=False, generator=torch.Generator().manual_seed(0), **sampling)
    return module, module.Draws.of({"decode": None if decode is None else dataclasses.asdict(decode)}, asked)


def test_tokens_are_drawn_as_ours():
    _, draws = draws_of(DECODE)
    drawn = [draws.token(torch.tensor(LOGITS), draws.answer_temperature) for _ in range(NUM_DRAWS)]
    expected = softmax(np.asarray(nucleus(jnp.array([LOGITS / 0.6]), 0.7))[0])
    assert 0 in expected
    np.testing.assert_allclose(np.bincount(drawn, minlength=5) / NUM_DRAWS, expected, atol=0.03)


def test_stops_are_drawn_as_ours():
    module, draws = draws_of(DECODE)
    log_odds = module._log_odds(torch.tensor(LOGITS) / draws.stop_temperature, 1)
    ours = float(stop_log_odds(jnp.array(LOGITS / 0.7), 1))
    assert float(log_odds) == pytest.approx(ours, abs=1e-5)
    share = np.mean([draws.stop(log_odds) for _ in range(NUM_DRAWS)])
    assert share == pytest.approx(expit(ours / 2), abs=0.03)


@pytest.mark.parametrize("noise", ["two_sided", "one_sided"])
def test_latents_are_drawn_as_ours(noise):
    _, draws = draws_of(dataclasses.replace(DECODE, latent_noise=noise))
    drawn = draws.latent(torch.full((NUM_DRAWS, 2), 3.0), torch.tensor([0.1, 1.0])).numpy() - 3
    assert (drawn.min() >= 0) == (noise == "one_sided")
    np.testing.assert_allclose(np.sqrt(np.mean(drawn**2, axis=0)), [0.5 * 0.8, 0.5 * 1.0], rtol=0.05)


def test_what_a_question_is_asked_with_takes_the_place_of_the_runs():
    _, draws = draws_of(DECODE, temperature=0.3, top_p=0.2)
    assert (draws.latent_temperature, draws.stop_temperature, draws.answer_temperature) == (0.3, 0.3, 0.3)
    assert (draws.top_p, draws.stop_odds_temperature, draws.min_latent_std) == (0.2, 2.0, 0.8)
    _, of_before = draws_of(None)
    assert (of_before.answer_temperature, of_before.top_p) == (1.0, 0.9)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["colar", "cot", "adaptive"])
def test_a_folder_is_sampled_at_the_temperatures_of_its_run(stage, tmp_path):
    """Next to 0 a draw is the greedy choice."""
    run, _ = given_run(tmp_path / "run", stages=(stage,), greedy_stop="argmax")
    folder = export_stage(run, "", tmp_path / "out")
    facts = json.loads((folder / "thinking.json").read_text())
    module, question = torch_file_of(folder), run.tests["arithmetic"].problems[0].question

    def answers(**decode):
        (folder / "thinking.json").write_text(json.dumps(facts | {"decode": facts["decode"] | decode}))
        reasoner = module.LatentReasoner.load(folder)
        generators = (torch.Generator().manual_seed(seed) for seed in range(4))
        sampled = [module.Sampling(greedy=False, generator=generator) for generator in generators]
        said = [reasoner.answer(question, sampling=one) for one in (module.GREEDY, *sampled)]
        return {(one.num_latents, one.reasoning, *one.answer_ids) for one in said}

    assert len(answers(**COLD)) == 1 < len(answers())
