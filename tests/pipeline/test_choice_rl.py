"""A whole run in which the choice of a speed is learned from rewards, tiny: stopped, it goes on to the same end."""

import jax
import numpy as np
import pytest
from pipeline.tiny import saved_by, tiny_config_dict, untimed_metrics

import colar_jax
from colar_jax.config import resolve, stage_defaults
from colar_jax.errors import UserError
from colar_jax.exchange.folder import export_stage
from colar_jax.rl import grpo
from colar_jax.runs import pipeline
from colar_jax.runs.run import prepare
from colar_jax.runs.starts import finished_parameters
from colar_jax.training.checkpoints import Checkpoints

pytestmark = pytest.mark.slow

ITERATIONS = 4
GRID = "1,2,4"


def config_of(workdir, run="cot,colar,auto,auto_rl", conditioning="number", **rl_stage):
    config = tiny_config_dict(workdir, run=run)
    for name in ("colar", "rl"):
        config.stages[name].latent.update(speeds="1..6", conditioning=conditioning)
    for name in ("cot", "colar"):
        config.stages[name].update(steps=2, eval_every=0, save_every=0)
    config.stages.auto = stage_defaults(method="own_speed", init_from="colar", steps=2, rows=2, log_every=1)
    config.stages.auto.own_speed.update(grid=GRID, num_labelled=8)
    config.stages.auto_rl = stage_defaults(
        method="own_speed", trainer="grpo", init_from="auto", steps=ITERATIONS, log_every=2, save_every=1
    )
    stage = config.stages.auto_rl
    stage.own_speed.update(grid=GRID)
    stage.optimizer.learning_rate = 1e-2
    stage.rl.update(num_questions=3, num_generations=6, speeds_per_group=3, minibatch_size=6, num_iterations=2)
    # No answer of a model that was never trained is right.
    stage.rl.update(
        reward="pico_rewards:fewer_latents_and_longer_answers",
        length_credit="cost",
        budget=3.0,
        beta=0.1,
        stop_on_collapse=False,
    )
    config.update_from_flattened_dict({f"stages.auto_rl.{name}": value for name, value in rl_stage.items()})
    config.eval.update(speeds="2", seeds=0)
    return resolve(config)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run that was never stopped. Not to be changed."""
    workdir = tmp_path_factory.mktemp("choice") / "run"
    return workdir, pipeline.train(config_of(workdir))


def test_the_head_alone_learns_and_its_price_follows_the_budget(finished):
    workdir, results = finished
    run = prepare(config_of(workdir))
    before, after = (finished_parameters(run, workdir / name) for name in ("auto", "auto_rl"))
    for name, part in before.items():
        is_same = [np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (part, after[name])), strict=True)]
        assert all(is_same) == (name != "speed_choice") and (name != "speed_choice" or not any(is_same)), name
    lines = untimed_metrics(workdir / "auto_rl")
    first = lines[0]
    assert first["gap/choice"] < 1e-4 and "gap/latent" not in first and 0 < first["choice_entropy"] <= np.log(3) + 1e-5
    assert 1 <= first["chosen_speed"] <= 4 and first["forward_passes"] > 3
    assert first["updates"] > 0 and np.isfinite(first["kl/choice"])
    assert lines[-2]["length_weight"] > 0.5, "there were more passes than wanted"
    (auto,) = [result for result in results if result.stage == "auto_rl"]
    assert auto.method == "own_speed" and auto.speed == "-"


def test_a_run_that_breaks_off_goes_on_to_the_same_end(finished, tmp_path, monkeypatch):
    """In an update after its first save, before its last."""
    whole, config = finished[0], config_of(tmp_path / "run", run="auto_rl", init_from=str(finished[0] / "auto"))
    make, taken = grpo.make_policy_step, []

    def breaking(*arguments):
        step = make(*arguments)

        def counting(*of_step):
            taken.append(int(of_step[0].step))
            if len(taken) == 8:  # at most three groups in one minibatch each, twice an iteration
                raise KeyboardInterrupt
            return step(*of_step)

        return counting

    with monkeypatch.context() as patch:
        patch.setattr(grpo, "make_policy_step", breaking)
        with pytest.raises(KeyboardInterrupt):
            pipeline.train(config)
    with Checkpoints(tmp_path / "run" / "auto_rl" / "checkpoints") as checkpoints:
        assert 0 < checkpoints.latest_step() < ITERATIONS
    pipeline.train(config)
    ours, expected = (saved_by(workdir / "auto_rl", ITERATIONS) for workdir in (tmp_path / "run", whole))
    assert ours == expected
    assert untimed_metrics(tmp_path / "run" / "auto_rl") == untimed_metrics(whole / "auto_rl")


def test_the_whole_model_learns_where_that_is_asked_for(finished, tmp_path):
    workdir = tmp_path / "run"
    settings = {"own_speed.learns": "all", "init_from": str(finished[0] / "auto"), "steps": 1}
    settings["optimizer.learning_rate"] = 1e-5
    config = config_of(workdir, run="auto_rl", **settings)
    pipeline.train_stage(prepare(config), "auto_rl")
    (line, _) = untimed_metrics(workdir / "auto_rl")
    assert all(line[f"gap/{kind}"] < 1e-4 for kind in ("latent", "decision", "answer", "choice"))
    run = prepare(config)
    before = finished_parameters(run, finished[0] / "auto")
    after = finished_parameters(run, workdir / "auto_rl")
    for name in ("llama", "latent_head", "speed", "speed_choice"):
        assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (before[name], after[name])), strict=True)), (
            name
        )


def test_an_exported_folder_answers_as_the_run_does(finished, tmp_path):
    """Its latent head is that of the stage that it started from."""
    workdir, _ = finished
    questions = [problem.question for problem in next(iter(prepare(config_of(workdir)).tests.values())).problems]
    folder = export_stage(prepare(config_of(workdir)), "auto_rl", tmp_path / "out")
    answers = [
        [(answer.text, answer.num_latents) for answer in colar_jax.load(str(where), **of).generate(questions)]
        for where, of in ((workdir, {"stage": "auto_rl"}), (folder, {}))
    ]
    assert answers[0] == answers[1]


def test_labels_do_not_teach_the_whole_model(finished, tmp_path):
    config = config_of(
        tmp_path / "run", run="auto_rl", trainer="sft", init_from=str(finished[0] / "colar"),
        **{"own_speed.learns": "all"},
    )  # fmt: skip
    with pytest.raises(UserError, match="own_speed.learns='all' needs trainer='grpo'"):
        pipeline.train_stage(prepare(config), "auto_rl")


def test_a_group_of_one_speed_has_nothing_to_compare(finished, tmp_path):
    settings = {"init_from": str(finished[0] / "auto"), "rl.speeds_per_group": 1}
    with pytest.raises(UserError, match=r"stages.auto_rl.rl.speeds_per_group=1: a group in which one speed is chosen"):
        pipeline.train_stage(prepare(config_of(tmp_path / "run", run="auto_rl", **settings)), "auto_rl")


def test_a_source_that_is_told_in_text_is_refused(finished, tmp_path):
    pipeline.train(config_of(tmp_path / "run", run="colar", conditioning="text"))
    config = config_of(tmp_path / "run", run="colar,auto_rl", conditioning="text", init_from="colar")
    with pytest.raises(UserError, match=r"stages.auto_rl: .* is of latent.conditioning='text'"):
        pipeline.train_stage(prepare(config), "auto_rl")
