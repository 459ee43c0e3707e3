"""An exported choice of speeds: what it chose is said, what it learned from is known, and PyTorch's file refuses it."""

import jax
import numpy as np
import pytest
from exchange.thinking_alike import torch_file_of
from exchange.tiny_run import larger
from pipeline.tiny import tiny_config_dict

import colar_jax
from colar_jax.config import resolve, stage_defaults
from colar_jax.errors import UserError
from colar_jax.exchange.folder import export_stage
from colar_jax.runs.run import prepare
from colar_jax.runs.starts import adopt

pytestmark = pytest.mark.slow
GRID = (1.0, 2.5, 4.0)


@pytest.fixture(scope="module", params=["sft", "grpo"])
def chosen(request, tmp_path_factory):
    """A run whose stage `auto` learns with a trainer, and the stage's exported folder."""
    workdir = tmp_path_factory.mktemp("own_speed")
    config = tiny_config_dict(workdir / "run", run="cot,colar,auto")
    for name in ("colar", "rl"):
        config.stages[name].latent.update(speeds="1..6", conditioning="number")
    config.stages.auto = stage_defaults(method="own_speed", trainer=request.param, init_from="colar", steps=3)
    config.stages.auto.own_speed.grid = ",".join(map(str, GRID))
    if request.param == "grpo":
        config.stages.auto.rl.speeds_per_group = 2
    run = prepare(resolve(config))
    parameters = larger(jax.device_get(run.initial_parameters()))
    for name in ("colar", "auto"):
        adopt(run, name, parameters)
    return request.param, run, export_stage(run, "auto", workdir / "out")


def test_what_it_chose_is_said(chosen):
    _, run, folder = chosen
    questions = [problem.question for problem in run.train_problems[:12]]
    of_run, of_folder = colar_jax.load(run.workdir, stage="auto"), colar_jax.load(folder)
    answers = of_run.generate(questions)
    assert {answer.speed for answer in answers} <= set(GRID)
    assert [answer.speed for answer in of_folder.generate(questions)] == [answer.speed for answer in answers]
    *_, done = of_run.stream(questions[3])
    assert done.answer.speed == answers[3].speed and answers[3].as_json()["speed"] == f"{answers[3].speed:g}"
    told = colar_jax.load(run.workdir, stage="colar").generate(questions[:2], speed=2.5)
    assert [answer.speed for answer in told] == [2.5, 2.5]


def test_a_certainty_is_of_labels_alone(chosen):
    trainer, _, folder = chosen
    settings = {"decode.speed_certainty": 0.9}
    if trainer == "sft":
        assert np.isfinite(colar_jax.load(folder, settings=settings).generate("Eva has 5 pens.").token_log_probs).all()
        return
    with pytest.raises(UserError, match="which learns its choice of a speed from rewards"):
        colar_jax.load(folder, settings=settings)


def test_the_torch_file_says_so_before_it_loads_anything(chosen, monkeypatch, capsys):
    pytest.importorskip("torch")
    folder = chosen[2]
    torch_file = torch_file_of(folder)
    monkeypatch.setattr(torch_file.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.setattr("sys.argv", ["colar_torch.py", "Eva has 5 pens.", "--folder", str(folder)])
    with pytest.raises(SystemExit):
        torch_file.main()
    assert "error: " in (said := capsys.readouterr().err) and "chooses its own speed" in said
